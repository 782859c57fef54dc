"""Exercises 2.7 and 2.8: bias and GELU are applied to a product before it is written to memory, and a weight takes a quarter of
its bytes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.contracts import KernelContract, Part
from labkit.exercises.exercise import Exercise, Mistake
from labkit.exercises.kernel_guard import OutsideTensor
from labkit.exercises.lab02.draws import Draws, guarded
from labkit.ops.gelu import gelu
from labkit.ops.linear_gelu import linear_gelu_reference
from labkit.plurals import counted
from labkit.weight_formats import Int8Weight

ROOT = 0.7978845608
"""sqrt(2 / pi)."""

ROWS, COLUMNS = 16, 32
"""The tile of exercise 2.7."""


# 2.7 ------------------------------------------------------------------------------------------------------------------
def _by_sigmoid(total: Tensor, twice: float = 2.0, cube: bool = True) -> Tensor:
    inner = total + 0.044715 * (total**3 if cube else total)
    return total * torch.sigmoid(twice * ROOT * inner)


def _gelu_cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    cases = []
    rows = [(5, 70, 40), (1, 1, 3), (16, 64, 32), (draws.pick.randrange(17, 30), draws.pick.randrange(33, 60), 50)]
    for tokens, outs, size in rows:
        weight = draws.normal(outs, size, scale=0.9 * size**-0.5)
        arguments = draws.normal(tokens, size), weight, draws.normal(outs, scale=0.5)
        cases.append(Case(f"{counted(tokens, 'token')}, {size} in, {outs} out", arguments))
    return cases


def _no_tile_mask(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if len(x) % ROWS or len(weight) % COLUMNS:
        raise OutsideTensor("a program accesses memory after the end of a tensor")
    return linear_gelu_reference(x, weight, bias)


FUSED_LINEAR_GELU = Exercise(
    name="lab02.fused_linear_gelu",
    lab="02",
    number="2.7",
    title="Bias and GELU as an epilogue",
    function="fused_linear_gelu",
    statement=(
        "`product_tile` returns a tile `[ROWS, COLUMNS]` of $x W^T$, which is still in registers. Add the bias of each "
        "column, apply GPT-J's GELU, store the tile with a mask, and launch a grid that covers all tiles. `tl` has no tanh; "
        "$\\tfrac12 (1 + \\tanh u) = \\text{sigmoid}(2u)$.\n\n$$\\text{gelu}(z) = \\tfrac12\\, z\\, (1 + "
        "\\tanh(\\sqrt{2/\\pi}\\,(z + 0.044715\\, z^3)))$$"
    ),
    points=10,
    minutes=20,
    difficulty=3,
    cases=_gelu_cases,
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
    hints=(
        "Which rows and columns of the output does this program compute? Compute column from program_id(1) in the same way as "
        "row is computed from program_id(0).",
        "On the tile, add the bias as a row, [None, :], then multiply by the sigmoid. Only the "
        "load of the bias and the store need masks. For a tile, combine the row and the column mask with &.",
        "The argument of the sigmoid: 2 * 0.7978845608 * (z + 0.044715 * z * z * z).",
    ),
    requires=("triton",),
    seconds=40.0,
    contract=KernelContract(
        ("x", "weight", "bias"),
        reads=lambda case: [Part(name, tensor) for name, tensor in zip(("x", "weight", "bias"), case.args, strict=True)],
        stores=lambda case, value: [Part("the answer", value)],
        most_stores=1,
        each="tile",
    ),
)


# 2.8 ------------------------------------------------------------------------------------------------------------------
def int8_product(x: Tensor, values: Tensor, scales: Tensor, rows: int = 32, block: int = 256) -> Tensor:
    """The reference for exercise 2.8. The result does not depend on `rows` and `block`, the sizes of a tile."""
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
        raise OutsideTensor("a program accesses memory after the end of a tensor")
    return int8_product(x, values, scales)


def _int8_cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    wide = draws.pick.randrange(70, 100)
    cases = []
    for tokens, outs, size, rows, block in (
        (1, 50, 40, 16, 32),
        (3, 64, 64, 32, 16),
        (2, wide + 9, wide, 32, 64),
        (1, 3, 1, 4, 16),
    ):
        weight = Int8Weight.quantize(draws.normal(outs, size, scale=draws.pick.uniform(0.5, 2)).cpu())
        values, scales = guarded(weight.values), guarded(weight.scales)
        label = f"{counted(tokens, 'token')}, {size} in, {outs} out, tiles of {rows} x {block}"
        cases.append(Case(label, (draws.normal(tokens, size), values, scales, rows, block)))
    return cases


def _rows_of(change: Any) -> Any:
    def faulty(x: Tensor, values: Tensor, scales: Tensor, rows: int, block: int) -> Tensor:
        answer: Tensor = change(x, values, scales)
        return answer

    return faulty


INT8_PRODUCT = Exercise(
    name="lab02.int8_product",
    lab="02",
    number="2.8",
    title="A weight in a quarter of its bytes",
    function="int8_product",
    statement=(
        "The weight is stored as `values` `[out, in]` in int8 with one scale per row, `scales` `[out]`; it stands for $s_o "
        "v_{oi}$. Each program computes `ROWS` outputs of one token. The program loads int8 values in blocks of `BLOCK` "
        "inputs (at most `ROWS` x `BLOCK` values per load), multiplies in float32 and adds up. Multiply the sum by the scale "
        "once, at the end. The dense weight never exists.\n\n$$y_o = s_o \\sum_i v_{oi}\\, x_i$$"
    ),
    points=10,
    minutes=25,
    difficulty=3,
    cases=_int8_cases,
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
            "You do not mask the rows or the inputs after the end.",
            _no_mask,
        ),
    ),
    hints=(
        "The kernel is like product_tile, but for one token: start with ROWS totals of 0 in float32, and loop over the inputs.",
        "In each turn, load a block of x and a tile of values [ROWS, BLOCK], convert the tile to float32, multiply, and add "
        "tl.sum over the inputs to the totals. Multiply by the scales after the loop.",
        "The addresses of the tile are values + row[:, None] * SIZE + k[None, :].",
    ),
    requires=("triton",),
    seconds=40.0,
    contract=KernelContract(
        ("x", "values", "scales", "rows", "block"),
        reads=lambda case: [Part(name, tensor) for name, tensor in zip(("x", "values", "scales"), case.args, strict=False)],
        stores=lambda case, value: [Part("the answer", value)],
        programs=lambda case: (-(-len(case.args[1]) // case.args[3]) * len(case.args[0]),) * 2,
        each="token and ROWS outputs",
        tile=lambda case: {"values": case.args[3] * case.args[4]},
    ),
)

EXERCISES = (FUSED_LINEAR_GELU, INT8_PRODUCT)
