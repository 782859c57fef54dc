"""Linear layers on a GPU are compared with float64, for all kinds of weight, plans and dtypes, for GPT-J 6B's shapes, and in
CUDA graphs.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from labkit import ops
from labkit.ops.kernels import linear
from labkit.ops.kernels.autotune import Tuner
from labkit.ops.kernels.linear import linear_triton, run_plan
from labkit.ops.kernels.linear_kind import GPUWeight, kind_of
from labkit.ops.kernels.linear_kind_fp8 import FP8_ARCH
from labkit.ops.kernels.linear_plan import CUBLAS
from labkit.ops.kernels.linear_plans import plans
from labkit.ops.kernels.linear_quantize import quantize_rows_triton
from labkit.ops.kernels.linear_tune import QUANTIZE, tune
from labkit.ops.kernels.triton_runtime import arch_of
from labkit.weight_formats import RoundedInputsWeight, quantize_rows_fp8, quantize_rows_int8
from tests.ops.kernels.guard import guarded_outputs, misaligned
from tests.ops.kernels.interpreted.test_linear_tune import CONFIG
from tests.ops.test_ops import random, relative
from tests.patience import PATIENCE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="not measured here: no GPU that torch can use"),
]
DEVICE = torch.device("cuda", 0)
BOUNDS = {torch.float32: 3e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
AWKWARD = [(1, 1, 1), (1, 33, 17), (1, 257, 130), (3, 257, 130), (17, 33, 17), (33, 70, 130), (65, 48, 80), (300, 257, 33)]
FP8_BOUND = 3e-4
"""Hopper's tensor cores keep about 14 bits of a sum of FP8 products; the largest error seen was 1.3e-4."""
SIX_B = [(4096, 12288), (4096, 4096), (4096, 16384), (16384, 4096), (4096, 50400)]


@pytest.fixture(autouse=True)
def _guarded() -> Iterator[None]:
    with guarded_outputs():
        yield


def kinds() -> list[str]:
    return list(QUANTIZE)


def need(kind: str) -> None:
    if kind == "fp8" and arch_of(DEVICE) < FP8_ARCH:
        pytest.skip("not measured here: FP8 needs a GPU of compute capability 8.9 or above")


def bound_of(kind: str, dtype: torch.dtype) -> float:
    return max(BOUNDS[dtype], FP8_BOUND if kind == "fp8" else 0.0)


def given(rows: int, num_in: int, num_out: int, kind: str, dtype: torch.dtype) -> tuple[torch.Tensor, GPUWeight, torch.Tensor]:
    """A random input, weight and bias on the GPU. The weight is created on the GPU, because it can be large."""
    generator = torch.Generator(DEVICE).manual_seed(rows + num_in + num_out)
    dense = torch.randn(num_out, num_in, generator=generator, device=DEVICE) * num_in**-0.5
    return random(rows, num_in).to(DEVICE, dtype), QUANTIZE[kind](dense.to(dtype)), random(num_out).to(DEVICE, dtype)


