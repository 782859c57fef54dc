"""A running sequence: how many of its tokens are computed, and which slots hold their keys and values."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

import numpy as np

from labkit.engine.outputs import TokenLogprob
from labkit.engine.schedule.prefix_cache import Tokens
from labkit.engine.schedule.prompt_lookup import PromptLookup
from labkit.engine.schedule.sequence import Sequence
from labkit.engine.schedule.slot_allocator import Slots


class CachedSequence:
    """The scheduler's view of a running sequence.

    The positions of a sequence are numbered in this order: the prefix and soft prompts (together `lead`), the prompt, the new
    tokens. The first `computed` positions have keys and values; the key and value of position p are in slot `slots[column(p)]`.
    With a `window` (the request's `memory_len`) the columns form a ring, in which a new position replaces the oldest position.

    forks: the other samples of the prompt, which become separate sequences once the prompt is computed. decoding: whether only
    one token is left to compute in each step. row: the sequence's row in the sampler, which stays the same while the sequence
    runs; fork_rows: the rows reserved for its forks. sampled: how many new tokens the sampler has seen in that row (-1: the row
    is not set up). guesses: guesses of the tokens after the last token, if the request speculates or the engine has a draft
    model. The guesses are computed together with the last token in this step. prompt_logprobs: if the request asks for them,
    the log-probabilities of the prompt tokens that are scored so far; the key of each is the index of its token.
    """

    def __init__(self, sequence: Sequence, forks: SequenceOf[Sequence] = ()) -> None:
        params = sequence.params
        self.sequence = sequence
        self.forks = list(forks)
        self.window = params.memory_len
        # With a bounded memory, a wrong guess would overwrite an old position that is still needed.
        self.speculates = params.speculate > 0 and params.memory_len is None
        self.prefix_len = params.prefix_len
        self.lead = params.prefix_len + params.soft_len
        self._given = sequence.given_positions
        self.tokens: Tokens = np.array([0] * self.lead + sequence.prompt + sequence.new_tokens, np.int64)
        self.slots: Slots = np.zeros(slots_needed(sequence), np.int32)
        self.num_slots = 0
        self.computed = self.prefix_len
        self.decoding = False
        self.row = -1
        self.fork_rows: list[int] = []
        self.epoch = -1
        self.sampled = -1
        self.guesses: list[int] = []
        self.prompt_logprobs: dict[int, TokenLogprob] = {}
        self._lookup: PromptLookup | None = None

    @property
    def num_tokens(self) -> int:
        """The number of positions whose tokens (or given keys or embeddings) are known now."""
        return self._given + len(self.sequence.new_tokens)

    @property
    def last_token(self) -> int:
        """The token that is the model's next input while decoding."""
        sequence = self.sequence
        return sequence.new_tokens[-1] if sequence.new_tokens else sequence.prompt[-1]

    @property
    def begin(self) -> int:
        """The next position to compute.

        If all positions are computed, this is the last position, whose logits have not been used yet.
        """
        return min(self.computed, self.num_tokens - 1)

    @property
    def is_shareable(self) -> bool:
        """Whether the sequence's keys and values depend only on its tokens, so that other sequences can use them."""
        return self.window is None and self.lead == 0

    @property
    def scores_prompt(self) -> bool:
        """Whether log-probabilities of the prompt are still needed.

        While they are needed, the whole prompt must be computed, and the prefix cache must not be used.
        """
        return self.sequence.params.prompt_logprobs is not None and not self.sequence.new_tokens

    @property
    def held(self) -> Slots:
        """The slots to which the sequence holds references."""
        return self.slots[: self.num_slots]

    @property
    def room(self) -> int:
        """The number of guesses that the sequence can still use. There must also be room for the token after the guesses."""
        return self.sequence.max_new_tokens - len(self.sequence.new_tokens) - 1

    def column(self, position: int) -> int:
        """The index into `slots` of the slot for a position."""
        return position if self.window is None else position % self.window

    def length(self, positions: int) -> int:
        """The number of slots that the sequence attends to when `positions` positions are computed."""
        return positions if self.window is None else min(positions, self.window)

    def chunk(self, budget: int) -> int:
        """The number of positions to compute in one pass: at most `budget`, and only one when a bounded memory is full."""
        begin = self.begin
        room = self.num_tokens - begin
        if self.window is not None:
            room = min(room, max(self.window - begin, 1))
        return min(room, budget)

    def guess(self, most: int) -> list[int]:
        """Guess the tokens after the last token.

        Makes as many guesses as the request asks for, but no more than the sequence can still use, and at most `most`.
        """
        sequence = self.sequence
        if self._lookup is None:
            self._lookup = PromptLookup(sequence.prompt)
        self._lookup.extend(sequence.new_tokens[len(self._lookup) - len(sequence.prompt) :])
        return self._lookup.propose(min(sequence.params.speculate, self.room, most))

    def extend(self, slots: Slots) -> None:
        """Add slots to the sequence."""
        self.slots[self.num_slots : self.num_slots + len(slots)] = slots
        self.num_slots += len(slots)

    def fork(self, sequence: Sequence, row: int) -> CachedSequence:
        """Make another sequence that has the same tokens and slots so far. The caller counts the references to the slots."""
        twin = CachedSequence(sequence)
        twin.extend(self.held)
        twin.computed, twin.decoding, twin.row, twin.epoch = self.computed, self.decoding, row, self.epoch
        return twin


def slots_needed(sequence: Sequence) -> int:
    """The largest number of slots that a sequence, or the beam search for it, needs.

    The last token is never an input of the model, so it needs no slot. A request's `memory_len` bounds the slots of a sequence.
    """
    params, fed_back = sequence.params, sequence.max_new_tokens - 1
    if params.num_beams > 1:
        return sequence.given_positions + params.num_beams * fed_back
    positions = sequence.given_positions + fed_back
    return positions if params.memory_len is None else min(positions, params.memory_len)
