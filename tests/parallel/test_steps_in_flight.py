"""Several steps in flight, with different sequences: the sequences of each step, and what happens if the plan changes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import labkit
from labkit import native
from labkit.engine import Engine
from labkit.engine.batch_builder import BatchBuilder
from labkit.engine.schedule.plan import Plan
from labkit.launch.ledger import COMPUTE
from labkit.model import GPTJ, Batch, Forward, KVCache
from labkit.parallel import Layout, load_parallel
from tests.models import random_prompts
from tests.parallel.models import save_peer
from tests.sampled import one_in

GREEDY = labkit.SamplingParams(max_new_tokens=20, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_peer(path)
    return path


class Queue(Forward):
    """A forward pass in one process that is delayed: passes run in order, and only when their logits are needed."""

    def __init__(self, model: GPTJ, steps: int) -> None:
        self._steps = steps
        self.most = 0
        self.fails_at = -1
        self.failed = 0
        self._model, self._waiting, self._begun = model, [], 0

    @property
    def steps_in_flight(self) -> int:
        return self._steps

    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        return self.submit(batch, cache)()

    def submit(self, batch: Batch, cache: KVCache) -> Callable[[], Tensor]:
        copied = replace(batch, **{n: getattr(batch, n).clone() for n in vars(batch) if isinstance(getattr(batch, n), Tensor)})
        task: dict[str, Any] = {"batch": copied, "cache": cache, "number": self._begun}
        self._begun += 1
        self._waiting.append(task)
        self.most = max(self.most, len(self._waiting))

        def logits() -> Tensor:
            while "logits" not in task:
                first = self._waiting.pop(0)
                if first["number"] == self.fails_at:
                    self.failed += 1
                    raise RuntimeError("this step fails")
                first["logits"] = self._model.forward(first["batch"], first["cache"])
            found: Tensor = task["logits"]
            return found

        return logits


def engines(folder: Path, steps: int, **options: Any) -> tuple[Engine, Engine, Queue]:
    one = labkit.load(folder, dtype="fp32", **options)
    model = GPTJ.from_tensors(
        one.config, lambda name: labkit.checkpoints.open_checkpoint(folder).read(name, dtype=torch.float32)
    )
    queue = Queue(model, steps)
    return one, Engine(model, forward=queue, **options), queue


def tokens_of(engine: Engine, prompts: list[list[int]], params: Any = GREEDY) -> list[list[list[int]]]:
    return [[c.token_ids for c in output.completions] for output in engine.generate(prompts, params)]


@pytest.mark.parametrize("steps", one_in(2, [2, 1, 4, 3]))
@pytest.mark.parametrize("options", [{}, {"max_batch_size": 5, "max_step_tokens": 24}, {"max_batch_size": 6, "num_slots": 110}])
def test_tokens_are_those_of_one_step_at_a_time(folder: Path, steps: int, options: dict[str, Any]) -> None:
    """Prompts run whole and in chunks, and there are so few slots that sequences are preempted."""
    one, several, queue = engines(folder, steps, **options)
    prompts = random_prompts(211, [1, 2, 40, 17, 33, 5, 29, 8], seed=1)
    for params in (
        GREEDY,
        replace(GREEDY, temperature=0.8, seed=3, num_samples=2, logprobs=2),
        replace(GREEDY, speculate=4),
        replace(GREEDY, prompt_logprobs=1),
        [replace(GREEDY, max_new_tokens=n) for n in (1, 20, 3, 9, 14, 2, 11, 6)],
    ):
        assert tokens_of(several, prompts, params) == tokens_of(one, prompts, params)
    assert queue.most == steps
    if "num_slots" in options:
        assert several.stats.preemptions > 0
    assert several.stats.running == several.stats.waiting == 0


def test_shares_are_even_and_beams_run_beside_them(folder: Path) -> None:
    one, several, queue = engines(folder, 2)
    sizes: list[int] = []
    submit = queue.submit
    queue.submit = lambda batch, cache: sizes.append(batch.num_sequences) or submit(batch, cache)  # type: ignore[method-assign,func-returns-value]
    prompts = random_prompts(211, [9] * 8, seed=2)
    assert tokens_of(several, prompts) == tokens_of(one, prompts)
    assert sizes[0] == 8, "all prompts in one step"
    assert set(sizes[2:-2]) == {4}, sizes
    beams = [replace(GREEDY, num_beams=3), GREEDY, GREEDY, GREEDY]
    assert tokens_of(several, prompts[:4], beams) == tokens_of(one, prompts[:4], beams)


def test_who_is_cancelled_under_way_leaves_the_others_as_they_were(folder: Path) -> None:
    one, several, _ = engines(folder, 3, num_slots=200)
    prompts = random_prompts(211, [30, 12, 7, 20, 5], seed=4)
    numbers = [several.add_request(prompt, GREEDY) for prompt in prompts]
    events = [event for _ in range(7) for event in several.step()]
    assert several.cancel(numbers[1])
    assert several.cancel(numbers[4])
    late = several.add_request(prompts[1][::-1], GREEDY)  # takes the slots and the row of a sequence with a step in flight
    while several.has_unfinished:
        events += several.step()
    kept = [numbers[0], numbers[2], numbers[3], late]
    found = [[event.token_id for event in events if event.request == number] for number in kept]
    expected = tokens_of(one, [prompts[0], prompts[2], prompts[3], prompts[1][::-1]])
    assert found == [completions[0] for completions in expected]
    assert several.stats.free_slots == 200


def test_when_all_are_cancelled_no_pass_stays_unfinished(folder: Path) -> None:
    """Otherwise the other ranks would wait for rank 0 until the next request, and give up after their time limit."""
    one, several, queue = engines(folder, 3)
    prompts = random_prompts(211, [30, 12, 7, 20], seed=5)
    numbers = [several.add_request(prompt, GREEDY) for prompt in prompts]
    for _ in range(5):
        several.step()
    assert queue._waiting
    assert all(several.cancel(number) for number in numbers)
    assert not queue._waiting
    assert tokens_of(several, prompts) == tokens_of(one, prompts)


def test_a_sequence_that_changes_its_builder_and_comes_back_has_all_slots(folder: Path) -> None:
    engine, _, _ = engines(folder, 1)
    engine.add_request(random_prompts(211, [9], seed=6)[0], GREEDY)
    engine.step()
    (entry,) = engine._ready().scheduler.running
    builders = [BatchBuilder(4, engine.config.context_length, torch.device("cpu")) for _ in range(2)]
    for turn in (0, 1, 0, 1, 0):
        lines = builders[turn].line_up([entry])
        batch = builders[turn].build(Plan(lines, []))
        known = entry.num_tokens - 1  # the slot of the last token is chosen when a step is planned
        assert batch.slot_table[0, :known].tolist() == entry.held[:known].tolist()
        engine.step()


def test_a_step_that_fails_is_computed_again(folder: Path) -> None:
    one, several, queue = engines(folder, 3)
    prompts = random_prompts(211, [11, 6, 8, 15, 4], seed=5)
    queue.fails_at = 9
    numbers = [several.add_request(prompt, GREEDY) for prompt in prompts]
    events = []
    while several.has_unfinished:
        events += several.step()
    assert queue.failed == 1
    assert not [event for event in events if event.error is not None]
    found = [[event.token_id for event in events if event.request == number] for number in numbers]
    assert found == [completions[0] for completions in tokens_of(one, prompts)]


@pytest.mark.skipif(not native.available(), reason=f"not measured here: {native.why_not()}")
def test_stages_work_at_the_same_time_and_the_ledger_tells_it(folder: Path) -> None:
    prompts = random_prompts(211, [20] * 6, seed=6)
    with load_parallel(folder, Layout(1, 2), dtype="fp32") as engine:
        forward: Any = engine.forward
        expected = tokens_of(labkit.load(folder, dtype="fp32"), prompts)
        forward.ledger()
        begun: list[int] = []
        submit = forward.submit
        forward.submit = lambda batch, cache: (begun.append(len(forward._submitted)), submit(batch, cache))[1]
        assert tokens_of(engine, prompts) == expected
        entries = forward.ledger()
    work = [[e for e in entries if e.rank == rank and e.what == COMPUTE] for rank in (0, 1)]
    assert [e.step for e in work[0]] == [e.step for e in work[1]]
    rows = {e.shape for e in entries if e.what == "send"}
    assert rows == {(120, 96), (3, 96)}, "all prompts, then three sequences a step"
    assert begun.count(1) > 0.9 * len(begun), "a step is begun while the one before has not come to its end"


def interrupted(engine: Engine, prompts: list[list[int]], after: int) -> None:
    for seen, _ in enumerate(engine.stream(prompts, GREEDY), 1):
        if seen == after:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.skipif(not native.available(), reason=f"not measured here: {native.why_not()}")
def test_an_interruption_costs_no_rank_its_place(folder: Path) -> None:
    prompts = random_prompts(211, [20] * 6, seed=7)
    with load_parallel(folder, Layout(1, 2), dtype="fp32") as engine:
        expected = tokens_of(engine, prompts)
        for after in (1, 2, 5, 8):
            with pytest.raises(KeyboardInterrupt):
                interrupted(engine, prompts, after)
            assert tokens_of(engine, prompts) == expected
