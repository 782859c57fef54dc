"""The name of the folder in which a model keeps the functions of learners."""

FOLDER = "functions"
"""This folder is in a model's version folder. It has one file per function; the file's name is the digest of its text."""
