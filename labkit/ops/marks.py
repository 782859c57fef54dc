"""Marks of tokens, one bit each: what a text holds so far, and what may not come next."""

IN_PROMPT = 1
"""Mark of a token that the prompt holds."""
MADE = 2
"""Mark of a token that was generated after the prompt."""
STOP = 4
"""Mark of a token that ends the text."""
BANNED = 8
"""Mark of a token that must not be made."""
