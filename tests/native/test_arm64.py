"""The kernels for 64-bit ARM run on emulated CPUs and pass the tests of the native kernels, with the same tolerances.

The CPU models differ in their extensions, and each chooses the best instruction set that it has. `RUNS` lists the models and
sets on which all kernels run. The speed on a real ARM CPU is not measured here.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from labkit import native
from labkit.errors import NotAvailable
from tests.native import test_forward as forward
from tests.native import test_kernels as kernels
from tests.native import test_threads as threads
from tests.native.arm64 import machine
from tests.native.instruction_sets import ARM
from tests.ops import test_sample as sample

BEST = {
    "cortex-a72": "neon",
    "neoverse-n1": "neon_dotprod",
    "cortex-a76": "neon_dotprod",
    "neoverse-v1": "neon_bf16",
    "max": "neon_bf16",
}
"""CPU models of qemu, and the instruction set that each of them must choose."""

RUNS = [("cortex-a72", "neon"), ("neoverse-n1", "neon_dotprod"), ("max", "neon_bf16"), ("max", "portable")]
"""Pairs of a CPU model and an instruction set with which all kernels are tested."""

PRECISIONS = list(forward.BOUNDS)
KINDS = [*PRECISIONS, "sparse24", "sparse24_int8"]

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not native.available(), reason=f"not measured here: no native library ({native.why_not()})"),
    pytest.mark.skipif(bool(machine.missing()), reason=f"not measured here: {machine.missing()}"),
]


@contextmanager
def emulated(program: Path, cpu: str, folder: Path) -> Iterator[None]:
    """Run native calls on an emulated CPU inside the block."""
    if cpu not in machine.cpu_models():
        pytest.skip(f"not measured here: this version of qemu has no CPU model {cpu}")
    library = machine.EmulatedLibrary(program, cpu, folder)
    with machine.instead_of_the_native_library(library):
        yield
    library.close()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return machine.compiled(machine.GNU, tmp_path_factory.mktemp("gnu"))


@pytest.fixture(scope="module", params=RUNS, ids=" ".join)
def instruction_set(request: pytest.FixtureRequest, program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    cpu, name = request.param
    with emulated(program, cpu, tmp_path_factory.mktemp("arena")):
        native.use_instruction_set(name)
        yield name


@pytest.mark.parametrize("cpu", BEST)
def test_a_cpu_gets_the_best_set_that_it_has_and_refuses_better_ones(program: Path, tmp_path: Path, cpu: str) -> None:
    with emulated(program, cpu, tmp_path):
        assert native.instruction_set() == BEST[cpu]
        for better in ARM[: ARM.index(BEST[cpu])]:
            with pytest.raises(NotAvailable, match=better):
                native.use_instruction_set(better)
        for other in ARM[ARM.index(BEST[cpu]) :]:
            native.use_instruction_set(other)
            assert native.instruction_set() == other


@pytest.mark.parametrize("kind", KINDS)
def test_products(instruction_set: str, kind: str) -> None:
    kernels.test_products(instruction_set, kind, gelu=True)
    kernels.test_packing_keeps_every_value(kind)


def test_a_product_writes_its_output_and_nothing_else(instruction_set: str) -> None:
    kernels.test_a_product_writes_its_output_and_nothing_else(instruction_set)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "head_dim"), [(1, 1), (3, 33), (2, 80), (4, 64), (1, 256)])
def test_attention(instruction_set: str, dtype: torch.dtype, heads: int, head_dim: int) -> None:
    kernels.test_attention_over_scattered_slots(instruction_set, dtype, heads, head_dim)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_very_long_sequences(instruction_set: str, dtype: torch.dtype) -> None:
    kernels.test_very_long_sequences(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layer_norms_rotary_positions_and_cache_write(instruction_set: str, dtype: torch.dtype) -> None:
    kernels.test_layer_norms_and_cache_write(instruction_set, dtype)


@pytest.mark.parametrize("spread", [20.0, 1e-3])
@pytest.mark.parametrize("vocab", [1, 257, 4099])
def test_sampling(instruction_set: str, spread: float, vocab: int) -> None:
    sample.test_the_native_sampler_gives_the_specifications_tokens(instruction_set, spread, vocab)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_whole_forward_pass(instruction_set: str, precision: str) -> None:
    forward.test_logits_and_cache_follow_float64("head of 32, rotary of all", precision)


def same_bits_with_any_number_of_threads(precision: str) -> None:
    """The pass is just large enough to use several threads (`worthwhile` in src/piece.h), because emulated floats are slow."""
    exact, stored = forward.models((256, 1, 2, 32, 48, 130), precision, seed=11)
    batch = forward.scattered_batch(exact, [(1, 38), (5, 7)], 11)
    alone = threads.logits(stored, batch, 1)
    for count in (2, 3, 8):
        assert torch.equal(threads.logits(stored, batch, count), alone), count


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_any_number_of_threads_gives_the_same_bits(program: Path, tmp_path: Path, precision: str) -> None:
    with emulated(program, "max", tmp_path):
        same_bits_with_any_number_of_threads(precision)


@pytest.mark.skipif(shutil.which("clang++") is None, reason="not measured here: no clang++")
def test_clang_without_openmp_and_futexes_as_on_macos(tmp_path: Path) -> None:
    program = machine.compiled(machine.CLANG, tmp_path, as_on_macos=True)
    with emulated(program, "max", tmp_path):
        assert native.instruction_set() == "neon_bf16"
        for kind in ("bf16", "int8"):
            kernels.test_products("neon_bf16", kind, gelu=False)
        forward.test_logits_and_cache_follow_float64("head of 32, rotary of all", "bf16")
        same_bits_with_any_number_of_threads("int8")
        same_bits_with_any_number_of_threads("bf16")
