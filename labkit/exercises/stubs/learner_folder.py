"""The name of the folder in which a model keeps the functions of learners."""

FOLDER = "functions"
"""A folder of this name is in a model's version folder. It has one file per function, named after the digest of its text."""
