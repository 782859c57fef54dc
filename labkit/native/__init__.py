"""The CPU kernels in C++ (src/), called through a plain C interface and not linked against torch.

This package knows tensors and packed weights but no models: `labkit.model.native_forward` runs a whole GPT-J with it.
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
