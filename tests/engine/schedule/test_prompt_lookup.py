"""Prompt lookup: the guesses follow their definition, no token depends on them, and right guesses save forward passes."""

from __future__ import annotations

import random

import pytest
import torch

from labkit.engine.schedule.prompt_lookup import LONGEST, PromptLookup
from tests.engine.test_sampling import WISHES, sampler_of, sequence


def plain_proposals(tokens: list[int], count: int) -> list[int]:
    """The guess, computed by the definition of prompt lookup.

    Take the longest ending of the text, of up to three tokens, that also occurs earlier. The guess consists of the tokens that
    follow the last earlier occurrence of this ending.
    """
    for length in range(LONGEST, 0, -1):
        ending = tokens[-length:]
        for end in range(len(tokens) - 1, length - 1, -1):
            if len(ending) == length and tokens[end - length : end] == ending:
                made = list(tokens)
                for _ in range(count):
                    made.append(made[end])
                    end += 1
                return made[len(tokens) :]
    return []


@pytest.mark.parametrize("seed", range(6))
def test_proposals_are_their_definition(seed: int) -> None:
    draw = random.Random(seed)
    tokens = [draw.randrange(draw.choice([2, 4, 12])) for _ in range(60)]
    lookup = PromptLookup(tokens[:5])
    for end in range(5, len(tokens)):
        for count in (0, 1, 4, 9):
            assert lookup.propose(count) == plain_proposals(tokens[:end], count)
        lookup.extend(tokens[end : end + 1])
    assert len(lookup) == 60


def test_nothing_is_guessed_where_nothing_was_seen() -> None:
    assert PromptLookup().propose(3) == []
    assert PromptLookup([1, 2, 3]).propose(3) == []
    assert PromptLookup([1, 2, 1]).propose(3) == [2, 1, 2]
    assert PromptLookup([7, 7]).propose(2) == [7, 7]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("wishes", [WISHES, [{"temperature": 0.0}] * 5], ids=["all kinds", "greedy"])
def test_verified_tokens_are_those_made_one_by_one(wishes: list[dict[str, object]], seed: int) -> None:
    """One batch has right guesses, wrong guesses and no guesses: each sequence gets the same tokens as without guessing."""
    vocab, steps, draw = 19, 16, random.Random(seed)
    logits = 2 * torch.randn(len(wishes), steps, vocab, generator=torch.Generator().manual_seed(seed))
    plain, guessing = (
        sampler_of([sequence([1, 5, n], **{"seed": n, **wish}) for n, wish in enumerate(wishes)], vocab) for _ in range(2)
    )
    expected = torch.stack([plain.sample(logits[:, step], range(len(wishes))) for step in range(steps)], dim=1).tolist()
    made: list[list[int]] = [[] for _ in wishes]
    passes = accepted = 0
    while rows := [row for row, tokens in enumerate(made) if len(tokens) < steps]:
        drafts, lines = [], []
        for row in rows:
            at = len(made[row])
            right = expected[row][at : at + draw.randrange(min(5, steps - at))]
            wrong = draw.choice([None, *range(len(right))]) if right else None
            drafts.append([(t + 1) % vocab if i == wrong else t for i, t in enumerate(right)])
            lines.append(logits[row, at : at + len(right) + 1])
        for row, tokens in zip(rows, guessing.verify(torch.cat(lines), rows, drafts), strict=True):
            made[row] += tokens
            accepted += len(tokens) - 1
        passes += 1
    assert made == expected
    assert passes < steps
    assert accepted > 10
