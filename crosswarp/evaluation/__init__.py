"""Evaluation of a run on test records, and the methods that it compares."""
