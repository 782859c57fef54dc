"""Exercise 2.3, the first kernel: GPT-J's sum of three tensors and the layer norm after it, in one pass."""

from __future__ import annotations

import torch

from labkit.exercises.case import Case
from labkit.exercises.contracts import KernelContract, Part
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab02.draws import Draws, guarded
from labkit.plurals import counted

ARGUMENTS = ("residual", "attention", "mlp", "weight", "bias", "epsilon")


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
    """Three large numbers in half precision that nearly cancel each other: the sum of two of them is rounded by 1 or 2, and the
    sum of all three is below 30.

    Which two of the three numbers can be added exactly depends on the column.
    """
    tokens, size = 3, 90
    large = torch.tensor([1536.0, 2560.0, -4096.0])[:, None, None]
    steps = torch.tensor([1.0, 2.0, 4.0])[:, None, None]  # the distance between neighbouring numbers in half precision
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
    # Any part of a row with an even number of elements has the same mean as the row.
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
        "launch, with one program for each token. Then finish the kernel, which adds two of the three tensors. All sums are in "
        "float32. Specification:\n\n```python\n"
        "hidden = attention + mlp + residual\nnormed = F.layer_norm(hidden, (hidden.shape[1],), weight, bias, epsilon)\n```\n\n$$y = \\frac{x - "
        "\\mu}{\\sqrt{\\sigma^2 + \\epsilon}}\\, w + b \\qquad \\sigma^2 = \\tfrac1n \\sum (x - \\mu)^2$$"
    ),
    points=15,
    minutes=30,
    difficulty=3,
    core=True,
    cases=_cases,
    hints=(
        "Each program handles one row, as in the example. The block can be longer than the row. What do the columns past the "
        "end of the row hold, and in which sums must they not count?",
        "tl.sum reduces a block to one number: use it for the mean, then for the squares of the elements minus the mean. The "
        "weight and the bias have one row, which all tokens share.",
        "Columns that the mask leaves out must not count in the squares: centred = tl.where(inside, x - mean, 0.0).",
    ),
    requires=("triton",),
    seconds=40.0,
    contract=KernelContract(
        ARGUMENTS,
        reads=lambda case: [Part(name, tensor) for name, tensor in zip(ARGUMENTS[:5], case.args, strict=False)],
        stores=lambda case, value: [Part("hidden", value[0]), Part("normed", value[1])],
        programs=lambda case: (len(case.args[0]),) * 2,
        each="token",
    ),
)
EXERCISES = (FUSED_RESIDUAL_LAYER_NORM,)
