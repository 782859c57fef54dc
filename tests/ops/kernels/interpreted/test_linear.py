"""Linear-layer kernels are compared with float64 matrix products, for every kind of weight and on awkward shapes."""

from __future__ import annotations

import itertools

import pytest
import torch

from labkit import ops
from labkit.errors import NotAvailable
from labkit.ops.kernels.interpreter_traffic import count_traffic
from labkit.ops.kernels.linear import linear_triton, run_plan
from labkit.ops.kernels.linear_few_rows import few_rows_triton
from labkit.ops.kernels.linear_plan import CUBLAS, Plan
from labkit.ops.kernels.linear_plans import plans
from tests.ops.kernels.guard import misaligned
from tests.ops.test_ops import random, relative
from tests.sampled import one_in

QUANTIZED = {
    "int8": ops.Int8Weight.quantize,
    "int4": ops.Int4Weight.quantize,
    "int4 group 8": lambda weight: ops.Int4Weight.quantize(weight, 8),
    "int4 group 128": lambda weight: ops.Int4Weight.quantize(weight, 128),
    "int4 group 6": lambda weight: ops.Int4Weight.quantize(weight, 6),
    "w8a8": ops.W8A8Weight.quantize,
}
SHAPES = [(1, 1, 1), (1, 33, 17), (1, 257, 130), (2, 257, 17), (9, 33, 130), (33, 70, 130), (65, 16, 24), (1, 1, 130)]
"""The number of rows, of inputs and of outputs of each product."""
BOUNDS = {torch.float32: 5e-6, torch.float16: 2e-3}
SMALL = {"BLOCK_OUT": 16, "BLOCK_IN": 64, "num_warps": 4}
ROWS = Plan("few_rows", SMALL | {"BLOCK_ROWS": 8, "PARTS": 1, "num_stages": 2})


