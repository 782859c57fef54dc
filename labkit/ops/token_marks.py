"""Marks of tokens, one bit each: which tokens a text holds so far, and which may not come next."""

IN_PROMPT = 1
"""The prompt holds the token."""
GENERATED = 2
"""The token was generated after the prompt."""
STOP = 4
"""The token ends the text."""
BANNED = 8
"""The token must not be generated."""
