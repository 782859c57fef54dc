"""Decides which sequences the next step computes and which cache slots they hold. Knows no tensors and no model."""
