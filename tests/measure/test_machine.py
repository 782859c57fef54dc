"""The machine's limits, the roofline (compared with figures that were computed by hand), and the largest use of memory."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from labkit.config import GPT_J_6B
from labkit.errors import InvalidRequest
from labkit.measure import Ceilings, HostPeak, Timing, ceilings, gpu_peak_bytes, memory, peak_host_memory, roofline
from labkit.measure.roofline import attention_flops, head_flops, matmul_flops_per_token, weight_bytes_per_step
from labkit.torch_state import torch_threads
from tests.patience import wait_for

MODULE = importlib.import_module("labkit.measure.ceilings")  # the package has a function of the same name


def of_reading(gigabytes_per_second: float) -> Ceilings:
    """The limits of a machine that has this memory bandwidth and computes infinitely fast."""
    return Ceilings("cuda:0", 1, gigabytes_per_second * 1e9, dict.fromkeys(("fp32", "bf16", "fp16"), 1e30))


def test_ceilings_are_positive_and_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "MATRIX_SIZES", {"cpu": (64, 192)})
    monkeypatch.setattr(MODULE, "CPU_READ_BYTES", 64 * 2**20)
    steps: list[tuple[int, int]] = []
    found = ceilings("cpu", seconds=0.05, progress=lambda done, total: steps.append((done, total)))
    assert found.device == "cpu"
    assert found.threads == torch.get_num_threads()
    assert set(found.flops_per_second) == {"fp32", "bf16", "fp16"}
    assert 1e8 < found.read_bytes_per_second < 1e13
    assert all(1e7 < flops < 1e15 for flops in found.flops_per_second.values())
    assert steps[-1] == (4, 4)
    assert Ceilings(**found.to_dict()) == found


def test_ceilings_are_the_best_run_of_the_larger_product_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    sums: list[torch.Tensor] = []

    def fake(call: Any, **settings: Any) -> Timing:
        sums.append(call())
        return Timing((0.5, 0.25, 4.0))

    monkeypatch.setattr(MODULE, "time_call", fake)
    monkeypatch.setattr(MODULE, "CPU_READ_BYTES", 4000)
    monkeypatch.setattr(MODULE, "MATRIX_SIZES", {"cpu": (20, 100)})
    cpu = torch.device("cpu")
    assert MODULE.read_rate(cpu) == 4000 / 0.25
    assert MODULE.matrix_rate(cpu, "fp32", seconds=1e6) == 2 * 100**3 / 0.25
    assert MODULE.matrix_rate(cpu, "bf16", seconds=1.0) == 2 * 20**3 / 0.25  # the large matrix product would take 31 seconds
    products = sums[1:]
    assert [(tuple(product.shape), product.dtype) for product in products] == [
        ((20, 20), torch.float32),
        ((100, 100), torch.float32),
        ((20, 20), torch.bfloat16),
        ((20, 20), torch.bfloat16),  # the product is measured again, with one thread
    ]
    assert all(float(product.float().std()) > 1 for product in products)  # the matrices hold random numbers, not zeros


def test_threads_that_wait_for_one_another_do_not_hide_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, a small matrix product can take as long with two threads as a large one."""
    tried: list[tuple[int, int]] = []

    def fake(device: torch.device, dtype: torch.dtype, size: int, seconds: float) -> float:
        tried.append((size, torch.get_num_threads()))
        return 2e9 if size == 512 and torch.get_num_threads() > 1 else 1e11

    monkeypatch.setattr(MODULE, "_product_rate", fake)
    monkeypatch.setattr(MODULE, "MATRIX_SIZES", {"cpu": (512, 2048)})
    with torch_threads(2):
        assert MODULE.matrix_rate(torch.device("cpu"), "fp32") == 1e11
    assert tried == [(512, 2), (512, 1), (2048, 2)]


def test_counts_of_gpt_j_6b() -> None:
    assert weight_bytes_per_step(GPT_J_6B, 2) == 2 * (6_050_882_784 - 50_400 * 4_096) == 11_688_888_768
    assert GPT_J_6B.kv_bytes_per_token(2) == 2 * 28 * 4096 * 2 == 458_752
    assert matmul_flops_per_token(GPT_J_6B) == 2 * 28 * (4 * 4096 * 4096 + 2 * 4096 * 16384) == 11_274_289_152
    assert head_flops(GPT_J_6B) == 2 * 4096 * 50_400 == 412_876_800
    assert attention_flops(GPT_J_6B, 1, 1000) == 4 * 28 * 4096 * 1000


@pytest.mark.parametrize(("rate", "milliseconds"), [(900, 13.0), (1555, 7.5), (3350, 3.5)])
def test_floor_of_a_decode_step_of_gpt_j_6b(rate: float, milliseconds: float) -> None:
    limit = roofline(GPT_J_6B, batch=1, length=1, precision="fp16", ceilings=of_reading(rate))
    assert round(1e3 * limit.decode_seconds, 1) == milliseconds
    assert limit.decode_bound == "memory"


