"""Looks a hand-written model repository over: what is wrong in a `config.pbtxt`, in which line, and what to do."""
