"""Exercise 2.3, the first kernel: GPT-J's sum of three tensors and the layer norm after it, in one pass."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.contracts import KernelContract, Part
from labkit.exercises.exercise import Exercise, Mistake
from labkit.exercises.kernel_guard import OutsideTensor
from labkit.exercises.lab02.draws import Draws, guarded
from labkit.plurals import counted

Pair = tuple[Tensor, Tensor]
ARGUMENTS = ("residual", "attention", "mlp", "weight", "bias", "epsilon")


def _block(size: int) -> int:
    return 1 << max(0, size - 1).bit_length()


def _norm(hidden: Tensor, weight: Tensor, bias: Tensor, epsilon: float, **wrong: Any) -> Tensor:
    """A layer norm. Each option makes one part of it wrong. If the value of an option is a function, the function gets the
    hidden size.

    The layer norm is computed in float64, because `F.layer_norm` in float32 is wrong by a thousandth where the mean is large.
    """
    x, size = hidden.float() if wrong.get("of_squares") else hidden.double(), hidden.shape[-1]
    mean = x.sum(-1, keepdim=True) / wrong.get("mean_over", int)(size)
    squares = (x - mean).square().sum(-1, keepdim=True)
    if wrong.get("of_squares"):
        squares = x.square().sum(-1, keepdim=True) - size * mean.square()
    squares = squares + wrong.get("padded", _nothing)(size) * mean.square()
    variance = squares / wrong.get("variance_over", int)(size)
    scale = 1 / (variance.sqrt() + epsilon) if wrong.get("epsilon_is") == "outside" else (variance + epsilon).rsqrt()
    normed: Tensor = (x - mean) * scale * weight + bias
    return normed.to(hidden.dtype)


def _nothing(size: int) -> int:
    return 0


def _padding(size: int) -> int:
    return _block(size) - size


def residual_layer_norm(residual: Tensor, attention: Tensor, mlp: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Pair:
    """The reference of exercise 2.3."""
    return _faulty(residual, attention, mlp, weight, bias, epsilon)


def _unmasked(residual: Tensor, attention: Tensor, mlp: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Pair:
    if _block(residual.shape[1]) != residual.shape[1]:
        raise OutsideTensor("a program reads memory after the end of a tensor")
    return residual_layer_norm(residual, attention, mlp, weight, bias, epsilon)


def _faulty(
    residual: Tensor, attention: Tensor, mlp: Tensor, weight: Tensor, bias: Tensor, epsilon: float, **wrong: Any
) -> Pair:
    """What a kernel with some mistakes returns; the options, those of `_norm` and `in_half`, name the mistakes.

    `in_half` says which sums are computed in the dtype of the arguments: "the three" tensors only, or "all".
    """
    hidden = attention + mlp + residual
    if not wrong.get("in_half"):
        hidden = (attention.double() + mlp.double() + residual.double()).to(hidden.dtype)
    squares = hidden.double().square().sum(-1)
    if wrong.get("in_half") == "all" and float(squares.max()) > torch.finfo(hidden.dtype).max:  # The sum becomes infinite.
        return hidden, torch.full_like(hidden, torch.nan)
    return hidden, _norm(hidden, weight, bias, 0.0 if wrong.get("epsilon_is") == "missing" else epsilon, **wrong)


def _wrong(**options: Any) -> Any:
    """A wrong function that `Mistake.together` can combine with another wrong function."""
    return partial(_faulty, **options)


def _swapped(residual: Tensor, attention: Tensor, mlp: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Pair:
    hidden, normed = residual_layer_norm(residual, attention, mlp, weight, bias, epsilon)
    return normed, hidden


def _no_residual(residual: Tensor, attention: Tensor, mlp: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Pair:
    return residual_layer_norm(torch.zeros_like(residual), attention, mlp, weight, bias, epsilon)


def _no_other(residual: Tensor, attention: Tensor, mlp: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Pair:
    hidden, normed = residual_layer_norm(residual, attention, mlp, weight, bias, epsilon)
    return hidden, normed if _block(hidden.shape[1]) == hidden.shape[1] else torch.full_like(hidden, torch.nan)


def _weight_by_place(residual: Tensor, attention: Tensor, mlp: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Pair:
    if len(residual) > 1:
        raise OutsideTensor("the weight of the second row is read after the end of the weight tensor")
    return residual_layer_norm(residual, attention, mlp, weight, bias, epsilon)


def _cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    odd = draws.pick.choice([33, 65, 129]) + draws.pick.randrange(30)
    rows = [
        (3, 100, 1e-5, False),
        (2, 64, 0.3, False),
        (1, 37, 0.2, False),
        (4, odd, 0.4, False),
        (2, 1000 + draws.pick.randrange(20), 1e-5, True),
        (2, 1100 + draws.pick.randrange(900), 1e-5, False),
        (1, 8200 + draws.pick.randrange(900), 0.3, False),  # For some of these sizes, a fixed BLOCK is too short.
    ]
    cases = []
    # In half precision the values are large, so that their sums and squares exceed 65504.
    for tokens, size, epsilon, half in rows:
        dtype, scale = (torch.float16, 40.0) if half else (torch.float32, 0.5)
        three = [draws.normal(tokens, size, dtype=dtype, scale=scale) for _ in range(3)]
        three[1] += (2.5 if half else 0.4) * scale  # The mean of these rows is not zero.
        parameters = draws.normal(size, dtype=dtype), draws.normal(size, dtype=dtype)
        cases.append(Case(f"{counted(tokens, 'token')} of {size}, {dtype}, epsilon {epsilon}", (*three, *parameters, epsilon)))
    return [*cases, _large_mean(draws), _small_sums(draws)]


def _small_sums(draws: Draws) -> Case:
    """Three large numbers in half precision that nearly cancel each other: a sum of two of them is rounded by 1 or 2, and the sum
    of all three is below 30.

    Which two of them can be added exactly depends on the column.
    """
    tokens, size = 3, 90
    large = torch.tensor([1536.0, 2560.0, -4096.0])[:, None, None]
    steps = torch.tensor([1.0, 2.0, 4.0])[:, None, None]  # the distance of neighbouring numbers in half precision
    parts = large + steps * torch.stack([draws.permutation(tokens * size).view(tokens, size).cpu() % 5 - 2 for _ in range(3)])
    order = torch.arange(size) % 3
    three = [guarded(parts.roll(shift, 0).half()[order, :, torch.arange(size)].T) for shift in range(3)]
    parameters = draws.normal(size, dtype=torch.float16), draws.normal(size, dtype=torch.float16)
    return Case(f"{tokens} tokens of {size}, torch.float16, large numbers with small sums", (*three, *parameters, 1e-5))


def _large_mean(draws: Draws) -> Case:
    """Rows with mean 4096. Each element differs from the mean by 0.25.

    In float32 all sums in this case are exact in any order, with one exception: 0.25 squared is lost when it is added to 4096
    squared.
    """
    # Parts of a row with an even number of elements have the same mean.
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(1, 32)
    mlp = guarded(0.25 * signs)
    residual, attention = (guarded(torch.full_like(mlp, value)) for value in (1000.0, 3096.0))
    arguments = residual, attention, mlp, draws.normal(64), draws.normal(64), 1e-5
    return Case("2 tokens of 64 with a mean of 4096, epsilon 1e-05", arguments)


FUSED_RESIDUAL_LAYER_NORM = Exercise(
    name="lab02.fused_residual_layer_norm",
    lab="02",
    number="2.3",
    title="Residual sum and layer norm in one pass",
    function="fused_residual_layer_norm",
    statement=(
        "A block of GPT-J ends with a sum of three tensors, and the next block begins with a layer norm of this sum. Write the "
        "kernel, with one program for each token, and its launch. All sums are in float32. Specification:\n\n```python\n"
        "hidden = attention + mlp + residual\nnormed = F.layer_norm(hidden, (hidden.shape[1],), weight, bias, epsilon)\n```\n\n$$y = \\frac{x - "
        "\\mu}{\\sqrt{\\sigma^2 + \\epsilon}}\\, w + b \\qquad \\sigma^2 = \\tfrac1n \\sum (x - \\mu)^2$$"
    ),
    points=15,
    minutes=60,
    difficulty=3,
    cases=_cases,
    reference=residual_layer_norm,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "You do not mask the last columns: a block is a power of two and extends past the end of the row. Every load and "
            "store needs a mask.",
            _unmasked,
        ),
        Mistake(
            "You divide the variance by BLOCK, but the row has size elements.",
            _wrong(variance_over=_block),
        ),
        Mistake(
            "Columns that the mask leaves out hold 0, and 0 - mean is not 0, so they add to your variance.",
            _wrong(padded=_padding),
        ),
        Mistake("You divide the mean by BLOCK, but the row has size elements.", _wrong(mean_over=_block)),
        Mistake("You add epsilon to the root, but it belongs under the root.", _wrong(epsilon_is="outside")),
        Mistake(
            "You divide the variance by size - 1, but layer norm divides it by size.",
            _wrong(variance_over=lambda size: size - 1),
        ),
        Mistake("The residual is missing from your sum.", _no_residual),
        Mistake("In half precision your sums overflow: compute them in float32.", _wrong(in_half="all")),
        Mistake(
            "You add the three tensors in half precision, which rounds their sum: convert each one to float32 before you add.",
            _wrong(in_half="the three"),
        ),
        Mistake("You exchanged hidden and normed: the sum comes first, then its layer norm.", _swapped),
        Mistake(
            "Elements that a mask leaves out are undefined (NaN here) unless the load gives them a value, and your sums "
            "contain them.",
            _no_other,
        ),
        Mistake("epsilon is missing; it belongs under the root.", _wrong(epsilon_is="missing")),
        Mistake(
            "weight and bias have only one row, which all tokens share, but you add the offset of the token's row to their "
            "addresses.",
            _weight_by_place,
        ),
        Mistake(
            "You compute the variance as the mean of x * x, minus mean * mean. Where the mean is large, both terms are huge, "
            "and their difference loses its digits: subtract the mean first, then square.",
            _wrong(of_squares=True),
        ),
    ),
    hints=(
        "Each program handles one row, as in the example. It loads the row as one block, with a mask for the columns that "
        "exist. At which address does a row begin?",
        "Load the three blocks with other=0.0, add them in float32, store the sum. tl.sum reduces a block to one number: "
        "use it for the mean, then for the squares of the elements minus the mean.",
        "Columns that the mask leaves out must not count in the squares: centred = tl.where(inside, x - mean, 0.0).",
    ),
    requires=("triton",),
    seconds=40.0,
    names={"[0]": "hidden", "[1]": "normed"},
    contract=KernelContract(
        ARGUMENTS,
        reads=lambda case: [Part(name, tensor) for name, tensor in zip(ARGUMENTS[:5], case.args, strict=False)],
        stores=lambda case, value: [Part("hidden", value[0]), Part("normed", value[1])],
        programs=lambda case: (len(case.args[0]),) * 2,
        each="token",
    ),
)

EXERCISES = (FUSED_RESIDUAL_LAYER_NORM,)
