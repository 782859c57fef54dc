"""Predicted seconds follow from bytes, FLOPs, messages and bubbles, and the prediction states the seconds of each of these
causes.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from labkit.planning.catalogue import NVLINK_A100, PCIE_4, Device, Link, named_gpu
from labkit.planning.collectives import bubble, ring_bytes, ring_seconds
from labkit.planning.deployment import Deployment
from labkit.planning.efficiencies import PERFECT, Efficiencies
from labkit.planning.latency import (
    Parts,
    all_reduce_seconds,
    decode_parts,
    prefill_parts,
    request_parts,
    send_seconds,
)
from labkit.planning.named_shapes import named_shape

A100 = named_gpu("a100-80gb")
TYPICAL = Efficiencies()


def plan_of(model: str = "gpt-j-6b", **values: object) -> Deployment:
    return replace(Deployment(named_shape(model), A100), **values)  # type: ignore[arg-type]


def test_a_decode_step_of_gpt_j_reads_its_weights_once() -> None:
    """11.69 GB (the weights without the embedding) at 2,039 GB/s take 5.7 ms; the cache of 144 tokens is added."""
    parts = decode_parts(plan_of(), PERFECT)
    cache = 144 * 458_752 / 2.039e12
    assert parts.total == pytest.approx(11.688e9 / 2.039e12 + cache, rel=0.005)
    assert parts.dominated_by == "bytes"


def test_a_long_prefill_is_bound_by_flops() -> None:
    plan = plan_of(batch=8, input_tokens=512)
    parts = prefill_parts(plan, PERFECT)
    matrices = 2 * 8 * 512 * 28 * 12 * 4096**2
    assert parts.dominated_by == "FLOPs"
    assert parts.total == pytest.approx(matrices / 312e12, rel=0.06)


def test_the_batch_at_which_decode_turns_compute_bound() -> None:
    """Counting only the weights, reading and computing take equally long at FLOPs per second divided by bytes per second:
    312e12 / 2.039e12 = 153 sequences.
    """
    few = decode_parts(plan_of(batch=100, input_tokens=1, output_tokens=1), PERFECT)
    many = decode_parts(plan_of(batch=240, input_tokens=1, output_tokens=1), PERFECT)
    assert few.dominated_by == "bytes"
    assert many.dominated_by == "FLOPs"


def test_fewer_bits_read_faster_but_compute_no_faster() -> None:
    wide, narrow = plan_of(), plan_of(precision="int8")
    assert decode_parts(narrow, PERFECT).total == pytest.approx(decode_parts(wide, PERFECT).total / 2, rel=0.03)
    wide, narrow = (replace(plan, batch=64, input_tokens=512) for plan in (wide, narrow))
    assert prefill_parts(narrow, PERFECT).total == pytest.approx(prefill_parts(wide, PERFECT).total, rel=0.02)
    sparse = replace(wide, sparse=True)
    assert prefill_parts(sparse, PERFECT).total < 0.6 * prefill_parts(wide, PERFECT).total


def test_an_all_reduce_costs_its_hops_and_then_its_bytes() -> None:
    plan = plan_of("gpt-20b", tensor_parallel=8)
    small, large = all_reduce_seconds(plan, 8.0, TYPICAL), all_reduce_seconds(plan, 1e9, TYPICAL)
    assert small == pytest.approx(10e-6 + 14 * 1e-6, rel=0.01)
    assert large == pytest.approx(ring_bytes(1e9, 8) / (300e9 * 0.7), rel=0.02)
    assert ring_bytes(8e6, 8) == 14e6
    assert all_reduce_seconds(plan_of("gpt-20b"), 1e9, TYPICAL) == 0
    slow = replace(plan, device=replace(A100, link=PCIE_4))
    assert all_reduce_seconds(slow, 1e9, TYPICAL) > 5 * large


def test_beyond_a_node_the_network_cards_carry_the_bytes() -> None:
    near, far = plan_of("gpt-530b", tensor_parallel=8), plan_of("gpt-530b", tensor_parallel=16)
    assert all_reduce_seconds(far, 1e9, TYPICAL) > 1.3 * all_reduce_seconds(near, 1e9, TYPICAL)
    stages = plan_of("gpt-530b", tensor_parallel=8, pipeline_parallel=3)
    assert send_seconds(stages, 1e9, TYPICAL) == pytest.approx(1e9 / 8 / (25e9 * 0.7), rel=0.02)


def test_gpt_j_needs_one_sum_a_layer_and_gpt_3_two() -> None:
    one = plan_of("gpt-20b", tensor_parallel=8)
    shared = replace(one, shape=replace(one.shape, sums=1))
    assert decode_parts(one, TYPICAL).link == pytest.approx(2 * decode_parts(shared, TYPICAL).link)


def test_the_bubble_is_that_of_gpipe() -> None:
    """With m micro-batches through p stages, a fraction (p - 1) / (m + p - 1) of the time is idle (Huang et al. 2019)."""
    parts = Parts(read=1.0, flops=2.0).in_a_pipeline(4, 3)
    assert parts.bubble / parts.total == pytest.approx(2 / 6)
    assert parts.total == 3.0 * 6
    single = plan_of("gpt-530b", tensor_parallel=8, pipeline_parallel=3)
    assert decode_parts(single, TYPICAL).bubble > 0.6 * decode_parts(single, TYPICAL).total


def test_the_parts_add_up_and_more_of_anything_takes_longer() -> None:
    plan = plan_of("gpt-20b", tensor_parallel=4)
    parts = request_parts(plan, TYPICAL)
    assert parts.total == pytest.approx(sum(parts.to_dict().values()))
    for name in ("batch", "input_tokens", "output_tokens"):
        more = replace(plan, **{name: 4 * getattr(plan, name)})
        assert request_parts(more, TYPICAL).total > parts.total


def test_launches_dominate_a_small_model() -> None:
    assert decode_parts(plan_of("gpt-350m"), TYPICAL).dominated_by == "launches"


def test_ranks_on_one_cpu_share_its_rates() -> None:
    link = Link("memory", 1e12, 1e-9, "a test")
    rates = {"fp32": 1e12, "fp16": 1e12}
    cpu = Device("cpu", 1e11, 5e10, rates, "a test", link=link, devices_per_node=1, shared=True, kind="cpu")
    one = replace(plan_of(), device=cpu, precision="fp32")
    two = replace(one, tensor_parallel=2)
    assert decode_parts(two, PERFECT).total == pytest.approx(decode_parts(one, PERFECT).total, rel=0.05)
    assert NVLINK_A100.bytes_per_second == 300e9


@pytest.mark.parametrize(("stages", "pieces"), [(1, 3), (4, 1), (3, 5)])
def test_the_seconds_of_a_pipeline_have_the_share_of_its_bubble(stages: int, pieces: int) -> None:
    found = Parts(1.0, 2.0, 0.5, 0.25).in_a_pipeline(pieces, stages)
    assert found.bubble / found.total == pytest.approx(bubble(stages, pieces))


def test_an_all_reduce_within_a_node_is_a_ring() -> None:
    plan = Deployment(named_shape("gpt-20b"), A100, tensor_parallel=4)
    found = replace(PERFECT, collective_seconds=0.0, hops=1.0, link=1.0)
    link = A100.link
    assert link is not None
    ring = ring_seconds(3e6, 4, bytes_per_second=link.bytes_per_second, hop_seconds=link.hop_seconds)
    assert all_reduce_seconds(plan, 3e6, found) == pytest.approx(ring)
    assert ring == pytest.approx(6 * 1e-6 + 4.5e6 / 300e9)
