"""Builds what the learners of a course get: notebooks, an environment, and a copy of labkit without the answers."""
