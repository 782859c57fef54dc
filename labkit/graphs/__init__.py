"""GPT-J as a graph in ONNX: exported, whole or in parts, run in ONNX Runtime, optimised, and compared with other compilers.

The packages onnx, onnxscript and onnxruntime are in labkit's extra `graphs`. They are imported only by the functions that need
them.
"""