def inputs(rows: int, num_in: int, num_out: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return random(rows, num_in), random(num_out, num_in) * num_in**-0.5, random(num_out)


def expected(x: torch.Tensor, weight: ops.Weight, bias: torch.Tensor | None, gelu: bool) -> torch.Tensor:
    """The matrix product in float64 of exactly the numbers that the kernel gets."""
    operation = ops.linear_gelu if gelu else ops.linear
    dense = weight.double() if isinstance(weight, torch.Tensor) else weight
    return operation(x.double(), dense, None if bias is None else bias.double())


@pytest.mark.parametrize("place", one_in(2, [misaligned, torch.clone]))
@pytest.mark.parametrize(("shape", "dtype"), one_in(3, itertools.product(SHAPES, BOUNDS)))
def test_dense(shape: tuple[int, int, int], place, dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]
    x, weight, bias = (place(part.to(dtype)) for part in inputs(*shape))
    for used, gelu in ((None, False), (bias, True)):
        found = linear_triton(x, weight, used, gelu=gelu)
        assert found.dtype == dtype
        assert relative(found, expected(x, weight, used, gelu)) < BOUNDS[dtype]


@pytest.mark.parametrize(
    ("shape", "dtype"),
    one_in(3, [*((shape, torch.float16) for shape in SHAPES), *((shape, torch.float32) for shape in SHAPES[1:4])]),
)
@pytest.mark.parametrize("kind", QUANTIZED)
def test_quantized(shape: tuple[int, int, int], kind: str, dtype: torch.dtype) -> None:
    x, dense, bias = (part.to(dtype) for part in inputs(*shape))
    weight = QUANTIZED[kind](dense)
    x = misaligned(x)
    for used, gelu in ((None, False), (bias, True)):
        found = linear_triton(x, weight, used, gelu=gelu)
        assert found.dtype == dtype
        # The kernel for a single row puts a nibble into the fraction bits of 1.0, which costs four of float32's 24 bits.
        bound = max(BOUNDS[dtype], 3e-5) if "int4" in kind else BOUNDS[dtype]
        assert relative(found, expected(x, weight, used, gelu)) < bound


@pytest.mark.parametrize(("rows", "kind"), one_in(3, itertools.product([1, 16, 64], ["dense", "int8", "int4", "w8a8"])))
def test_every_plan_gives_the_same(kind: str, rows: int) -> None:
    num_in, num_out = 2100, 70  # enough steps for several parts; the last part is shorter
    x, dense, bias = (part.half() for part in inputs(min(rows, 3), num_in, num_out))
    weight = dense if kind == "dense" else QUANTIZED[kind](dense)
    exact = expected(x, weight, bias, True)
    seen = set()
    for arch in (80, 90):
        for label, plan in plans(kind, rows, num_in, num_out, x.dtype, 32 if kind == "int4" else 0, arch).items():
            if label not in seen:
                assert relative(run_plan(plan, x, weight, bias, gelu=True), exact) < 2e-3, label
                seen.add(label)
    assert len(seen) > 4 or (kind, rows) == ("dense", 64)


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_parts_are_added_in_float32(parts: int) -> None:
    x, dense, bias = (part.float() for part in inputs(11, 300, 21))
    config = ROWS.config | {"PARTS": parts}
    weight = ops.Int8Weight.quantize(dense)
    found = few_rows_triton(x, weight.values, None, weight.scales, bias, dtype=x.dtype, gelu=True, config=config)
    assert relative(found, expected(x, weight, bias, True)) < 2e-6


def test_whole_numbers_are_added_exactly() -> None:
    x, weight = (torch.randint(-127, 128, shape, dtype=torch.int8) for shape in ((3, 500), (7, 500)))
    for parts in (1, 4):
        config = ROWS.config | {"PARTS": parts}
        found = few_rows_triton(x, weight, None, None, None, dtype=torch.float32, gelu=False, config=config)
        assert torch.equal(found.long(), x.long() @ weight.long().T)


def test_outliers_survive_where_scales_are_a_rows_own() -> None:
    x, dense, _ = inputs(3, 64, 20)
    x[1] *= 1e4
    dense[5] *= 1e3
    for kind in ("int8", "int4", "w8a8"):
        weight = QUANTIZED[kind](dense)
        found = linear_triton(x.float(), weight)
        for row in range(3):
            assert relative(found[row], expected(x.float(), weight, None, False)[row]) < 3e-5


def test_rows_of_zeros_and_no_rows() -> None:
    weight = ops.W8A8Weight.quantize(random(20, 32))
    x = random(3, 32).float()
    x[1] = 0
    found = linear_triton(x, weight)
    assert bool((found[1] == 0).all())
    assert relative(found, expected(x, weight, None, False)) < 5e-6
    assert linear_triton(x[:0], weight).shape == (0, 20)


def test_a_part_of_a_matrix_and_rows_apart() -> None:
    x, weight = random(2, 80).float(), random(40, 60).float()
    found = linear_triton(x[:, ::2], weight[:, 20:])
    assert relative(found, expected(x[:, ::2], weight[:, 20:], None, False)) < 5e-6


def test_the_weight_is_read_once() -> None:
    """With 1 row and with 8 rows, the kernel reads the weight once and x once for every block of outputs, and writes the result
    once.
    """
    num_in, num_out = 256, 64
    for kind, weight_bytes in (("dense", 2), ("int8", 1), ("int4", 0.5625)):
        weight = random(num_out, num_in).half()
        weight = weight if kind == "dense" else QUANTIZED[kind](weight)
        for rows in (1, 8):
            candidates = plans(kind, rows, num_in, num_out, torch.float16, 32 if kind == "int4" else 0, 80)
            plan = next(iter(candidates.values()))
            x = random(rows, num_in).half()
            with count_traffic() as traffic:
                run_plan(plan, x, weight, None, gelu=False)
            blocks = -(-num_out // plan.config["BLOCK_OUT"])
            scales = 4 * num_out if kind == "int8" else 0
            assert traffic.bytes_read == int(weight_bytes * num_in * num_out) + scales + blocks * 2 * rows * num_in
            assert traffic.bytes_written == 2 * rows * num_out


def test_bfloat16_is_refused_in_the_interpreter() -> None:
    x = torch.ones(1, 32, dtype=torch.bfloat16)
    with pytest.raises(NotAvailable, match="bfloat16 in Triton's interpreter"):
        linear_triton(x, ops.Int8Weight.quantize(torch.ones(4, 32)))


def test_fp8_is_refused_before_it_exists() -> None:
    weight = ops.Fp8Weight.quantize(random(16, 32))
    with pytest.raises(NotAvailable, match=r"compute capability 8\.9 or above; this one has 8\.0: quantize to int8"):
        linear_triton(random(2, 32).float(), weight)


def test_the_library_takes_many_rows() -> None:
    x, dense, bias = (part.float() for part in inputs(70, 48, 32))
    for kind in ("dense", "int8", "int4", "w8a8"):
        weight = dense if kind == "dense" else QUANTIZED[kind](dense)
        assert relative(run_plan(CUBLAS, x, weight, bias, gelu=True), expected(x, weight, bias, True)) < 5e-6
