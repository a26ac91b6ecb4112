"""Trained runs as zips: packaging, and verification of what comes from others."""
