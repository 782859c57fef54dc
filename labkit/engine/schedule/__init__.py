"""Decides which sequences the next step computes, and which cache slots they hold. Uses no tensors and no model."""
