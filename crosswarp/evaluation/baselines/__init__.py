"""Other ways to register the same pairs, for the evaluation to compare with.

Each is a class with the methods of :class:`crosswarp.evaluation.methods.RegistrationMethod`, in a module
of its own, so that a package that is missing leaves out nothing else. ``configs/baselines/`` holds a config
of each.
"""
