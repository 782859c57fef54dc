"""Contains the CPU kernels, written in C++ (src/). Python calls them through a plain C interface, without linking to torch.

This package handles tensors and packed weights, but no models: `labkit.model.native_forward` uses it to run a whole GPT-J.
"""

from labkit.native.library import (
    advise_large_pages,
    available,
    instruction_set,
    trim_heap,
    use_instruction_set,
    warn_once,
    why_not,
)

__all__ = ["advise_large_pages", "available", "instruction_set", "trim_heap", "use_instruction_set", "warn_once", "why_not"]
