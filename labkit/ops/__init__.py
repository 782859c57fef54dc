"""Defines the operations of GPT-J, one per file. The torch version of an operation is the reference for its faster kernels.

Every function works on plain tensors over a flat batch of tokens and knows nothing about requests or layers.
`use(name=function)` replaces an operation by another function, even while an engine is running.
"""

from labkit.ops.decode_attention import decode_attention
from labkit.ops.embedding import embedding
from labkit.ops.gelu import gelu
from labkit.ops.layer_norm import layer_norm
from labkit.ops.linear import Weight, linear
from labkit.ops.linear_gelu import linear_gelu
from labkit.ops.penalize import penalize
from labkit.ops.prefill_attention import prefill_attention
from labkit.ops.registry import replacements, swapped, use
from labkit.ops.residual_layer_norm import residual_layer_norm
from labkit.ops.rotary import rotary, rotary_table
from labkit.ops.rotary_cache_write import rotary_cache_write
from labkit.ops.sample import sample
from labkit.ops.uniform import uniform
from labkit.weight_formats import Fp8Weight, Int4Weight, Int8Weight, QuantizedWeight, RoundedInputsWeight, W8A8Weight

__all__ = [
    "Fp8Weight",
    "Int4Weight",
    "Int8Weight",
    "QuantizedWeight",
    "RoundedInputsWeight",
    "W8A8Weight",
    "Weight",
    "decode_attention",
    "embedding",
    "gelu",
    "layer_norm",
    "linear",
    "linear_gelu",
    "penalize",
    "prefill_attention",
    "replacements",
    "residual_layer_norm",
    "rotary",
    "rotary_cache_write",
    "rotary_table",
    "sample",
    "swapped",
    "uniform",
    "use",
]
