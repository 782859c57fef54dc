"""The errors that kernels raise on machines where they cannot run, and the numbers that are read from a compiled kernel."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from labkit.errors import NotAvailable
from labkit.ops.kernels.compiled_kernel import compile_call, compile_kernel
from labkit.ops.kernels.interpreter_traffic import count_traffic
from labkit.ops.kernels.layer_norm import layer_norm_triton
from labkit.ops.kernels.triton_runtime import INSTALLED, interpreted, jit, jit_once_for_all, launch, power_of_two, recorded, tl

needs_triton = pytest.mark.skipif(not INSTALLED, reason="not measured here: the package triton is not installed")
ROOT = Path(__file__).parents[3]


@jit
def add_kernel(x: tl.tensor, out: tl.tensor, n: tl.tensor, BLOCK: tl.constexpr) -> None:
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + columns, tl.load(x + columns, mask=columns < n) + 1, mask=columns < n)


@jit_once_for_all("x", "n")
def steady_kernel(x: tl.tensor, out: tl.tensor, n: tl.tensor, BLOCK: tl.constexpr) -> None:
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + columns, tl.load(x + columns, mask=columns < n) + 1, mask=columns < n)


@jit
def greedy_kernel(x: tl.tensor, out: tl.tensor, BLOCK: tl.constexpr) -> None:
    rows = tl.arange(0, BLOCK)
    square = tl.load(x + rows[:, None] * BLOCK + rows[None, :])
    tl.store(out + rows[:, None] * BLOCK + rows[None, :], tl.dot(square, square))


@needs_triton
def test_cpu_tensors_are_refused_in_a_compiled_process() -> None:
    assert not interpreted()
    with pytest.raises(NotAvailable, match=r"layer_norm_kernel was given tensors on cpu.*torch version .* in labkit\.ops"):
        layer_norm_triton(torch.ones(2, 4), torch.ones(4), torch.ones(4), 1e-5)
    with pytest.raises(NotAvailable, match="TRITON_INTERPRET=1 before Python starts"), count_traffic():
        pass


def test_modules_import_and_say_what_is_missing_without_triton() -> None:
    code = """
import sys, importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.split(".")[0] == "triton" else find(name, *rest)
sys.modules["triton"] = None
import pkgutil, torch, labkit.ops.kernels as kernels
from labkit.errors import NotAvailable
modules = [importlib.import_module(f"labkit.ops.kernels.{found.name}") for found in pkgutil.iter_modules(kernels.__path__)]
from labkit.ops.kernels.layer_norm import layer_norm_triton
try:
    layer_norm_triton(torch.ones(2, 4), torch.ones(4), torch.ones(4), 1e-5)
except NotAvailable as error:
    print(len(modules), error)
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "layer_norm_kernel needs the package triton, which is not installed" in ran.stdout, ran.stderr


@needs_triton
def test_wide_loads_need_alignment() -> None:
    x = torch.empty(4096, dtype=torch.float16)
    options = {"BLOCK": 1024, "num_warps": 4}
    wide = compile_kernel(add_kernel, (x, x, 4096), options)
    assert wide.global_accesses() == {16: 1}
    assert wide.global_accesses("st") == {16: 1}
    narrow = compile_kernel(add_kernel, (x[1:], x, 4096), options)
    assert set(narrow.global_accesses()) == {2}
    assert not wide.problems()
    assert 0 < wide.registers < 64


@needs_triton
def test_a_kernel_that_is_compiled_once_knows_nothing_of_its_arguments() -> None:
    x = torch.empty(4096, dtype=torch.float16)
    made = [compile_kernel(steady_kernel, (start, x, n), {"BLOCK": 1024}).ptx for start, n in ((x, 4096), (x[1:], 1), (x, 33))]
    assert made[0] == made[1] == made[2]
    assert (
        compile_kernel(add_kernel, (x, x, 4096), {"BLOCK": 1024}).ptx
        != compile_kernel(add_kernel, (x, x, 1), {"BLOCK": 1024}).ptx
    )


@needs_triton
def test_too_much_shared_memory_and_spills_are_problems() -> None:
    x = torch.empty(128, 128)
    with recorded() as launches:
        launch(greedy_kernel, (1,), x, x, BLOCK=128, num_warps=1)
    (found,) = [compile_kernel(call.kernel, call.args, call.options, arch=86) for call in launches]
    assert found.spill_bytes > 0
    assert found.shared_bytes > 99 * 1024
    spills, shared = found.problems()
    assert "spills" in spills
    assert f"{99 * 1024} per block" in shared


@needs_triton
def test_recorded_launches_do_not_run_and_end_with_their_block() -> None:
    x = torch.empty(3, 70, device="meta")
    (found,) = compile_call(lambda: layer_norm_triton(x, x[0], x[0], 1e-5), arch=80)
    assert (found.name, found.arch) == ("layer_norm_kernel", 80)
    with pytest.raises(NotAvailable):
        layer_norm_triton(torch.ones(2, 4), torch.ones(4), torch.ones(4), 1e-5)


@needs_triton
def test_another_thread_goes_on_launching_while_one_records() -> None:
    x = torch.ones(2, 4)
    with recorded() as launches, ThreadPoolExecutor(1) as pool:
        other = pool.submit(layer_norm_triton, x, x[0], x[0], 1e-5)
        assert isinstance(other.exception(), NotAvailable)
    assert launches == []


def test_powers_of_two() -> None:
    assert [power_of_two(n) for n in (1, 2, 3, 64, 65)] == [1, 2, 4, 64, 128]
