"""The pre-flight for a course session.

It finds out what a machine, or a room of machines, can run, and how long the set-up takes.
"""
