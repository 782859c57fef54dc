"""Decides which sequences the next step computes and which cache slots they hold, without using tensors or the model."""
