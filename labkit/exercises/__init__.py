"""The exercises of the course: for each one the statement, the inputs, the right answers and the known mistakes.

Checks nothing itself.
"""
