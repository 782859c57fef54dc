"""Beam search: the beams of a request, the tree of their tokens, and the choice of the next tokens."""
