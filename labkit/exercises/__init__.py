"""The exercises of the course. Each exercise has a statement, inputs, right answers and known mistakes.

Checking a learner's answer is the work of another package, `labkit.grading`.
"""
