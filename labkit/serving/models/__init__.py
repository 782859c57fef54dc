"""The served models: what Triton's Python backend runs, each in a process of its own.

A model repository holds a `model.py` of one line for each, `from labkit.serving.models.NAME import TritonPythonModel`.
"""
