"""Grades a class: collects all notebooks, checks them in several processes, and stores and exports the results."""
