"""The answers to the exercises: references, comparisons and known mistakes.

Only code that judges answers imports this package. A process in which a learner's function is graded does not have it.
"""
