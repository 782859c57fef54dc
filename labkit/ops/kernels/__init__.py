"""Implements the operations as Triton kernels. Each file has a kernel, its block sizes, and the function that launches it.

The launcher `<op>_triton` takes the arguments of the operation `<op>`. Importing Triton takes a second, so an operation
imports its kernel when it first gets a GPU tensor. The modules of this package can also be imported where Triton is not
installed.
"""