def expected(x: torch.Tensor, weight: GPUWeight, bias: torch.Tensor | None, gelu: bool) -> torch.Tensor:
    """The result in float64 for the inputs of the kernel. Activations are rounded if the format rounds them."""
    wide = x.double()
    dense = weight.double() if isinstance(weight, torch.Tensor) else weight.dequantize(torch.float64)
    if isinstance(weight, RoundedInputsWeight):
        values, scales = weight.round_inputs(x)
        wide = values.double() * scales.double()[:, None]
    result = wide @ dense.T
    result = result if bias is None else result + bias.double()
    return ops.gelu(result) if gelu else result


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("shape", AWKWARD)
def test_awkward_shapes(shape: tuple[int, int, int], kind: str, dtype: torch.dtype) -> None:
    need(kind)
    x, weight, bias = given(*shape, kind, dtype)
    for used, gelu in ((None, False), (bias, True)):
        found = linear_triton(misaligned(x), weight, used, gelu=gelu)
        assert found.dtype == dtype
        assert relative(found, expected(x, weight, used, gelu)) < bound_of(kind, dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("shape", SIX_B)
def test_shapes_of_6b(shape: tuple[int, int], kind: str, dtype: torch.dtype) -> None:
    need(kind)
    for rows in (1, 2, 8, 13, 32, 64, 200):
        x, weight, bias = given(rows, *shape, kind, dtype)
        assert relative(linear_triton(x, weight, bias, gelu=True), expected(x, weight, bias, True)) < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", kinds())
def test_every_plan(kind: str, dtype: torch.dtype) -> None:
    need(kind)
    for rows in (1, 2, 8, 16, 32, 64):
        x, weight, bias = given(rows, 4096, 1000, kind, dtype)
        exact = expected(x, weight, bias, True)
        group = 32 if kind == "int4" else 0
        for label, plan in plans(kind, rows, 4096, 1000, dtype, group, arch_of(DEVICE)).items():
            assert relative(run_plan(plan, x, weight, bias, gelu=True), exact) < BOUNDS[dtype], f"{rows} rows: {label}"


@pytest.mark.parametrize("group", [8, 16, 64, 128, 256, 6])
def test_groups_of_int4(group: int) -> None:
    for rows in (1, 8, 100):
        x = random(rows, 1111).to(DEVICE, torch.float16)
        weight = ops.Int4Weight.quantize(random(300, 1111).to(DEVICE) / 33, group)
        assert relative(linear_triton(x, weight), expected(x, weight, None, False)) < 2e-3


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("columns", [1, 257, 4096, 16384])
def test_activations_are_rounded_as_on_the_cpu(columns: int, dtype: torch.dtype) -> None:
    x = (random(5, columns) * torch.logspace(-3, 1, columns)).to(DEVICE, dtype)
    rounding = {torch.int8: quantize_rows_int8, torch.float8_e4m3fn: quantize_rows_fp8}
    for to, reference in rounding.items():
        if to == torch.float8_e4m3fn and arch_of(DEVICE) < FP8_ARCH:
            continue
        values, scales = quantize_rows_triton(x, to)
        expected_values, expected_scales = reference(x.cpu())
        assert torch.equal(scales.cpu(), expected_scales)
        assert torch.equal(values.cpu().float(), expected_values.float())


@pytest.mark.parametrize("columns", [257, 4096])
def test_a_row_with_nan_has_the_scale_nan(columns: int) -> None:
    """Triton's maximum ignores NaN on a GPU, but not in the interpreter."""
    x = random(3, columns).to(DEVICE, torch.float16)
    x[1, 5] = torch.nan
    for scale in (None, 0.01):
        _, scales = quantize_rows_triton(x, torch.int8, scale)
        assert scales.isfinite().tolist() == [True, False, True]


def test_operations_come_here() -> None:
    x, weight, bias = given(3, 257, 130, "int8", torch.float16)
    assert torch.equal(ops.linear(x, weight, bias), linear_triton(x, weight, bias))
    assert torch.equal(ops.linear_gelu(x, weight, bias), linear_triton(x, weight, bias, gelu=True))


@pytest.mark.parametrize("kind", kinds())
def test_equal_runs_give_equal_bits(kind: str) -> None:
    need(kind)
    for rows in (1, 8, 64):
        x, weight, bias = given(rows, 16384, 4096, kind, torch.float16)
        first = linear_triton(x, weight, bias)
        assert all(torch.equal(linear_triton(x, weight, bias), first) for _ in range(5))


@pytest.mark.parametrize("kind", kinds())
def test_replayed_from_a_graph(kind: str) -> None:
    need(kind)
    for rows in (1, 8, 64, 100):
        x, weight, bias = given(rows, 512, 768, kind, torch.float16)
        linear_triton(x, weight, bias)
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            out = linear_triton(x, weight, bias)
        x.copy_(random(rows, 512, seed=7).to(DEVICE, torch.float16))
        graph.replay()
        assert relative(out, expected(x, weight, bias, False)) < 2e-3


def test_tuning_measures_on_this_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "tuner", Tuner(linear.SOURCES, path=tmp_path / "autotune.json"))
    lines: list[str] = []
    tune(CONFIG, (1, 4), kind="int8", report=lines.append)
    assert len(lines) == 10
    assert torch.cuda.get_device_name(0) in (tmp_path / "autotune.json").read_text()
    x, weight, bias = given(4, CONFIG.hidden_size, 3 * CONFIG.hidden_size, "int8", torch.float16)
    assert relative(linear_triton(x, weight, bias), expected(x, weight, bias, False)) < 2e-3


def test_the_command_tunes_a_model_and_the_second_time_has_nothing_to_do(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "labkit", "tune", "--model", "gptj-tiny", "--batch", "1", "--json"]
    found = []
    for _ in range(2):
        home = {**os.environ, "LABKIT_HOME": str(tmp_path)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=home, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    assert [len(row["tuned"]) for row in found] == [5, 0]
    assert torch.cuda.get_device_name(0) in (tmp_path / "autotune.json").read_text()


def test_kinds_are_named() -> None:
    for kind, rows in itertools.product(kinds(), (1,)):
        assert kind_of(given(rows, 32, 32, kind, torch.float32)[1]).name == kind
    assert CUBLAS.label == "cublas"
