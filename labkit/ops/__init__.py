"""The operations a GPT-J is made of: one a file, its torch form the specification that faster kernels must meet.

Every function works on plain tensors over a flat batch of tokens and knows nothing of requests or layers.
"""

from labkit.ops.attention import decode_attention, prefill_attention
from labkit.ops.embedding import embedding
from labkit.ops.gelu import gelu
from labkit.ops.layer_norm import layer_norm
from labkit.ops.linear import linear
from labkit.ops.residual import add_residual
from labkit.ops.rotary import rotary, rotary_table

__all__ = [
    "add_residual",
    "decode_attention",
    "embedding",
    "gelu",
    "layer_norm",
    "linear",
    "prefill_attention",
    "rotary",
    "rotary_table",
]
