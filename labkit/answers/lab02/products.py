"""The answers to exercises 2.7 and 2.8: references, comparisons and known mistakes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.kernel_guard import OutsideTensor
from labkit.exercises.lab02.products import FUSED_LINEAR_GELU, INT8_PRODUCT
from labkit.ops.gelu import gelu
from labkit.ops.linear_gelu import linear_gelu_reference

ROOT = 0.7978845608
"""sqrt(2 / pi)."""

ROWS, COLUMNS = 16, 32
"""The number of rows and columns of a tile in exercise 2.7."""


# 2.7 ------------------------------------------------------------------------------------------------------------------
def _by_sigmoid(total: Tensor, twice: float = 2.0, cube: bool = True) -> Tensor:
    inner = total + 0.044715 * (total**3 if cube else total)
    return total * torch.sigmoid(twice * ROOT * inner)


def _no_tile_mask(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if len(x) % ROWS or len(weight) % COLUMNS:
        raise OutsideTensor("a program accesses memory past the end of a tensor")
    return linear_gelu_reference(x, weight, bias)


FUSED_LINEAR_GELU_ANSWER = Answer(
    exercise=FUSED_LINEAR_GELU,
    reference=linear_gelu_reference,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "You use the exact GELU, with erf. GPT-J was trained with the tanh form, which differs in the fourth digit.",
            lambda x, w, b: F.gelu(F.linear(x, w, b)),
        ),
        Mistake("The bias must be added before the GELU, not after it.", lambda x, w, b: gelu(F.linear(x, w)) + b),
        Mistake("The bias is missing.", lambda x, w, b: gelu(F.linear(x, w))),
        Mistake(
            "The argument of sigmoid must be twice the argument of tanh; yours is not doubled.",
            lambda x, w, b: _by_sigmoid(F.linear(x, w, b), twice=1.0),
        ),
        Mistake("The cubic term of the GELU is missing.", lambda x, w, b: _by_sigmoid(F.linear(x, w, b), cube=False)),
        Mistake("The activation is missing.", F.linear),
        Mistake(
            "You return only the sigmoid: gelu(z) is z times the sigmoid.",
            lambda x, w, b: torch.sigmoid(2 * ROOT * (F.linear(x, w, b) + 0.044715 * F.linear(x, w, b) ** 3)),
        ),
        Mistake("The last tile extends past the end of the rows or columns: mask both.", _no_tile_mask),
    ),
)


# 2.8 ------------------------------------------------------------------------------------------------------------------
def int8_product(x: Tensor, values: Tensor, scales: Tensor, rows: int = 32, block: int = 256) -> Tensor:
    """The reference solution of exercise 2.8. The result does not depend on `rows` and `block`, the sizes of a tile."""
    return F.linear(x, values.float() * scales[:, None])


def _scaled_in_loop(x: Tensor, values: Tensor, scales: Tensor, rows: int, block: int) -> Tensor:
    total = torch.zeros(len(x), len(values), device=x.device)
    for begin in range(0, x.shape[1], block):
        total = (total + F.linear(x[:, begin : begin + block], values[:, begin : begin + block].float())) * scales
    return total


def _last_block(x: Tensor, values: Tensor, scales: Tensor, rows: int, block: int) -> Tensor:
    begin = (x.shape[1] - 1) // block * block
    return int8_product(x[:, begin:], values[:, begin:], scales)


def _no_mask(x: Tensor, values: Tensor, scales: Tensor, rows: int, block: int) -> Tensor:
    if len(values) % rows or x.shape[1] % block:
        raise OutsideTensor("a program accesses memory past the end of a tensor")
    return int8_product(x, values, scales)


def _rows_of(change: Any) -> Any:
    def faulty(x: Tensor, values: Tensor, scales: Tensor, rows: int, block: int) -> Tensor:
        answer: Tensor = change(x, values, scales)
        return answer

    return faulty


INT8_PRODUCT_ANSWER = Answer(
    exercise=INT8_PRODUCT,
    reference=int8_product,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "The scales are missing: multiply each row's sum by its scale.", _rows_of(lambda x, v, s: F.linear(x, v.float()))
        ),
        Mistake(
            "You scale the inputs, but each scale belongs to an output row.",
            _rows_of(lambda x, v, s: F.linear(x * s[: x.shape[1]], v.float())),
        ),
        Mistake(
            "You divide by the scale, but the weight is scale times value.",
            _rows_of(lambda x, v, s: F.linear(x, v.float()) / s),
        ),
        Mistake("You scale the running sum in every block; scale it only once, after the loop.", _scaled_in_loop),
        Mistake("You return only the sum of the last block; the sums of all blocks must be added up.", _last_block),
        Mistake(
            "Every token gets the answer of token 0: your addresses of the input do not depend on the token.",
            _rows_of(lambda x, v, s: int8_product(x[:1].expand_as(x), v, s)),
        ),
        Mistake(
            "You do not mask the rows or the inputs past the end.",
            _no_mask,
        ),
    ),
)

ANSWERS = (FUSED_LINEAR_GELU_ANSWER, INT8_PRODUCT_ANSWER)
