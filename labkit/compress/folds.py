"""Folds a division of a layer's inputs into the operation before the layer, without changing the output of a GPT-J.

- q, k, v and fc_in read the same layer norm. Its output is weight * normed + bias for each channel, so dividing weight and bias
  by s divides all four inputs by s. This is exact if the four matrices share s.
- out_proj reads averages of v over tokens. An average is linear, so dividing row c of v_proj by s_c divides channel c of the
  input of out_proj by s_c. This is exact, because a GPT-J has one v channel for each input channel of out_proj, and no bias in
  v.
- fc_out reads GELU(fc_in(x)). GELU(x / s) is not GELU(x) / s, so nothing can be folded. For fc_out, AWQ only searches how
  far to clip each group.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor

from labkit.checkpoints.integer_weight import IntegerWeight


def into_layer_norm(tensors: dict[str, Tensor], factors: Tensor) -> None:
    """Divide the output of a block's layer norm by `factors` `[hidden_size]`.

    `ln_1.weight` and `ln_1.bias` in `tensors` are replaced.
    """
    for name in ("ln_1.weight", "ln_1.bias"):
        tensors[name] = tensors[name] / factors


def into_value_rows(value: IntegerWeight, factors: Tensor) -> IntegerWeight:
    """Divide the rows of a quantized v_proj by `factors` `[out]`. Only the scales change; they are rounded to float16 again."""
    return dataclasses.replace(value, scales=(value.scales.float() / factors[:, None]).to(value.scales.dtype))
