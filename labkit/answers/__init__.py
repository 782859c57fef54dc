"""The answers to the exercises: references, comparisons and known mistakes.

No module of labkit imports this package by name, so labkit works without it. `labkit.grading.find_answer` finds it if it is
installed.
"""
