"""Exercises 2.7 and 2.8: a matrix product whose bias and GELU are applied before it is written to memory, and a product whose
weight is stored in a quarter of its bytes.
"""

from __future__ import annotations

from labkit.exercises.case import Case
from labkit.exercises.contracts import KernelContract, Part
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab02.draws import Draws, guarded
from labkit.plurals import counted
from labkit.weight_formats import Int8Weight


# 2.7 ------------------------------------------------------------------------------------------------------------------
def _gelu_cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    cases = []
    rows = [(5, 70, 40), (1, 1, 3), (16, 64, 32), (draws.pick.randrange(17, 30), draws.pick.randrange(33, 60), 50)]
    for tokens, outs, size in rows:
        weight = draws.normal(outs, size, scale=0.9 * size**-0.5)
        arguments = draws.normal(tokens, size), weight, draws.normal(outs, scale=0.5)
        cases.append(Case(f"{counted(tokens, 'token')}, {size} in, {outs} out", arguments))
    return cases


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
        "once, at the end. Never build the dense weight.\n\n$$y_o = s_o \\sum_i v_{oi}\\, x_i$$"
    ),
    points=10,
    minutes=25,
    difficulty=3,
    cases=_int8_cases,
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