def test_roofline_adds_up_batch_and_length() -> None:
    limit = roofline(GPT_J_6B, batch=8, length=2048, precision="bf16", ceilings=of_reading(1000))
    assert limit.decode_bytes == 11_688_888_768 + 8 * 2048 * 458_752
    assert limit.decode_flops == 8 * (11_274_289_152 + 412_876_800 + 4 * 28 * 4096 * 2048)
    assert limit.decode_seconds == pytest.approx(limit.decode_bytes / 1e12)
    assert limit.prefill_bytes == 11_688_888_768
    causal = sum(4 * 28 * 4096 * seen for seen in range(1, 2049))
    assert limit.prefill_flops == 8 * (2048 * 11_274_289_152 + causal + 412_876_800)
    single = roofline(GPT_J_6B, batch=8, length=2048, precision="fp32", ceilings=of_reading(1000))
    assert single.decode_bytes == 2 * limit.decode_bytes


def test_the_slower_of_reading_and_computing_binds() -> None:
    h100 = Ceilings("cuda:0", 1, 3.35e12, {"fp16": 990e12})
    one = roofline(GPT_J_6B, batch=1, length=128, precision="fp16", ceilings=h100)
    many = roofline(GPT_J_6B, batch=2048, length=1, precision="fp16", ceilings=h100)
    assert (one.decode_bound, many.decode_bound) == ("memory", "compute")
    assert many.decode_seconds == pytest.approx(many.decode_flops / 990e12)
    assert one.prefill_seconds == pytest.approx(max(one.prefill_bytes / 3.35e12, one.prefill_flops / 990e12))
    long = roofline(GPT_J_6B, batch=4, length=2000, precision="fp16", ceilings=h100)
    assert long.prefill_seconds == pytest.approx(long.prefill_flops / 990e12)
    assert long.to_dict()["decode_seconds"] == long.decode_seconds


@pytest.mark.parametrize(("batch", "length", "precision"), [(0, 1, "fp16"), (1, 0, "fp16"), (1, 1, "int3"), (-2, 5, "fp32")])
def test_roofline_refuses_what_cannot_be(batch: int, length: int, precision: str) -> None:
    with pytest.raises(InvalidRequest, match="fp32, bf16, fp16") as refusal:
        roofline(GPT_J_6B, batch=batch, length=length, precision=precision, ceilings=of_reading(1))
    assert precision in str(refusal.value)
    assert f"batch {batch}, length {length}" in str(refusal.value)


SIZE = 200_000_000
SEEN = 0.98 * SIZE  # the kernel updates its count of pages with a small delay


def allocate_shortly() -> float:
    return float(np.ones(SIZE // 8)[-1])


def test_peak_sees_memory_that_is_gone_at_the_end() -> None:
    with peak_host_memory() as peak:
        allocate_shortly()
    assert SEEN <= peak.bytes < 1.5 * SIZE


def test_peak_sees_a_held_allocation_by_sampling_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_reset_high_water_mark", lambda: False)
    with peak_host_memory() as peak:
        held = np.ones(SIZE // 8)
        wait_for(lambda: peak.bytes >= SEEN, "a sample of the allocation")
        del held
    assert SEEN <= peak.bytes < 1.5 * SIZE


def test_an_idle_block_has_next_to_no_peak_and_a_watch_can_be_used_again() -> None:
    watch = HostPeak()
    with watch:
        allocate_shortly()
    with watch:
        pass
    assert 0 <= watch.bytes < SIZE / 10
    with watch:
        allocate_shortly()
    assert watch.bytes >= SEEN


def test_an_error_in_the_block_goes_through_and_ends_the_watch() -> None:
    watch = HostPeak()

    def fail() -> None:
        with watch:
            allocate_shortly()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert watch.bytes >= SEEN
    assert not watch._thread.is_alive()


def test_a_kernel_without_a_high_water_mark_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name: python\n")
    monkeypatch.setattr("builtins.open", lambda path: status.open())
    assert memory._high_water_mark() == 0


def test_gpu_peak_of_a_cpu_is_none() -> None:
    assert gpu_peak_bytes("cpu") is None
    assert gpu_peak_bytes(torch.device("cpu")) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="not measured here: no GPU")
def test_gpu_peak_sees_memory_that_is_gone_at_the_end() -> None:
    torch.cuda.reset_peak_memory_stats()
    before = gpu_peak_bytes("cuda:0")
    torch.ones(SIZE // 4, device="cuda:0").sum()
    peak = gpu_peak_bytes("cuda:0")
    assert before is not None
    assert peak is not None
    assert peak - before >= SEEN
    found = ceilings("cuda:0", seconds=0.2)
    assert all(math.isfinite(rate) and rate > 1e11 for rate in (found.read_bytes_per_second, *found.flops_per_second.values()))


def test_integer_weights_with_a_cache_in_16_bits_at_the_fastest_known_rate() -> None:
    ceilings = Ceilings("cpu", 1, 1e9, {"fp32": 1e12, "bf16": 3e12})
    matrices, head = 6_050_882_784 - 2 * 50_400 * 4_096, 50_400 * 4_096
    int8 = roofline(GPT_J_6B, batch=2, length=10, precision="int8", ceilings=ceilings)
    assert int8.decode_bytes == matrices + head + 20 * 458_752
    assert int8.prefill_seconds == pytest.approx(max(int8.prefill_bytes / 1e9, int8.prefill_flops / 3e12))
    int4 = roofline(GPT_J_6B, batch=1, length=1, precision="int4", ceilings=ceilings)
    assert int4.prefill_bytes == int(matrices * 0.5625 + head)
