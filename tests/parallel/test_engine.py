"""The engine on several ranks: requests join and leave the batch and get the same tokens as in a single process, and the logits
are near float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import labkit
from labkit import native, ops
from labkit.engine import Engine
from labkit.errors import InvalidRequest, NotAvailable
from labkit.ops.layer_norm import layer_norm_reference
from labkit.parallel import Layout, load_parallel
from tests.models import random_prompts
from tests.parallel.models import CONTEXT, save_peer
from tests.sampled import as_long, one_in

pytestmark = pytest.mark.skipif(not native.available(), reason=f"not measured here: {native.why_not()}")

LAYOUTS = (as_long(Layout(2, 1)), Layout(4, 1), as_long(Layout(1, 2)), Layout(1, 4), Layout(2, 2))
GREEDY = labkit.SamplingParams(max_new_tokens=24, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("model")
    return path, save_peer(path)


@pytest.fixture(scope="module", params=LAYOUTS, ids=lambda layout: f"tp{layout.tensor_parallel} pp{layout.pipeline_parallel}")
def engines(request: pytest.FixtureRequest, folder: tuple[Path, Any]) -> Iterator[tuple[Engine, Engine]]:
    """Two engines with the same model: one in a single process, the other on several ranks. Steps take few tokens, so prompts
    are split into chunks.
    """
    options: dict[str, Any] = {"max_batch_size": 5, "max_step_tokens": 32}
    with load_parallel(folder[0], request.param, dtype="fp32", **options) as parallel:
        yield labkit.load(folder[0], dtype="fp32", **options), parallel


def test_greedy_tokens_of_ragged_prompts_are_equal(engines: tuple[Engine, Engine]) -> None:
    prompts = random_prompts(211, [1, 2, 40, 17, 63, 5, 29, 8], seed=1)
    one, several = (engine.generate(prompts, GREEDY) for engine in engines)
    tokens = [output.completions[0].token_ids for output in one]
    assert [output.completions[0].token_ids for output in several] == tokens
    assert len({tuple(row) for row in tokens}) == len(prompts)


def test_drawn_tokens_penalties_samples_and_beams_are_equal(engines: tuple[Engine, Engine]) -> None:
    prompts = random_prompts(211, [3, 20, 11], seed=2)
    drawn = replace(GREEDY, temperature=0.9, top_k=40, top_p=0.9, repetition_penalty=1.2, seed=4, num_samples=2)
    for params in (drawn, replace(GREEDY, num_beams=3, max_new_tokens=12), replace(GREEDY, speculate=4)):
        one, several = (engine.generate(prompts, params) for engine in engines)
        for a, b in zip(one, several, strict=True):
            assert [c.token_ids for c in a.completions] == [c.token_ids for c in b.completions]


def test_requests_join_stream_and_leave_while_others_run(engines: tuple[Engine, Engine]) -> None:
    prompts = random_prompts(211, [9, 33, 4, 50], seed=3)
    found = []
    for engine in engines:
        first = engine.add_request(prompts[0], GREEDY)
        events = [event for _ in range(4) for event in engine.step()]
        gone = engine.add_request(prompts[1], replace(GREEDY, max_new_tokens=60))
        events += engine.step()
        streamed = [event.token_id for event in engine.stream([prompts[2]], GREEDY)]
        assert engine.cancel(gone)
        third = engine.add_request(prompts[3], GREEDY)
        while engine.has_unfinished:
            events += engine.step()
        found.append((streamed, *([e.token_id for e in events if e.request == number] for number in (first, third))))
    assert found[0] == found[1]
    assert all(len(tokens) == 24 for tokens in found[1])


def test_logits_are_near_those_of_float64(engines: tuple[Engine, Engine], folder: tuple[Path, Any]) -> None:
    tokens = random_prompts(211, [CONTEXT], seed=4)[0]
    with torch.no_grad():
        expected = folder[1].double()(torch.tensor([tokens])).logits[0]
    found = engines[1].logits(tokens).double()
    assert float((found - expected).norm() / expected.norm()) < 1e-5
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


def test_soft_and_prefix_prompts_work_and_what_other_ranks_cannot_see_is_refused(engines: tuple[Engine, Engine]) -> None:
    soft = torch.randn(3, 96, generator=torch.Generator().manual_seed(5))
    prompts = random_prompts(211, [6], seed=5)
    one, several = (engine.generate(prompts, replace(GREEDY, soft_prompt=soft)) for engine in engines)
    assert several[0].completions[0].token_ids == one[0].completions[0].token_ids
    assert one[0].completions[0].token_ids != engines[0].generate(prompts, GREEDY)[0].completions[0].token_ids
    with (
        ops.use(layer_norm=layer_norm_reference),
        pytest.raises(InvalidRequest, match="the other ranks do not see the operations"),
    ):
        engines[1].generate(prompts, GREEDY)
    prefix = torch.randn(5, 2, 4, 3, 24, generator=torch.Generator().manual_seed(6))
    for params in (replace(GREEDY, prefix_prompt=prefix), replace(GREEDY, prefix_prompt=prefix, num_beams=2, max_new_tokens=8)):
        one, several = (engine.generate([*prompts, [4, 5]], [params, GREEDY]) for engine in engines)
        assert [o.completions[0].token_ids for o in several] == [o.completions[0].token_ids for o in one]
    assert one[0].completions[0].token_ids != engines[0].generate(prompts, GREEDY)[0].completions[0].token_ids[:8]


@pytest.mark.parametrize("layout", one_in(3, [Layout(2, 2), Layout(1, 2), Layout(1, 3)]))
def test_long_steps_go_through_the_stages_in_pieces(layout: Layout, folder: tuple[Path, Any]) -> None:
    """The steps have hundreds of tokens, and most of these tokens need no logits."""
    prompts = random_prompts(211, [70, 61, 66, 72, 5, 64], seed=7)
    one = labkit.load(folder[0], dtype="fp32").generate(prompts, GREEDY)
    with load_parallel(folder[0], layout, dtype="fp32") as engine:
        several = engine.generate(prompts, GREEDY)
    assert [o.completions[0].token_ids for o in several] == [o.completions[0].token_ids for o in one]


@pytest.mark.long
@pytest.mark.parametrize("stages", [4, 3])
def test_several_long_steps_in_flight_wait_for_nobody_in_a_circle(stages: int, folder: tuple[Path, Any]) -> None:
    """There are more pieces than can wait between two stages, and the next steps have already been submitted."""
    options: dict[str, Any] = {"max_batch_size": 64, "max_step_tokens": 1024}
    prompts, params = random_prompts(211, [88] * 48, seed=8), replace(GREEDY, max_new_tokens=4)
    one = labkit.load(folder[0], dtype="fp32", **options).generate(prompts, params)
    with load_parallel(folder[0], Layout(1, stages), dtype="fp32", **options) as engine:
        several = engine.generate(prompts, params)
    assert [o.completions[0].token_ids for o in several] == [o.completions[0].token_ids for o in one]


@pytest.mark.parametrize("precision", one_in(3, ["int4", "int8", "bf16"]))
def test_other_precisions_are_sharded_the_same_way(precision: str, folder: tuple[Path, Any]) -> None:
    """A shard has its own scales, so the logits differ a little, but are as near to float64 as the logits of one process."""
    tokens = random_prompts(211, [60], seed=6)[0]
    with torch.no_grad():
        expected = folder[1].double()(torch.tensor([tokens])).logits[0]
    with load_parallel(folder[0], Layout(2, 2), dtype=precision) as several:
        errors = [
            float((engine.logits(tokens).double() - expected).norm() / expected.norm())
            for engine in (several, labkit.load(folder[0], dtype=precision))
        ]
    assert 1e-4 < errors[0] < 1.3 * errors[1]


def test_a_closed_engine_says_so(folder: tuple[Path, Any]) -> None:
    engine = load_parallel(folder[0], Layout(2, 1))
    engine.close()
    engine.close()
    with pytest.raises(NotAvailable, match="the engine was closed; load it again"):
        engine.generate([[1, 2]], GREEDY)


def test_every_rank_can_take_its_caches_memory_before_the_first_request(folder: tuple[Path, Any]) -> None:
    options: dict[str, Any] = {"dtype": "fp32", "cache_bytes": 2**27}
    with load_parallel(folder[0], Layout(2, 1), **options) as parallel, labkit.load(folder[0], **options) as one:
        (rank,) = (psutil.Process(pid) for pid in parallel.forward.ranks.process_ids.values())  # type: ignore[attr-defined]
        before = rank.memory_info().rss
        parallel.occupy_cache()
        prompt = random_prompts(211, [7], seed=9)
        assert parallel.generate(prompt, GREEDY)[0].token_ids == one.generate(prompt, GREEDY)[0].token_ids
        assert rank.memory_info().rss - before > 0.9 * 2**26, "half of the heads, half of the bytes"
