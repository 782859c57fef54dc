"""Builds what learners of a course session get: notebooks, an environment, and a labkit without its answers."""
