"""Quantized and sparse weights: how a matrix is rounded to int8, int4 or FP8, or pruned to 2:4, and stored.

Each format is in its own file. This package rounds each number to the nearest number of the format, which needs no data. Better
rounding methods (calibrated, trained) store their results in the same formats, because kernels read no other formats. Some
formats (`RoundedInputsWeight`) also round the activations, so that the matrix multiplication itself runs in 8 bits. These
formats are faster when many tokens share a weight (prefill, large batches). The other formats are faster when reading weights
takes most of the time. They do not require rounded activations, but for int8, int4 and sparse24_int8 the native CPU kernels
round short groups of activations to int8, so that they multiply integers.
"""

from labkit.weight_formats.fp8 import Fp8Weight
from labkit.weight_formats.fp8_e5m2 import Fp8E5M2Weight
from labkit.weight_formats.int4 import INT4_LARGEST, Int4Weight
from labkit.weight_formats.int8 import Int8Weight
from labkit.weight_formats.quantized_weight import CpuParts, QuantizedWeight, RowScaledWeight
from labkit.weight_formats.rounded_inputs import (
    FP8_MAX,
    INT8_MAX,
    RoundedInputsWeight,
    quantize_rows_fp8,
    quantize_rows_int8,
)
from labkit.weight_formats.sparse24 import Sparse24Weight
from labkit.weight_formats.sparse24_int8 import Sparse24Int8Weight
from labkit.weight_formats.w8a8 import W8A8Weight

_ALL: tuple[type[QuantizedWeight], ...] = (
    Int8Weight,
    Int4Weight,
    W8A8Weight,
    Fp8Weight,
    Fp8E5M2Weight,
    Sparse24Weight,
    Sparse24Int8Weight,
)
FORMATS = {each.kind: each for each in _ALL}
"""Every format, by its name."""

__all__ = [
    "FORMATS",
    "FP8_MAX",
    "INT4_LARGEST",
    "INT8_MAX",
    "CpuParts",
    "Fp8E5M2Weight",
    "Fp8Weight",
    "Int4Weight",
    "Int8Weight",
    "QuantizedWeight",
    "RoundedInputsWeight",
    "RowScaledWeight",
    "Sparse24Int8Weight",
    "Sparse24Weight",
    "W8A8Weight",
    "quantize_rows_fp8",
    "quantize_rows_int8",
]
