"""The name of the folder in which a model keeps the functions of learners."""

FOLDER = "functions"
"""It lies in a model's version folder and has one file for each function, named by the digest of its text."""
