"""Checks model repositories: says what is wrong in a `config.pbtxt`, in which line, and what to do."""
