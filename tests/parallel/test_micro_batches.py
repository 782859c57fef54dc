"""A batch that is cut into pieces gives the same results as the whole batch, wherever it is cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from labkit.model.fixed_batches import FixedBatches
from labkit.model.kv_cache import KVCache
from labkit.parallel.micro_batches import FEWEST_TOKENS, num_micro_batches, split_batch
from tests.models import engine_of, random_peer, random_prompts

CPU = torch.device("cpu")


@pytest.mark.parametrize("pieces", [1, 2, 3, 7, 41, 100])
@pytest.mark.parametrize("all_logits", [False, True])
def test_pieces_run_in_turn_give_the_whole_batch(pieces: int, all_logits: bool) -> None:
    """Prompts of different lengths are followed by further tokens of each sequence, and then by one decode step for all
    sequences.
    """
    model = engine_of(random_peer("rotary below the head", seed=2)).model
    prompts = [torch.tensor(row) for row in random_prompts(211, [13, 1, 20, 7], seed=pieces)]
    more = [torch.tensor(row) for row in random_prompts(211, [4, 9, 1, 12], seed=pieces + 1)]
    found = []
    for cut in (False, True):
        batches, cache = FixedBatches(4, 40, CPU), KVCache(model.config, 160, device=CPU, dtype=model.dtype)
        for tensor in (cache.keys, cache.values):
            tensor.fill_(float("nan"))
        made = []
        for given in (prompts, more):
            batch = batches.prefill(given, all_logits=all_logits)
            parts = split_batch(batch, pieces) if cut else [batch]
            assert sum(part.num_tokens for part in parts) == batch.num_tokens
            assert len(parts) == (min(pieces, batch.num_tokens) if cut else 1)
            made.append(torch.cat([model.forward(part, cache) for part in parts]))
        made.append(model.forward(batches.decode(torch.tensor([1, 2, 3, 4])), cache))
        found.append(torch.cat(made))
    assert found[0].shape == found[1].shape
    assert torch.isfinite(found[0]).all()
    assert torch.allclose(found[0], found[1], rtol=1e-4, atol=1e-4)


def test_soft_prompts_and_decodes_in_front_are_cut_as_well() -> None:
    model = engine_of(random_peer("rotary below the head", seed=2)).model
    batches, cache = FixedBatches(3, 40, CPU), KVCache(model.config, 120, device=CPU, dtype=model.dtype)
    model.forward(batches.prefill([torch.tensor(row) for row in random_prompts(211, [5, 6, 7], seed=1)]), cache)

    before = cache.keys.clone(), cache.values.clone()
    batch = batches.prefill([torch.tensor([9]), torch.tensor([8]), torch.tensor(random_prompts(211, [11], seed=3)[0])])
    soft = torch.tensor([2, 3, 9])
    batch = replace(batch, num_decodes=2, soft_rows=soft, soft_embeddings=torch.randn(3, 96))
    whole = model.forward(batch, cache)
    for pieces in (2, 4, 13):
        cache.keys.copy_(before[0])
        cache.values.copy_(before[1])
        parts = split_batch(batch, pieces)
        assert sum(part.num_decodes for part in parts) == 2
        assert torch.allclose(torch.cat([model.forward(part, cache) for part in parts]), whole, rtol=1e-4, atol=1e-4)


def test_short_batches_and_single_stages_stay_whole() -> None:
    assert num_micro_batches(10_000, 1) == 1
    assert num_micro_batches(FEWEST_TOKENS, 4) == 1
    assert num_micro_batches(2 * FEWEST_TOKENS, 4) == 2
    assert num_micro_batches(10_000, 4) == 16
