"""What stands before MONAI Label: a list of the requests that are let through, of which the rest is refused.

``values`` says what a single value may be, ``studies`` which files, ``routes`` which requests have which
fields, ``middleware`` reads a request, holds it to that list and passes on what it understood, written anew.
``server`` puts it before MONAI Label, with the ``devices`` of this machine. Only these three need more than
Python.
"""
