"""The models of lab 04. They run in Triton's Python backend and call a learner's function. Only the module `batched` may import
torch.
"""
