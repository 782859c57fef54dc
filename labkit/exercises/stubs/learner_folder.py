"""The name of the folder in which a model keeps the functions of learners."""

FOLDER = "functions"
"""The folder is in a model's version folder. It has one file for each function. The file's name is the digest of its text."""
