"""The bits per weight of a matrix in each precision. This module imports nothing, so computing model sizes needs no torch."""

BITS = {
    "fp64": 64,
    "fp32": 32,
    "bf16": 16,
    "fp16": 16,
    "sparse24": 9,
    "sparse24_int8": 5,
    "fp8": 8,
    "fp8_e5m2": 8,
    "w8a8": 8,
    "int8": 8,
    "int4": 4.5,
}
"""The bits per weight of a matrix in each precision. In int4, 32 weights share a float16 scale.

In sparse24 and sparse24_int8, half of the weights are kept, with 16 or 8 bits each, and each group of four weights has 4 bits
of indices."""
