"""Drawings that explain an idea of a lab. They show no measurement: every number in them belongs to an example."""
