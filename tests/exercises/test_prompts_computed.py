"""A timed run of a task computes the keys and values of its prompts: the engine does not reuse those of the previous run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import labkit
from labkit.exercises.lab02 import climb
from labkit.exercises.lab03 import measurements
from labkit.exercises.lab05 import tradeoff
from labkit.exercises.lab08 import own_machine


@pytest.fixture
def engine() -> Iterator[labkit.Engine]:
    with labkit.load("gptj-tiny", device="cpu", dtype="fp32") as made:
        yield made
        assert made.stats.tokens_computed > 0
        assert made.stats.tokens_reused == 0


def test_of_lab_02(engine: labkit.Engine) -> None:
    run = climb._runner(engine, {})
    for _ in range(3):
        run()


def test_of_lab_03(engine: labkit.Engine) -> None:
    for _ in range(3):
        measurements._from_the_start(engine, [[5] * 40], labkit.SamplingParams(max_new_tokens=2))


def test_of_lab_05(engine: labkit.Engine) -> None:
    assert tradeoff.speeds({"fp32": engine}, seconds=0.01)["fp32"].runs >= 5


def test_of_lab_08(engine: labkit.Engine) -> None:
    assert own_machine.seconds_of(engine, (1, 2), seconds=0.01)["2"].runs >= 5
