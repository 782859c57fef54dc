"""The code of the served models. Triton's Python backend runs each model in a process of its own.

The model repository has one `model.py` per model, which imports the class `TritonPythonModel` from here.
"""
