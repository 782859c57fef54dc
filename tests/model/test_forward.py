"""The base class of forward passes: its defaults, and a check that every way to run a model is derived from it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from labkit.engine import Engine
from labkit.model import GPTJ, Batch, Forward, KVCache
from labkit.model.cuda_graph import GraphedGPTJ
from labkit.model.native_forward import NativeForward
from labkit.parallel.parallel_forward import ParallelForward
from tests.models import FunctionForward, engine_of, random_peer, random_prompts


@pytest.mark.parametrize("kind", [GPTJ, GraphedGPTJ, NativeForward, ParallelForward])
def test_every_way_to_run_a_model_is_a_forward(kind: type) -> None:
    assert issubclass(kind, Forward)


def test_a_subclass_needs_nothing_but_its_pass() -> None:
    engine = engine_of(random_peer("one head of 80", 3))
    (prompt,) = random_prompts(59, [7], 3)
    expected = engine.generate([prompt])[0].token_ids
    passes, plain = [], engine.forward

    def counted(batch: Batch, cache: KVCache) -> Tensor:
        passes.append(batch.num_tokens)
        return plain(batch, cache)

    forward = FunctionForward(counted)
    assert (forward.steps_in_flight, forward.num_threads, forward.survives_fork) == (1, None, True)
    with Engine(engine.model, forward=forward) as other:
        assert other.generate([prompt])[0].token_ids == expected
    assert passes == [7] + [1] * (len(expected) - 1)


def test_threads_are_limited_inside_the_block_alone() -> None:
    class Narrow(FunctionForward):
        @property
        def num_threads(self) -> int:
            return 1

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with Narrow(lambda batch, cache: torch.empty(0)).limited_threads():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
