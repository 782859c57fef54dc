"""Checks model repositories: says what is wrong in a `config.pbtxt`, on which line, and what to do."""
