"""Drawings that explain a lab's geometry. They show no measurement: every number in them is part of the example."""
