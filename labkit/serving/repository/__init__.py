"""Describes the tensors and configurations of the served models, writes the model repository, and checks any repository."""
