"""Marks of tokens, one bit each. Marks say which tokens a text already contains, and which tokens must not come next."""

IN_PROMPT = 1
"""The prompt contains the token."""
GENERATED = 2
"""The token was generated after the prompt."""
STOP = 4
"""The token ends the text."""
BANNED = 8
"""The token must not be generated."""
