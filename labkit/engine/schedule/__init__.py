"""Decides which sequences the next step computes, and which cache slots they hold. It uses no tensors and no model."""
