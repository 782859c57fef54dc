"""The choice of how many tokens to guess: a bad draft costs hardly any time, a good draft gives most of the possible gain."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from labkit.engine.schedule.draft_length import MOST_GUESSES, DraftLength, expected_tokens


@dataclass(frozen=True)
class Machine:
    """A simulated machine. All times are in seconds.

    plain: a step without guesses. draft: one pass of the draft model. check: the additional time of a step for each guessed
    token that it checks. right: the probability that a guess is right. noise: the largest relative increase of a measured time.
    """

    draft: float
    check: float
    right: float
    noise: float = 0.02
    plain: float = 1.0

    def step(self, guesses: int) -> float:
        return self.plain + guesses * (self.draft + self.check)


def simulated(machine: Machine, tokens: int, *, seed: int = 0, prompt: int = 20) -> float:
    """The time to generate `tokens` tokens of one sequence with guesses, divided by the time without guesses."""
    draw, length, taken, made = random.Random(seed), DraftLength(cost=machine.draft / machine.plain), 0.0, 0
    missing = prompt
    length.target_read(prompt, machine.plain * prompt / 16)
    while made < tokens:
        guesses, reading, right = min(length.choose(1), tokens - made - 1), 0.0, 0
        if guesses and missing > 1:
            reading = machine.draft * missing / 16
            if length.may_read(missing, tokens - made, 1):
                length.read(missing, reading)
            else:
                guesses, reading = 0, 0.0
        if guesses:
            missing = 0
            length.passed(1, machine.draft * draw.uniform(1, 1 + machine.noise))
            while right < guesses and draw.random() < machine.right:
                right += 1
            length.judged(right, guesses)
        else:
            missing += 1
        seconds = machine.step(guesses) * draw.uniform(1, 1 + machine.noise) + reading
        length.stepped(1, guesses, right + 1, seconds, reading)
        taken, made = taken + seconds, made + right + 1
    return taken / (tokens * machine.plain * (1 + machine.noise / 2))


@pytest.mark.parametrize("draft", [0.02, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("check", [0.0, 0.1, 0.8])
@pytest.mark.parametrize("tokens", [64, 1000])
def test_a_draft_that_is_never_right_costs_less_than_a_twentieth(draft: float, check: float, tokens: int) -> None:
    assert simulated(Machine(draft, check, right=0.0), tokens) < 1 / 0.95


@pytest.mark.parametrize(("draft", "check", "right"), [(0.1, 0.02, 0.8), (0.05, 0.0, 0.95), (0.2, 0.05, 0.7), (0.02, 0.3, 0.9)])
def test_a_good_draft_gives_nearly_what_the_best_fixed_number_gives(draft: float, check: float, right: float) -> None:
    machine = Machine(draft, check, right)
    best = min(machine.step(guesses) / expected_tokens(right, guesses) for guesses in range(MOST_GUESSES + 1))
    assert simulated(machine, 4000) < 1.05 * best


def test_guesses_that_never_pay_are_not_made() -> None:
    """The draft is only as fast as the target, and every check costs a whole step: even right guesses save no time."""
    assert simulated(Machine(1.0, 1.0, right=1.0), 1000) < 1.03


def test_a_draft_becomes_useful_again_when_its_guesses_are_right_again() -> None:
    length, machine = DraftLength(cost=0.1), Machine(0.1, 0.0, 0.0)
    for right in (False, True):
        chosen = []
        for _ in range(3000):
            guesses = length.choose(1)
            if guesses:
                length.passed(1, machine.draft)
                length.judged(guesses if right else 0, guesses)
            length.stepped(1, guesses, 1 + guesses * right, machine.step(guesses))
            chosen.append(guesses)
        late = chosen[-200:]
        assert (sum(late) / len(late) > 6) if right else (sum(late) / len(late) < 0.2)


def test_one_slow_measurement_does_not_end_the_guesses() -> None:
    length, machine = DraftLength(cost=0.1), Machine(0.1, 0.0, 0.0)
    for step in range(300):
        guesses = length.choose(1)
        if guesses:
            length.passed(1, machine.draft)
            length.judged(guesses, guesses)
        length.stepped(1, guesses, 1 + guesses, machine.step(guesses) * (50 if step in (4, 6, 9) else 1))
    assert length.choose(1) in (0, *range(5, MOST_GUESSES + 1))
    assert length.right_share > 0.9


def test_the_expected_number_of_tokens_is_that_of_equation_1() -> None:
    for share in (0.3, 0.8):
        for guesses in (0, 1, 5):
            assert expected_tokens(share, guesses) == pytest.approx((1 - share ** (guesses + 1)) / (1 - share))
    assert expected_tokens(1.0, 3) == 4
