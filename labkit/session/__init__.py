"""The pre-flight for a course session: what a machine can run, how long its set-up takes, and the same for a room."""
