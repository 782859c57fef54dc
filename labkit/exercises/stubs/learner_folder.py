"""Where a model keeps the functions that learners gave it."""

FOLDER = "functions"
"""In a model's version folder: a file a function, named by the digest of its text."""
