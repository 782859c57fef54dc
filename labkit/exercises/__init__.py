"""The exercises of the course: each has a statement, inputs, right answers and known mistakes.

This package checks no answers.
"""
