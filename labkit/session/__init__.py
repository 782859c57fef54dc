"""The pre-flight check for a course session.

It finds out which labs a machine or a room of machines can run, and how long the set-up takes.
"""
