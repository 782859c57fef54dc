"""Marks of tokens, one bit each. Marks say which tokens a text already holds, and which tokens may not come next."""

IN_PROMPT = 1
"""The prompt holds the token."""
GENERATED = 2
"""The token was generated after the prompt."""
STOP = 4
"""The token ends the text."""
BANNED = 8
"""The token must not be generated."""
