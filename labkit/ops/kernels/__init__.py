"""The operations as Triton kernels, one a file: the kernel, what it is launched with, and the launcher.

A launcher `<op>_triton` takes the arguments of the operation `<op>`. Operations import these modules when they first
meet a GPU tensor, since importing Triton takes a second; where Triton is not installed they still import.
"""
