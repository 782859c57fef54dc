"""The name of the folder in which a model keeps the functions of learners."""

FOLDER = "functions"
"""In a model's version folder; it has one file for each function, named by the digest of its text."""
