"""The whole forward pass in one native call is compared with float64 for every shape, precision and batch."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from labkit import native, ops
from labkit.config import GPTJConfig
from labkit.errors import NotAvailable
from labkit.model import GPTJ, Batch, KVCache
from labkit.model.fastest_forward import fastest_forward
from labkit.model.forward import Forward
from labkit.model.weight_store import weight_store
from labkit.native.library import use_instruction_set
from labkit.precision import compute_dtype
from tests.models import SHAPES, random_peer
from tests.native.instruction_sets import SETS
from tests.ops.test_ops import relative

CPU = torch.device("cpu")
BOUNDS = {"fp32": 1e-5, "bf16": 0.02, "int8": 0.04, "int4": 0.3, "w8a8": 0.06}

pytestmark = pytest.mark.skipif(not native.available(), reason=f"not measured here: no native library ({native.why_not()})")


def models(shape: str | tuple[int, ...], precision: str, seed: int = 3) -> tuple[GPTJ, GPTJ]:
    """The model in float64, and the same weights stored in `precision`."""
    peer = random_peer(shape, seed, torch.float64)
    weights, config = peer.state_dict(), GPTJConfig.from_dict(peer.config.to_dict())
    dtype = compute_dtype(precision, CPU)
    stored = GPTJ.from_tensors(config, lambda name: weights[name].to(dtype), weight_store(precision, CPU))
    return GPTJ.from_tensors(config, lambda name: weights[name].clone()), stored


def scattered_batch(model: GPTJ, spans: list[tuple[int, int]], seed: int) -> tuple[Batch, Tensor]:
    """Make a batch of `new` tokens after `past` older tokens for each span, with slots in random order.

    Return the batch, and all slots, sequence by sequence.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = [new + past for new, past in spans]
    order = torch.randperm(sum(lengths) + 5, generator=generator)
    table = torch.full((len(spans), max(lengths) + 2), int(order[-1]), dtype=torch.int32)
    bounds = [0, *itertools.accumulate(lengths)]
    for row, length in enumerate(lengths):
        table[row, :length] = order[bounds[row] : bounds[row + 1]]
    starts = torch.tensor([0, *itertools.accumulate(new for new, _ in spans)], dtype=torch.int32)
    positions = torch.cat([torch.arange(past, past + new) for new, past in spans])
    rows = torch.repeat_interleave(torch.arange(len(spans)), torch.tensor([new for new, _ in spans]))
    tokens = int(starts[-1])
    batch = Batch(
        token_ids=torch.randint(0, model.config.vocab_size, (tokens,), generator=generator),
        positions=positions,
        slot_mapping=table[rows, positions].long(),
        starts=starts,
        slot_table=table,
        lengths=torch.tensor(lengths, dtype=torch.int32),
        num_decodes=sum(1 for _ in itertools.takewhile(lambda span: span[0] == 1, spans)),
        logit_rows=torch.randperm(tokens, generator=generator)[: tokens // 2 + 1],
        soft_rows=torch.tensor([tokens - 1]),
        soft_embeddings=torch.randn(1, model.config.hidden_size, generator=generator),
    )
    return batch, order


def run(forward: Forward, model: GPTJ, batch: Batch, slots: int, seed: int) -> tuple[Tensor, KVCache]:
    """Run a pass over a cache of random numbers; slots that no sequence uses are filled with NaN. Return logits and cache."""
    cache = KVCache(model.config, slots, device=CPU, dtype=model.dtype)
    named = torch.cat([batch.slot_table[row, : int(length)] for row, length in enumerate(batch.lengths)]).long()
    for tensor, number in ((cache.keys, seed), (cache.values, seed + 1)):
        tensor.fill_(torch.nan)
        filling = torch.randn(tensor[:, named].shape, generator=torch.Generator().manual_seed(number))
        tensor[:, named] = filling.bfloat16().to(tensor.dtype)
    return forward(batch, cache), cache


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_and_cache_follow_float64(shape: str, precision: str) -> None:
    exact, stored = models(shape, precision)
    spans = [(1, 0), (1, 20), (1, 7), (13, 9), (2, 3), (30, 0), (6, 1)]
    batch, order = scattered_batch(exact, spans, 5)
    expected, written = run(exact, exact, batch, len(order), 9)
    found, cache = run(fastest_forward(stored), stored, batch, len(order), 9)
    assert found.shape == (len(batch.logit_rows), exact.config.vocab_size)
    assert found.dtype == torch.float32
    assert relative(found, expected) < BOUNDS[precision]
    new = batch.slot_mapping
    assert relative(cache.keys[:, new], written.keys[:, new]) < BOUNDS[precision]
    assert relative(cache.values[:, new], written.values[:, new]) < BOUNDS[precision]
    others = torch.tensor([slot for slot in range(len(order)) if slot not in set(new.tolist())])
    same = cache.keys[:, others].double().nan_to_num(nan=7.0) == written.keys[:, others].nan_to_num(nan=7.0)
    assert bool(same.all()), "slots that no new token has were written"


@pytest.mark.parametrize("instruction_set", SETS)
def test_any_instruction_set(instruction_set: str) -> None:
    before = native.instruction_set()
    try:
        use_instruction_set(instruction_set)
    except NotAvailable:
        pytest.skip(f"not measured here: a CPU without {instruction_set}")
    try:
        for precision in BOUNDS:
            exact, stored = models("rotary below the head", precision, seed=5)
            batch, order = scattered_batch(exact, [(1, 5), (9, 0), (5, 30)], 5)
            expected, _ = run(exact, exact, batch, len(order), 2)
            found, _ = run(fastest_forward(stored), stored, batch, len(order), 2)
            assert relative(found, expected) < BOUNDS[precision], precision
    finally:
        use_instruction_set(before)


def test_a_swapped_operation_runs_in_the_place_of_the_captured_step() -> None:
    _, stored = models("one head of 80", "bf16")
    forward = fastest_forward(stored)
    batch, order = scattered_batch(stored, [(1, 3), (4, 0)], 1)
    usual, _ = run(forward, stored, batch, len(order), 4)
    seen: list[Any] = []

    def mine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        seen.append(type(weight))
        return torch.nn.functional.linear(x, weight, bias)

    with ops.use(linear=mine):
        swapped, _ = run(forward, stored, batch, len(order), 4)
    assert len(seen) == 3 * stored.config.num_layers + 1
    assert set(seen) == {Tensor}, "a learner's function is handed plain tensors"
    assert relative(swapped, usual.double()) < 0.02
    assert not torch.equal(swapped.float(), usual)
