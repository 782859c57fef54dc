"""Drawings that explain an idea of a lab. The drawings show no measurements: every number in them belongs to an example."""
