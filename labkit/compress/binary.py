"""Quantization to one bit per weight: every weight becomes plus or minus the mean magnitude of its group.

The idea to keep only signs comes from M. Courbariaux et al.: BinaryConnect (2015), https://arxiv.org/abs/1511.00363. The scale
comes from M. Rastegari et al.: XNOR-Net (2016), https://arxiv.org/abs/1603.05279: the product a * sign(w) is closest to w if a
= mean|w|.
"""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.checkpoints.integer_weight import IntegerScheme, IntegerWeight
from labkit.compress.scales import check_group_size

STORED_BITS = 2
"""The files store -1 and 1 in two bits, because a signed integer of one bit cannot represent 1."""


def to_signs(weight: Tensor, scheme: IntegerScheme) -> IntegerWeight:
    """Quantize a dense `[out, in]` matrix to signs with one scale for each group of `scheme`, which must have two bits.

    Raises `InvalidRequest` for a group size that does not divide the number of inputs.
    """
    check_group_size(scheme, weight.shape[1], "a matrix")
    groups = weight.float().view(weight.shape[0], scheme.groups(weight.shape[1]), -1)
    values = torch.where(weight < 0, -1, 1).to(torch.int8)
    return IntegerWeight(scheme, values, groups.abs().mean(-1).to(torch.float16))
