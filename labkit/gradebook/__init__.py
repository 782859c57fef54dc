"""Grades a class: collects the notebooks of all learners, checks them in several processes, keeps and exports the results."""
