"""What an engine has done and is doing, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineStats:
    """Counts since the engine was made, and its state now.

    tokens_computed: tokens that went through the model, those of preempted sequences once more each time.
    tokens_reused: prompt tokens whose keys and values were found instead. preemptions: how often a running sequence had
    to make room. tokens_guessed, guesses_right: tokens that requests which speculate tried, and those that were taken.
    running, waiting: sequences. num_slots: of the cache; free_slots: those that no sequence holds, of which
    prefix_slots keep a prefix until they are needed.
    """

    tokens_computed: int
    tokens_reused: int
    preemptions: int
    tokens_guessed: int
    guesses_right: int
    running: int
    waiting: int
    num_slots: int
    free_slots: int
    prefix_slots: int
