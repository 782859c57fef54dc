"""The served models: what Triton's Python backend runs, each in a process of its own.

A model repository holds a `model.py` for each, which imports its `TritonPythonModel`.
"""
