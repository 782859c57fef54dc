"""Searches the files of a release for answers: code and texts from the references, the known mistakes and the solved cells."""
