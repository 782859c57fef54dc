"""Drawings that explain ideas of the labs. The drawings show no measurements: every number in them belongs to an example."""
