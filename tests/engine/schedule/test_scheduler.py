"""The scheduler without a model: it keeps the order of requests and all limits, preempts and cancels, and loses no slot."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest

from labkit.engine import SamplingParams
from labkit.engine.schedule.plan import Plan
from labkit.engine.schedule.scheduler import LOOKAHEAD, Scheduler
from labkit.engine.schedule.sequence import Sequence
from labkit.engine.schedule.slot_pool import SlotPool
from labkit.errors import InvalidRequest


def sequence(prompt: list[int], new_tokens: int = 4, sample: int = 0, **params: Any) -> Sequence:
    return Sequence(
        request=0,
        sample=sample,
        prompt=prompt,
        params=SamplingParams(**params),
        max_new_tokens=new_tokens,
        eos_token_id=None,
        bad_words=(),
        seed=0,
        token_bytes=lambda token: b"",
    )


def scheduler(
    num_slots: int = 1000, rows: int = 8, tokens: int = 32, mixed: int | None = None, *, prefix_reuse: bool = True
) -> Scheduler:
    return Scheduler(SlotPool(num_slots, prefix_reuse=prefix_reuse), rows, tokens, mixed)


def step(one: Scheduler) -> tuple[Plan, list[Sequence]]:
    """Run a step of a fake model whose every token is a new number. Return the plan and the sequences that got a token."""
    plan = one.plan()
    assert plan.num_tokens <= one.max_step_tokens
    assert len(one.running) <= one.max_batch_size
    for entry in [*plan.decodes, *(chunk.entry for chunk in plan.chunks)]:
        check_entry(one, entry)
    given = []
    for entry in one.commit(plan):
        event = entry.sequence.append(step.counter, None)  # type: ignore[attr-defined]
        step.counter += 1  # type: ignore[attr-defined]
        given.append(entry.sequence)
        if event.finish_reason is not None:
            one.finish(entry)
    return plan, given


step.counter = 10_000  # type: ignore[attr-defined]


def check_entry(one: Scheduler, entry: Any) -> None:
    held = entry.held.tolist()
    assert len(set(held)) == len(held), "a slot twice in one sequence"
    assert all(one.pool.allocator.references[slot] >= 1 for slot in held), "a free slot in use"


def check_references(one: Scheduler) -> None:
    """Check that the reference count of each slot equals the number of running sequences that hold the slot."""
    expected = Counter(slot for entry in one.running for slot in entry.held.tolist())
    references = one.pool.allocator.references
    assert {slot: int(references[slot]) for slot in references.nonzero()[0].tolist()} == dict(expected)
    kept = one.pool.prefixes.num_slots
    assert (
        one.pool.allocator.num_free + kept + sum(1 for s in expected if not one.pool.allocator._kept[s]) == one.pool.num_slots
    )


def check_empty(one: Scheduler) -> None:
    assert not one.running
    assert not one.waiting
    check_references(one)
    assert one.pool.num_available == one.pool.num_slots
    assert sorted(one._rows) == list(range(one.max_batch_size))


def unlike(length: int, first: int) -> list[int]:
    """A prompt that has no tokens in common with the prompts made for another `first`."""
    return [first * 100 + index for index in range(length)]


def test_a_prompt_longer_than_a_step_goes_in_chunks_and_its_last_chunk_gives_a_token() -> None:
    one = scheduler(tokens=10, rows=2)
    one.add([sequence(unlike(23, 1))])
    counts = []
    for _ in range(4):
        plan, given = step(one)
        counts.append((plan.num_tokens, len(given)))
    assert counts == [(10, 0), (10, 0), (3, 1), (1, 1)]


def test_running_sequences_get_a_token_in_every_step_while_a_long_prompt_advances() -> None:
    """The long prompt is computed together with as many short prompts as fit, and ends within the limit that `Scheduler`
    states.
    """
    one = scheduler(tokens=16, rows=8, num_slots=3000)
    running = [sequence(unlike(2, n), 400) for n in range(7)]
    for short in running:
        one.add([short])
    step(one)
    long = sequence(unlike(300, 50))
    one.add([long])
    taken = 0
    while not long.new_tokens:
        _, given = step(one)
        assert all(short in given for short in running), "a prompt stalled a decoding sequence"
        taken += 1
    assert 300 / 16 < taken <= math.ceil(300 / (16 - 8))


def test_short_prompts_behind_a_long_one_start_within_the_bound_whoever_comes_after() -> None:
    one = scheduler(tokens=16, rows=4, num_slots=3000)
    long, short = sequence(unlike(100, 1), 50), sequence(unlike(5, 2), 50)
    one.add([long])
    one.add([short])
    bound = math.ceil(105 / (16 - 4))
    for count in range(1, bound + 1):
        one.add([sequence(unlike(3, 10 + count), 2)])
        step(one)
        if short.new_tokens:
            break
    assert long.new_tokens
    assert short.new_tokens


def test_first_come_first_served_even_when_a_later_one_would_fit() -> None:
    one = scheduler(num_slots=40, rows=8, tokens=64)
    first, big, small = sequence(unlike(10, 1), 9), sequence(unlike(30, 2), 2), sequence(unlike(2, 3), 2)
    for request in (first, big, small):
        one.add([request])
    order = []
    while one.running or one.waiting:
        _, given = step(one)
        order += [s for s in given if len(s.new_tokens) == 1]
    assert order == [first, big, small]
    check_empty(one)


def test_the_latest_is_preempted_and_goes_on_where_it_was() -> None:
    one = scheduler(num_slots=60, rows=4, tokens=64, prefix_reuse=False)
    early, late = sequence(unlike(10, 1), 40), sequence(unlike(10, 2), 40)
    for request in (early, late):
        one.add([request])
    step(one)
    behind = sequence(unlike(50, 3), 2)
    one.add([behind])
    while not one.preemptions:
        step(one)
    assert list(one.waiting) == [[late], [behind]]
    made = list(late.new_tokens)
    assert len(made) > 3 * LOOKAHEAD - 10
    assert len(early.new_tokens) == len(made) + 1, "the earliest was held up"
    while one.running or one.waiting:
        step(one)
    assert late.new_tokens[: len(made)] == made
    assert [len(early.new_tokens), len(late.new_tokens), len(behind.new_tokens)] == [40, 40, 2]
    assert one.tokens_computed > 2 * (10 + 39), "preempted tokens were not computed anew"
    check_empty(one)


def test_a_preempted_sequence_finds_what_nobody_needed_meanwhile() -> None:
    one = scheduler(num_slots=60, rows=4, tokens=64)
    for request in (sequence(unlike(10, 1), 40), sequence(unlike(10, 2), 40)):
        one.add([request])
    while one.running or one.waiting:
        step(one)
        check_references(one)
    assert one.preemptions >= 1
    assert one.tokens_reused > 0
    check_empty(one)


def test_a_sequence_that_needs_the_whole_pool_runs_and_a_larger_one_is_refused() -> None:
    one = scheduler(num_slots=20, rows=4)
    exact = sequence(unlike(11, 1), 10)
    one.pool.check(exact)
    for filler in range(3):
        one.add([sequence(unlike(9, 5 + filler), 3)])
    one.add([exact])
    for _ in range(200):
        step(one)
    assert len(exact.new_tokens) == 10
    check_empty(one)
    with pytest.raises(InvalidRequest, match=r"11 tokens with 11 new tokens needs 21 slots .* has 20"):
        one.pool.check(sequence(unlike(11, 1), 11))


def test_samples_of_a_prompt_compute_it_once_and_share_its_slots() -> None:
    one = scheduler(tokens=16, rows=4)
    samples = [sequence(unlike(30, 1), 5, sample) for sample in range(3)]
    one.add(samples)
    step(one)
    _, given = step(one)
    assert given == samples
    assert one.tokens_computed == 30
    first, second, third = one.running
    assert first.held.tolist() == second.held.tolist() == third.held.tolist()
    assert set(one.pool.allocator.references[first.held].tolist()) == {3}
    assert len({entry.row for entry in one.running}) == 3
    while one.running:
        step(one)
    assert one.tokens_computed == 30 + 3 * 4
    check_empty(one)


def test_equal_prefixes_are_computed_once_even_when_they_come_together() -> None:
    one = scheduler(tokens=600, rows=16)
    common = unlike(100, 1)
    asked = [sequence([*common, 5000 + n], 3) for n in range(10)]
    for request in asked:
        one.add([request])
    while one.running or one.waiting:
        step(one)
        check_references(one)
    assert one.tokens_reused == 9 * 100
    assert one.tokens_computed == 101 + 9 * 1 + 10 * 2
    check_empty(one)


def test_the_last_token_of_a_known_prompt_is_computed_for_its_logits() -> None:
    one = scheduler()
    for _ in range(2):
        one.add([sequence(unlike(20, 1), 1)])
        while one.running or one.waiting:
            step(one)
    assert one.tokens_reused == 19
    assert one.tokens_computed == 21


def test_prefix_reuse_switched_off_reuses_nothing() -> None:
    one = scheduler(prefix_reuse=False)
    for _ in range(2):
        one.add([sequence(unlike(20, 1), 1)])
        while one.running or one.waiting:
            step(one)
    assert (one.tokens_reused, one.tokens_computed) == (0, 40)
    assert one.pool.allocator.num_free == one.pool.num_slots


def test_planning_again_after_a_failed_step_takes_no_further_slot() -> None:
    one = scheduler(tokens=16)
    one.add([sequence(unlike(40, 1), 6)])
    for _ in range(4):
        before = one.plan()
        free = one.pool.num_available
        again = one.plan()
        assert one.pool.num_available == free
        assert again.num_tokens == before.num_tokens
        step(one)
        check_references(one)


def test_a_cancelled_request_gives_back_its_slots_at_once_wherever_it_is() -> None:
    one = scheduler(num_slots=200, rows=2, tokens=16)
    running, prefilling, waiting = (sequence(unlike(n, n), 30) for n in (5, 60, 7))
    one.add([running])
    step(one)
    one.add([prefilling])
    one.add([waiting])
    step(one)
    assert [len(s.new_tokens) for s in (running, prefilling, waiting)] == [2, 0, 0]
    for request in (prefilling, waiting, running):
        one.cancel({request})
        check_references(one)
    check_empty(one)


@pytest.mark.parametrize("seed", range(25))
def test_any_order_of_arrivals_and_cancellations_ends_with_every_slot_accounted_for(seed: int) -> None:
    """No sequence starves: the earliest running sequence advances in every step, and every sequence that is not cancelled is
    completed.
    """
    draw = random.Random(seed)
    one = scheduler(draw.choice([45, 70, 200]), draw.choice([3, 6]), draw.choice([8, 20]), prefix_reuse=draw.random() < 0.7)
    asked: list[Sequence] = []
    gone: set[Sequence] = set()
    for turn in range(2000):
        if turn < 80 and draw.random() < 0.4:
            memory = draw.choice([None, None, 25])
            prompt = [draw.randrange(2) for _ in range(draw.randint(1, 20))]
            number = draw.choice([1, 1, 1, 3])
            length = draw.randint(1, 20)
            options = {"temperature": 1.0, "memory_len": memory}
            group = [sequence(prompt, length, sample, **options) for sample in range(number)]
            asked += group
            one.add(group)
        if asked and draw.random() < 0.05:
            prompt_of = draw.choice(asked).prompt
            group_of = {s for s in asked if s.prompt is prompt_of and len(s.new_tokens) < s.max_new_tokens}
            one.cancel(group_of)
            gone |= group_of
        first = one.running[0] if one.running else None
        before = (first.computed, len(first.sequence.new_tokens)) if first else None
        step(one)
        check_references(one)
        if first is not None:
            assert (first.computed, len(first.sequence.new_tokens)) != before, "the earliest did not advance"
        if turn > 80 and not one.running and not one.waiting:
            break
    check_empty(one)
    assert all(len(s.new_tokens) == s.max_new_tokens for s in asked if s not in gone)


def test_schedules_with_small_pools_do_preempt() -> None:
    """This shows that the pools of the test above are small enough for preemption."""
    preemptions = 0
    for seed in range(5):
        draw = random.Random(seed)
        one = scheduler(45, 6, 20)
        for _ in range(12):
            one.add([sequence([draw.randrange(2) for _ in range(draw.randint(1, 20))], 20)])
        while one.running or one.waiting:
            step(one)
        preemptions += one.preemptions
    assert preemptions > 10


@pytest.mark.parametrize("mixed", [1, 5, 12])
def test_who_decodes_waits_for_few_tokens_of_prompts(mixed: int) -> None:
    one = scheduler(rows=4, tokens=32, mixed=mixed)
    one.add([sequence(list(range(30)), 60)])
    assert step(one)[0].num_tokens == 30, "nobody waits for the first prompt"
    late = [sequence(list(range(100 * n, 100 * n + 20))) for n in (1, 2)]
    for each in late:
        one.add([each])
    steps = 0
    while not late[1].new_tokens:
        plan, given = step(one)
        steps += 1
        assert given[0] not in late, "the first goes on in each step"
        assert sum(chunk.count for chunk in plan.chunks) <= mixed
    assert steps == math.ceil(40 / mixed)


@pytest.mark.parametrize(
    ("rows", "tokens", "mixed", "words"),
    [
        (0, 8, None, "max_batch_size is 0"),
        (8, 8, None, "max_step_tokens is 8"),
        (2, 8, 0, "max_mixed_prefill is 0"),
    ],
)
def test_limits_under_which_prompts_would_stand_still_are_refused(
    rows: int, tokens: int, mixed: int | None, words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        scheduler(rows=rows, tokens=tokens, mixed=mixed)
