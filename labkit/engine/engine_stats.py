"""Counters of an engine's finished and running work."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineStats:
    """Counts since the engine was made, and the engine's present state.

    tokens_computed: tokens that went through the model; the tokens of a preempted sequence are counted again. tokens_reused:
    prompt tokens whose keys and values were already in the cache. preemptions: how often a running sequence had to give up its
    slots. tokens_guessed: tokens that prompt lookup or a draft model proposed. guesses_right: the proposed tokens that were
    accepted.
    running, waiting: how many sequences run, and how many wait. num_slots: all slots of the cache. free_slots: the slots that
    no sequence holds. prefix_slots: those free slots that still hold a reusable prefix.
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

    @property
    def acceptance(self) -> float | None:
        """The share of the proposed tokens that were accepted; None if none were proposed.

        After a wrong token, the other tokens of the same proposal are not accepted either.
        """
        return self.guesses_right / self.tokens_guessed if self.tokens_guessed else None
