"""Round to nearest (RTN): every number becomes the nearest value that an integer with its group's scale can represent.

RTN needs no calibration text.
"""

from __future__ import annotations

from torch import Tensor

from labkit.checkpoints.integer_weight import IntegerScheme, IntegerWeight
from labkit.compress.scales import nearest


def round_to_nearest(weight: Tensor, scheme: IntegerScheme) -> IntegerWeight:
    """Quantize a dense `[out, in]` matrix: q = clamp(round(w / scale) + zero), with the scales of `scales.nearest`.

    Raises `InvalidRequest` for a group size that does not divide the number of inputs.
    """
    wide = weight.float()
    return nearest(wide, scheme).round(wide)
