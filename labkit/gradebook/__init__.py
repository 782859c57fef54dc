"""Grades a class: collects the notebooks of all learners, checks them in several processes, and stores and exports the
results."""
