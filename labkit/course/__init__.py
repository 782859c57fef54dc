"""Builds what learners of a course session get: notebooks, an environment, and a copy of labkit without the answers."""
