"""GPT-J as an ONNX graph: exports it (whole or in parts), runs it in ONNX Runtime, optimises it, and compares graph compilers.

The packages onnx, onnxscript and onnxruntime are in labkit's extra `graphs`. They are imported only by the functions that need
them.
"""
