"""GPT-J in NVIDIA's Triton Inference Server: the model repository, the server's process, clients and stress tests."""
