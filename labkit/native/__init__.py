"""The CPU kernels in C++ (src/), through a plain C interface; no link against torch.

Knows tensors and packed weights, nothing of models: `labkit.model.native_forward` runs a whole GPT-J in it.
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
