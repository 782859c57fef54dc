"""Serves GPT-J with NVIDIA's Triton Inference Server, and has the model repository, the server, clients and stress tests."""
