"""Beam search: the hypotheses equal those of transformers, diverse groups follow their definition, and the KV cache is never
copied.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from labkit.engine import Engine, SamplingParams
from labkit.engine.beams.beam_group import Hypothesis
from labkit.engine.beams.beam_search import BeamSearch
from labkit.engine.beams.beam_tree import path
from labkit.engine.sampler import Sampler
from labkit.engine.schedule.cached_sequence import slots_needed
from labkit.engine.schedule.sequence import Sequence
from labkit.model import KVCache
from labkit.model.batch import Batch
from labkit.model.forward import Forward
from tests.models import FunctionForward, engine_of, random_peer, random_prompts


def peer_with_ends(shape: str, seed: int, bias: float, dtype: torch.dtype = torch.float32) -> Any:
    """A random transformers model in which the end of text (token 0) is probable enough to occur."""
    peer = random_peer(shape, seed, dtype)
    with torch.no_grad():
        peer.lm_head.bias[0] += bias
    return peer


def sequences(engine: Engine, prompts: list[list[int]], params: list[SamplingParams]) -> list[Sequence]:
    return [
        Sequence(
            request=request,
            sample=0,
            prompt=prompt,
            params=chosen,
            max_new_tokens=chosen.fit(engine.config, len(prompt)),
            eos_token_id=engine.config.eos_token_id,
            bad_words=[tuple(word) for word in chosen.bad_words],  # type: ignore[arg-type]
            seed=0,
            token_bytes=lambda token: f"<{token}>".encode(),
        )
        for request, (prompt, chosen) in enumerate(zip(prompts, params, strict=True))
    ]


def search_of(forward: Forward, engine: Engine, cache: KVCache, asked: list[Sequence], **options: Any) -> BeamSearch:
    """A search that may use all slots of the cache. There are unused sampler rows before and after its rows."""
    rows = range(2, 2 + sum(sequence.params.num_beams for sequence in asked))
    sampler = Sampler(rows.stop + 1, engine.config.vocab_size, engine.device)
    return BeamSearch(forward, cache, sampler, rows, range(cache.num_slots), asked, **options)


def searched(engine: Engine, prompts: list[list[int]], params: list[SamplingParams], **options: Any) -> list[list[Hypothesis]]:
    """Run a search whose cache is filled with NaN. Return the hypotheses of each prompt."""
    asked = sequences(engine, prompts, params)
    cache = KVCache(engine.config, sum(map(slots_needed, asked)), device=engine.device, dtype=engine.dtype)
    cache.keys.fill_(math.nan)
    cache.values.fill_(math.nan)
    search = search_of(engine.model, engine, cache, asked, **options)
    found = search.run()
    assert sorted(search.tree.free) == list(range(cache.num_slots)), "slots were lost or given back twice"
    return found


def tokens(hypothesis: Hypothesis) -> list[int]:
    return [node.token for node in path(hypothesis.node)]


def of_transformers(peer: Any, prompt: list[int], count: int, **options: Any) -> list[tuple[list[int], float]]:
    made = peer.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        num_return_sequences=count,
        do_sample=False,
        pad_token_id=1,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    found = []
    for row, score in zip(made.sequences[:, len(prompt) :].tolist(), made.sequences_scores.tolist(), strict=True):
        end = row.index(0) + 1 if 0 in row else len(row)
        found.append((row[:end], score))
    return found


RULES = [
    {"early_stopping": early, "length_penalty": penalty}
    for early in (False, True, "never")
    for penalty in (1.0, 0.0, 2.0, -1.0)
]


@pytest.mark.parametrize("rules", RULES, ids=str)
@pytest.mark.parametrize("shape", ["rotary below the head", "one head of 80"])
def test_hypotheses_are_those_of_transformers(shape: str, rules: dict[str, Any]) -> None:
    peer = peer_with_ends(shape, 3, 2.5)
    prompts = random_prompts(peer.config.vocab_size, [1, 9, 4], 3)
    beams = [2, 4, 5]
    params = [SamplingParams(num_beams=n, num_samples=n, max_new_tokens=9, **rules) for n in beams]
    found = searched(engine_of(peer), prompts, params, max_prefill_tokens=10)
    lengths = set()
    for prompt, n, hypotheses in zip(prompts, beams, found, strict=True):
        expected = of_transformers(peer, prompt, n, num_beams=n, max_new_tokens=9, **rules)
        assert [tokens(h) for h in hypotheses] == [row for row, _ in expected]
        assert [h.score for h in hypotheses] == pytest.approx([score for _, score in expected], rel=1e-4)
        lengths |= {len(row) for row, _ in expected}
    everything_to_the_end = rules == {"early_stopping": "never", "length_penalty": 2.0}
    assert everything_to_the_end or len(lengths) > 1, "no hypothesis ended before the limit: the comparison would prove little"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"repetition_penalty": 1.8}, {"repetition_penalty": 1.8}),
        ({"min_new_tokens": 5}, {"min_new_tokens": 5}),
        ({"bad_words": [[63], [19, 19]]}, {"bad_words_ids": [[63], [19, 19]]}),
        ({"stop_token_ids": [15, 63]}, {"eos_token_id": [0, 15, 63]}),
        ({"ignore_eos": True, "stop_token_ids": [9]}, {"eos_token_id": 9}),
        ({"end_token_id": 9}, {"eos_token_id": 9}),
    ],
    ids=str,
)
def test_penalties_bans_and_ends_are_those_of_transformers(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    peer = peer_with_ends("head of 32, rotary of all", 5, 2.0)
    ends = theirs.get("eos_token_id", 0)
    with torch.no_grad():
        peer.lm_head.bias[torch.tensor(ends)] += 1.5
    prompts = random_prompts(97, [6, 1, 13], 5)
    params = [SamplingParams(num_beams=3, num_samples=3, max_new_tokens=8, **ours)] * 3
    found = searched(engine_of(peer), prompts, params)
    free = searched(engine_of(peer), prompts, [SamplingParams(num_beams=3, max_new_tokens=8)] * 3)
    for prompt, hypotheses in zip(prompts, found, strict=True):
        made = peer.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            **{"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 8, "pad_token_id": 1, "do_sample": False, **theirs},
        )
        rows = made[:, len(prompt) :].tolist()
        stops = {ends} if isinstance(ends, int) else set(ends)
        expected = [row[: next((i + 1 for i, t in enumerate(row) if t in stops), len(row))] for row in rows]
        assert [tokens(h) for h in hypotheses] == expected
    assert [[tokens(h) for h in hs] for hs in found] != [[tokens(h) for h in hs] for hs in free]


# By definition ----------------------------------------------------------------------------------------------------------
def slow_beams(
    logits_of: Callable[[list[int]], torch.Tensor], params: SamplingParams, limit: int
) -> list[tuple[list[int], float]]:
    """Beam search with groups and sibling ranks in plain Python. Every branch is recomputed from its tokens."""
    size = params.num_beams // params.num_beam_groups
    running: list[list[tuple[list[int], float]]] = [[([], 0.0)] for _ in range(params.num_beam_groups)]
    pools: list[list[tuple[list[int], float]]] = [[] for _ in running]
    for length in range(1, limit + 1):
        taken: Counter[int] = Counter()
        for group, beams in enumerate(running):
            ranked = []
            for made, score in beams:
                row = torch.log_softmax(logits_of(made).double() / (params.temperature or 1.0), -1).tolist()
                children = [(score + row[t] - params.diversity_penalty * taken[t], t) for t in range(len(row))]
                children.sort(key=lambda child: -child[0])
                ranked += [(s - params.diversity_rate * rank, s, [*made, t]) for rank, (s, t) in enumerate(children)]
            ranked.sort(key=lambda child: -child[0])
            going: list[tuple[list[int], float]] = []
            for place, (_, score, made) in enumerate(ranked[: 2 * size]):
                if made[-1] == 0 or length == limit:
                    if place < size:
                        pools[group].append((made, score / length**params.length_penalty))
                elif len(going) < size:
                    going.append((made, score))
            pools[group] = sorted(pools[group], key=lambda ended: -ended[1])[:size]
            settled = going and len(pools[group]) == size and pools[group][-1][1] >= going[0][1] / length**params.length_penalty
            running[group] = [] if settled else going
            taken.update(made[-1] for made, _ in running[group])
    return sorted((ended for pool in pools for ended in pool), key=lambda ended: -ended[1])


@pytest.mark.parametrize(
    "wishes",
    [
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.7},
        {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 2.5, "length_penalty": 0.0},
        {"num_beams": 3, "num_beam_groups": 3, "diversity_penalty": 1.0},
        {"num_beams": 4, "diversity_rate": 0.9},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5, "diversity_rate": 0.4},
        {"num_beams": 3, "temperature": 0.3},
    ],
    ids=str,
)
def test_groups_sibling_ranks_and_temperature_are_their_definition(wishes: dict[str, Any]) -> None:
    engine = engine_of(peer_with_ends("one head of 80", 12, 1.5, torch.float64))
    prompts = random_prompts(59, [5, 1], 12)
    params = SamplingParams(max_new_tokens=6, **wishes)
    plain = searched(engine, prompts, [SamplingParams(max_new_tokens=6, num_beams=params.num_beams)] * 2)
    for prompt, hypotheses, without in zip(prompts, searched(engine, prompts, [params] * 2), plain, strict=True):
        expected = slow_beams(lambda made: engine.logits([*prompt, *made])[-1], params, 6)  # noqa: B023
        assert [tokens(h) for h in hypotheses] == [made for made, _ in expected]
        assert [h.score for h in hypotheses] == pytest.approx([score for _, score in expected], rel=1e-9)
        assert [h.score for h in hypotheses] != [h.score for h in without]


def test_groups_differ_more_than_beams_do() -> None:
    engine = engine_of(random_peer("rotary below the head", 6))
    (prompt,) = random_prompts(211, [8], 6)
    plain = SamplingParams(num_beams=4, max_new_tokens=8, ignore_eos=True)
    diverse = SamplingParams(num_beams=4, max_new_tokens=8, ignore_eos=True, num_beam_groups=4, diversity_penalty=50.0)
    firsts = [len({tokens(h)[0] for h in searched(engine, [prompt], [params])[0]}) for params in (plain, diverse)]
    assert firsts[1] == 4 > firsts[0]


def test_more_beams_never_score_worse_than_greedy_and_one_prompt_does_not_disturb_another() -> None:
    engine = engine_of(peer_with_ends("one head of 80", 4, 1.0))
    prompts = random_prompts(59, [3, 17, 1, 8], 4)
    params = [SamplingParams(num_beams=n, max_new_tokens=m, length_penalty=0.0) for n, m in ((4, 9), (2, 3), (3, 1), (8, 12))]
    together = searched(engine, prompts, params)
    for prompt, chosen, hypotheses in zip(prompts, params, together, strict=True):
        (alone,) = searched(engine, [prompt], [chosen])
        assert [tokens(h) for h in hypotheses] == [tokens(h) for h in alone]
        assert len({tuple(tokens(h)) for h in hypotheses}) == len(hypotheses) == chosen.num_beams


def test_beams_to_the_end_of_the_context_are_those_of_transformers() -> None:
    """The last token needs no slot and no position, so it can still be generated when the context is full."""
    peer = random_peer("one head of 80", 14)
    (prompt,) = random_prompts(59, [26], 14)
    params = SamplingParams(num_beams=3, num_samples=3, max_new_tokens=33 - 26, ignore_eos=True)
    expected = of_transformers(peer, prompt, 3, num_beams=3, max_new_tokens=7, eos_token_id=1000)
    assert [tokens(h) for h in searched(engine_of(peer), [prompt], [params])[0]] == [row for row, _ in expected]
    longer = SamplingParams(num_beams=3, max_new_tokens=8, ignore_eos=True)
    assert all(len(tokens(h)) == 8 for h in searched(engine_of(peer), [prompt], [longer])[0])


# The cache --------------------------------------------------------------------------------------------------------------
def test_no_key_or_value_is_ever_moved() -> None:
    """Each forward pass writes one slot per beam, which no other beam holds. Between passes, no slot is written."""
    engine = engine_of(random_peer("rotary below the head", 7))
    asked = sequences(engine, random_prompts(211, [6, 11], 7), [SamplingParams(num_beams=5, max_new_tokens=12)] * 2)
    cache = KVCache(engine.config, sum(map(slots_needed, asked)), device=engine.device, dtype=engine.dtype)
    cache.keys.zero_()
    cache.values.zero_()
    kept: list[torch.Tensor] = []
    reordered = shared = 0

    def watched(batch: Batch, cache: KVCache) -> torch.Tensor:
        nonlocal reordered, shared
        if kept:
            assert torch.equal(kept[0], cache.keys)
            assert torch.equal(kept[1], cache.values)
        before = cache.keys.clone(), cache.values.clone()
        rows = [row[:n].tolist() for row, n in zip(batch.slot_table, batch.lengths.tolist(), strict=True)]
        logits = engine.model.forward(batch, cache)
        written = set(batch.slot_mapping.tolist())
        others = [slot for slot in range(cache.num_slots) if slot not in written]
        assert torch.equal(before[0][:, others], cache.keys[:, others])
        assert torch.equal(before[1][:, others], cache.values[:, others])
        kept[:] = cache.keys.clone(), cache.values.clone()
        if batch.is_decode:
            assert len(written) == batch.num_sequences
            assert not any(slot in written for row in rows for slot in row[:-1])
            assert all(len(set(row)) == len(row) for row in rows)
            shared += len(rows) > len({tuple(row[:-1]) for row in rows})
            reordered += 1
        return logits

    search = search_of(FunctionForward(watched), engine, cache, asked)
    search.run()
    assert (reordered, shared > 3) == (11, True)


def test_a_prompt_is_computed_once_for_all_its_beams() -> None:
    engine = engine_of(random_peer("one head of 80", 2))
    seen = []

    def counted(batch: Batch, cache: KVCache) -> torch.Tensor:
        seen.append(batch.num_tokens)
        return engine.model.forward(batch, cache)

    asked = sequences(
        engine, random_prompts(59, [9, 4], 2), [SamplingParams(num_beams=3, max_new_tokens=4, ignore_eos=True)] * 2
    )
    cache = KVCache(engine.config, sum(map(slots_needed, asked)), device=engine.device, dtype=engine.dtype)
    search_of(FunctionForward(counted), engine, cache, asked).run()
    assert seen == [13, 6, 6, 6]


# Ends and reports -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("least", [0, 4])
def test_stop_sequences_and_strings_end_a_hypothesis(least: int) -> None:
    engine = engine_of(random_peer("one head of 80", 9))
    (prompt,) = random_prompts(59, [7], 9)
    free = SamplingParams(num_beams=4, max_new_tokens=8, ignore_eos=True, length_penalty=0.0)
    best = tokens(searched(engine, [prompt], [free])[0][0])
    for stop in ([tuple(best[1:3])], [f"<{best[1]}><{best[2]}>"], [f"{best[1]}><{best[2]}"]):
        params = replace(free, stop=stop, min_new_tokens=least)
        found = [tokens(h) for h in searched(engine, [prompt], [params])[0]]
        for made in found:
            text = "".join(f"<{token}>" for token in made[least:])
            assert f"<{best[1]}><{best[2]}>" not in text[:-1]
        assert (any(made == best[:3] for made in found)) == (least == 0)


def test_logprobs_of_a_hypothesis_are_the_models_own() -> None:
    engine = engine_of(peer_with_ends("one head of 80", 3, 1.0, torch.float64))
    (prompt,) = random_prompts(59, [5], 3)
    params = SamplingParams(num_beams=3, max_new_tokens=6, logprobs=2, temperature=2.0, repetition_penalty=1.3)
    for hypothesis in searched(engine, [prompt], [params])[0]:
        nodes = path(hypothesis.node)
        table = torch.log_softmax(engine.logits(prompt + tokens(hypothesis)), -1)
        for index, node in enumerate(nodes):
            row = table[len(prompt) - 1 + index]
            assert node.logprob is not None
            assert node.logprob.token_id == node.token
            assert node.logprob.logprob == pytest.approx(float(row[node.token]), rel=1e-9)
            assert [token for token, _ in node.logprob.top] == row.topk(2).indices.tolist()
