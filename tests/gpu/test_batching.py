"""Continuous batching on a GPU: captured decode steps do not change tokens, and the cache leaves enough free memory."""

from __future__ import annotations

import random

import pytest
import torch

import labkit
from labkit.engine import SamplingParams
from tests.engine.test_continuous_batching import SHAPE, check_idle, requests
from tests.models import engine_of, random_peer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="not measured here: no GPU that torch can use"),
]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_graphs_change_no_token_in_a_batch_that_grows_shrinks_and_is_preempted(seed: int) -> None:
    """The requests run in fp32 with chunked prompts, shared prefixes, speculative tokens and small caches."""
    peer = random_peer(SHAPE, 21).to("cuda")
    prompts, params = requests(random.Random(seed), 16)
    options = {"num_slots": 150, "max_batch_size": 6, "max_step_tokens": 24}
    plain = engine_of(peer, cuda_graphs=False, **options).generate(prompts, params)
    engine = engine_of(peer, **options)
    outputs = engine.generate(prompts, params)
    for output, expected in zip(outputs, plain, strict=True):
        assert [c.token_ids for c in output.completions] == [c.token_ids for c in expected.completions]
    check_idle(engine)


def test_a_full_batch_of_long_prompts_fits_the_memory_that_was_left_for_it() -> None:
    """All cache slots are in use, the steps are as large as possible, and a text is scored at the same time."""
    engine = labkit.load("gpt-j-405m-synthetic", device="cuda", dtype="fp16")
    context = engine.config.context_length
    prompts = torch.randint(1, 50000, (64, context - 8)).tolist()
    outputs = engine.generate(prompts, SamplingParams(max_new_tokens=8, ignore_eos=True, temperature=0.8, top_p=0.9, seed=1))
    assert [len(output.token_ids) for output in outputs] == [8] * 64
    assert engine.logits(prompts[0]).shape == (context - 8, engine.config.vocab_size)
    stats = engine.stats
    assert (stats.tokens_computed + stats.tokens_reused, stats.preemptions) == (64 * (context - 1), 0)
    check_idle(engine)
