"""Every configuration of the linear kernels is compiled for sm_80 and sm_90 with the shapes of GPT-J 6B."""

from __future__ import annotations

import functools

import pytest
import torch

from labkit import ops
from labkit.ops.kernels.compiled_kernel import CompiledKernel, compile_call
from labkit.ops.kernels.linear import linear_triton, run_plan
from labkit.ops.kernels.linear_dequantize import dequantize_triton
from labkit.ops.kernels.linear_kind import GPUWeight
from labkit.ops.kernels.linear_kind_fp8 import FP8_ARCH
from labkit.ops.kernels.linear_plans import plans
from labkit.ops.kernels.triton_runtime import INSTALLED

pytestmark = pytest.mark.skipif(not INSTALLED, reason="not measured here: the package triton is not installed")
NUM_IN, NUM_OUT = 4096, 12288
KINDS = ["dense", "int8", "int4", "w8a8", "fp8"]
BUCKETS = {"dense": [1, 8, 16], "int8": [1, 8, 16, 32, 64], "int4": [1, 8, 16, 32, 64], "w8a8": [8, 64], "fp8": [8, 64]}
"""For each kind of weight, the numbers of rows that are tested. 2 and 4 rows run in the block of 8."""


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def weight_of(kind: str, dtype: torch.dtype, group: int = 32) -> GPUWeight:
    """A weight whose tensors have no memory."""
    if kind == "dense":
        return meta(NUM_OUT, NUM_IN, dtype=dtype)
    if kind == "int4":
        packed, scales = meta(NUM_OUT, NUM_IN // 2, dtype=torch.uint8), meta(NUM_OUT, NUM_IN // group, dtype=torch.float16)
        return ops.Int4Weight(packed, scales, NUM_IN, group)
    if kind == "fp8":
        return ops.Fp8Weight(meta(NUM_OUT, NUM_IN, dtype=torch.float8_e4m3fn), meta(NUM_OUT))
    form = ops.Int8Weight if kind == "int8" else ops.W8A8Weight
    return form(meta(NUM_OUT, NUM_IN, dtype=torch.int8), meta(NUM_OUT))


@functools.cache
def compiled(kind: str, rows: int, dtype: torch.dtype, arch: int, group: int = 32) -> dict[str, list[CompiledKernel]]:
    """The kernels that each plan launches. Plans that differ only in their number of parts above 1 share kernels."""
    x, weight, bias = meta(rows, NUM_IN, dtype=dtype), weight_of(kind, dtype, group), meta(NUM_OUT, dtype=dtype)
    found: dict[str, list[CompiledKernel]] = {}
    seen = set()
    for label, plan in plans(kind, rows, NUM_IN, NUM_OUT, dtype, group if kind == "int4" else 0, arch).items():
        blocks = tuple(value if name != "PARTS" else value > 1 for name, value in plan.config.items())
        if plan.kernel == "cublas" or blocks in seen:
            continue
        seen.add(blocks)
        found[label] = compile_call(lambda: run_plan(plan, x, weight, bias, gelu=True), arch)  # noqa: B023
    return found


def check(found: dict[str, list[CompiledKernel]], kind: str, arch: int) -> None:
    assert found
    for label, kernels in found.items():
        assert [problem for kernel in kernels for problem in kernel.problems()] == [], label
        main = next(kernel for kernel in kernels if kernel.name.startswith(("one_row", "few_rows")))
        accesses = main.global_accesses()
        if main.name.startswith("one_row"):
            assert accesses[16] >= int(label.split("BLOCK_OUT=")[1].split()[0]), "a thread's 16 bytes of each output's weights"
            continue
        assert "cp.async.cg.shared.global" in main.ptx, "weights are not fetched ahead of their use"
        assert "mma" in main.ptx, "no tensor cores"
        if "PARTS=1" not in label:  # this kernel loads no scales and no bias at its end, so all loads are in the loop
            # The scales of int4 are narrower. int8 values that become float16 for Hopper's wgmma are copied 8 bytes at a time.
            narrower = {"int4": {2, 4, 8}, "int8": {8} if arch == 90 else set()}.get(kind, set())
            assert {16} <= set(accesses) <= {16} | narrower, f"{label}: {accesses}"


@pytest.mark.parametrize(
    ("kind", "rows", "arch"),
    [
        (kind, rows, arch)
        for kind in KINDS
        for rows in BUCKETS[kind]
        for arch in (80, 90)
        if kind != "fp8" or arch >= FP8_ARCH  # older GPUs refuse FP8; the interpreted tests check this
    ],
)
def test_what_ships_in_float16(kind: str, rows: int, arch: int) -> None:
    check(compiled(kind, rows, torch.float16, arch), kind, arch)


@pytest.mark.parametrize("kind", ["dense", "int8", "int4"])
@pytest.mark.parametrize("rows", [1, 8])
def test_what_ships_in_bfloat16(kind: str, rows: int) -> None:
    check(compiled(kind, rows, torch.bfloat16, 90), kind, 90)


def test_a_row_of_float32() -> None:
    check(compiled("dense", 1, torch.float32, 80), "dense", 80)


@pytest.mark.parametrize("group", [8, 128])
def test_other_groups_of_int4(group: int) -> None:
    check(compiled("int4", 16, torch.float16, 80, group), "int4", 80)


def test_spreading_int4_out() -> None:
    (kernel,) = compile_call(lambda: dequantize_triton(weight_of("int4", torch.float16), torch.float16), 80)
    assert kernel.problems() == []
    assert set(kernel.global_accesses("st")) == {16}


def test_awkward_shapes_fit_too() -> None:
    """If a row's size is not a multiple of 16 bytes, accesses are narrow, but nothing is spilled and shared memory suffices."""
    x, weight = meta(3, 257, dtype=torch.float16), meta(130, 257, dtype=torch.float16)
    for rows in (1, 3):
        kernels = compile_call(lambda: linear_triton(x[:rows], weight, None), 80)  # noqa: B023
        assert [problem for kernel in kernels for problem in kernel.problems()] == []
