"""Searches the files of a release for answers: for code and texts of the references, of known mistakes and of solved cells."""
