"""Fault injection: a miniature chain is killed, its files are damaged, its disk is filled, again and again.

`python -m tests.faults --help`; `make test-long` runs the long form, `test_faults.py` a short one.
"""
