"""Chooses the next token of each running sequence from its logits, on the logits' device.

The sampling state of a running sequence is one row of a few tensors. A sequence gets a row when it starts to run. Each new
token updates the row of its sequence on the device, without work on the host. A random draw comes from a counter-based
generator: it depends only on the sequence's seed, its sample number and the position, never on the other sequences of the
batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import torch
from torch import Tensor

from labkit import ops
from labkit.engine.bad_text_rows import BadTextRows
from labkit.engine.bad_words import BadWords
from labkit.engine.outputs import NO_TOKEN
from labkit.engine.schedule.sequence import Sequence
from labkit.ops.token_marks import BANNED, GENERATED, IN_PROMPT, STOP
from labkit.torch_state import inference

RESET = 16
"""The bit that marks a token which resets top_p to its first value.

This bit is stored with the bits that `ops.penalize` reads.
"""

KEPT_INDICES = 8
"""The number of index tensors that a sampler keeps. The running sequences use one tensor, and each beam search one more."""

_TEMPERATURE, _TOP_P, _TOP_P_FULL, _TOP_P_DECAY, _TOP_P_MIN, _REPETITION, _PRESENCE = range(7)
_TOP_K, _SEED, _SAMPLE, _POSITION, _MIN_NEW_TOKENS = range(5)


@dataclass(frozen=True)
class _Wishes:
    """The kinds of work that a row needs. The host stores them, so it need not ask the device."""

    draws: bool = False
    decays: bool = False
    marked: bool = False
    words: bool = False
    texts: bool = False
    bans: bool = False

    @property
    def edits(self) -> bool:
        return self.marked or self.words or self.texts

    @classmethod
    def of(cls, sequence: Sequence) -> _Wishes:
        params = sequence.params
        draws = params.temperature > 0
        decays = draws and params.top_p_decay < 1
        penalized = params.repetition_penalty != 1 or params.presence_penalty != 0
        bans = params.min_new_tokens > 0 or any(len(word) == 1 for word in sequence.bad_words)
        return cls(
            draws=draws,
            decays=decays,
            marked=penalized or bans or (decays and bool(params.top_p_reset_ids)),
            words=any(len(word) > 1 for word in sequence.bad_words),
            texts=bool(sequence.banned_texts),
            bans=bans or bool(sequence.bad_words) or bool(sequence.banned_texts),
        )


class Sampler:
    """The sampling state of up to `rows` running sequences over a vocabulary, on a device."""

    def __init__(self, rows: int, vocab_size: int, device: torch.device) -> None:
        self.device = device
        self._shape = rows, vocab_size
        self._wishes = [_Wishes()] * rows
        # Each sampler row is a column of this tensor, so that the values of one parameter are contiguous in memory.
        self._numbers = torch.zeros(7, rows, dtype=torch.float64, device=device)
        self._counters = torch.zeros(5, rows, dtype=torch.int64, device=device)
        self._marks: Tensor | None = None  # [rows, vocab_size] uint8, made for the first sequence that needs it
        self._words: BadWords | None = None
        self._texts = BadTextRows(rows)
        self._indexed: dict[tuple[int, ...], Tensor] = {}

    @inference
    def join(self, row: int, sequence: Sequence) -> None:
        """Put a sequence, including its new tokens so far, into a row."""
        params = sequence.params
        self._wishes[row] = wishes = _Wishes.of(sequence)
        top_p = _top_p(sequence)
        numbers = [params.temperature, top_p, params.top_p, params.top_p_decay, params.top_p_min]
        numbers += [params.repetition_penalty, params.presence_penalty]
        self._numbers[:, row].copy_(torch.tensor(numbers, dtype=torch.float64, device="cpu"))
        seed = sequence.seed & ((1 << 64) - 1)
        counters = [params.top_k, seed - (seed >> 63 << 64), sequence.sample, len(sequence.new_tokens), params.min_new_tokens]
        self._counters[:, row].copy_(torch.tensor(counters, dtype=torch.int64, device="cpu"))
        if wishes.marked and self._marks is None:
            self._marks = torch.zeros(self._shape, dtype=torch.uint8, device=self.device)
        if self._marks is not None:
            self._marks[row].copy_(self._marks_of(sequence))
        if wishes.words and self._words is None:
            self._words = BadWords(self._shape[0], self.device)
        if self._words is not None:
            longer = [word for word in sequence.bad_words if len(word) > 1]
            self._words.join(row, longer, [*sequence.prompt, *sequence.new_tokens])
        self._texts.join(row, sequence)

    def leave(self, row: int) -> None:
        """Forget the sequence in a row."""
        self._wishes[row] = _Wishes()

    @inference
    def select(self, rows: SequenceOf[int], parents: SequenceOf[int]) -> None:
        """Make `rows[i]` a copy of row `parents[i]`, for all i at once; other rows stay as they are."""
        wishes = [self._wishes[row] for row in parents]
        for row, wish in zip(rows, wishes, strict=True):
            self._wishes[row] = wish
        if not any(wish.edits for wish in wishes):
            return
        index, source = self._index(rows), self._index(parents)
        for state in (self._numbers.T, self._counters.T, self._marks, *(self._words.state if self._words else ())):
            if state is not None:
                state[index] = state[source]
        self._texts.select(rows, parents)

    @inference
    def sample(self, logits: Tensor, rows: SequenceOf[int]) -> Tensor:
        """Choose the next token of the sequences in `rows`, and update their rows with it.

        logits: `[n, vocab_size]` of any float dtype, in the order of `rows`; they are not changed. Returns `[n]` int64 on the
        device, `NO_TOKEN` where every token is forbidden. Nothing is copied to the host and the host does not wait, except for
        rows whose bad words are given as text.
        """
        edited = self.edit(logits, rows)
        tokens = self._draw(edited, rows)
        self.advance(tokens, rows)
        return tokens

    @inference
    def verify(self, logits: Tensor, rows: SequenceOf[int], drafts: SequenceOf[SequenceOf[int]]) -> list[list[int]]:
        """Choose the next tokens of the sequences in `rows`: one token for each sequence, and one for every right guess.

        drafts: `drafts[i]` are the guessed tokens of `rows[i]`. logits: `[rows + guesses, vocab_size]`: for each row in turn,
        the logits after its last token and after each guess. Returns, for each row, the guesses that are right and then one
        more token: the tokens that `sample` would choose, one per call. The rows are updated with these tokens.
        """
        starts = list(itertools.accumulate((len(draft) + 1 for draft in drafts), initial=0))
        if not any(self._wishes[row] != _Wishes() for row in rows):
            made = logits.argmax(dim=-1).tolist()  # a new token changes nothing that is stored for a greedy row
        else:
            made = self._verify_in_turn(logits, rows, drafts, starts)
        return [_accepted(made[start : start + len(draft) + 1], draft) for start, draft in zip(starts, drafts, strict=False)]

    def _verify_in_turn(
        self, logits: Tensor, rows: SequenceOf[int], drafts: SequenceOf[SequenceOf[int]], starts: SequenceOf[int]
    ) -> list[int]:
        """Choose the first token of all rows, then the second token of all rows, and so on.

        A row is updated only while its guesses are right.
        """
        tokens = logits.new_zeros(len(logits), dtype=torch.int64)
        going = torch.ones(len(rows), dtype=torch.bool, device=self.device)
        for turn in range(max(map(len, drafts)) + 1):
            here = [line for line, draft in enumerate(drafts) if len(draft) >= turn]
            mine, where = [rows[line] for line in here], self._sent([starts[line] + turn for line in here])
            made = self._draw(self.edit(logits[where], mine), mine)
            tokens[where] = made
            lines = self._sent(here)
            self.advance(made, mine, going[lines])
            guesses = [drafts[line][turn] if len(drafts[line]) > turn else -1 for line in here]
            going[lines] &= made == self._sent(guesses)
        found: list[int] = tokens.tolist()
        return found

    @inference
    def guess(self, logits: Tensor, rows: SequenceOf[int], ahead: int) -> Tensor:
        """Choose tokens from these logits for the position `ahead` tokens after the next token of each sequence in `rows`.

        logits: `[n, vocab_size]`, for example the logits of a draft model. The random numbers are the ones that `sample` will
        use at this position. Returns `[n]` int64 on the device; no row is changed. Penalties and bans ignore the `ahead` tokens
        before this position.
        """
        return self._drawn(self.edit(logits, rows), rows, ahead).clamp_(0, self._shape[1] - 1)

    @inference
    def edit(self, logits: Tensor, rows: SequenceOf[int]) -> Tensor:
        """Apply penalties and bans. Returns `logits` itself if no row has a penalty or a ban, otherwise a new tensor."""
        wishes = [self._wishes[row] for row in rows]
        index = self._index(rows)
        edited = logits
        if self._marks is not None and any(wish.marked for wish in wishes):
            numbers, counters = self._numbers[:, index], self._counters[:, index]
            may_stop = counters[_POSITION] >= counters[_MIN_NEW_TOKENS]
            edited = ops.penalize(logits, self._marks, index, numbers[_REPETITION], numbers[_PRESENCE], may_stop)
        if self._words is not None and any(wish.words for wish in wishes):
            edited = edited.clone() if edited is logits else edited
            edited = self._words.ban(edited, index)
        if any(wish.texts for wish in wishes):
            edited = self._texts.ban(edited.clone() if edited is logits else edited, rows)
        return edited

    @inference
    def advance(self, tokens: Tensor, rows: SequenceOf[int], going: Tensor | None = None) -> None:
        """Update each row with its token in `tokens` `[n]` int64.

        If `going` `[n]` bool is given, skip the rows where it is False.
        """
        wishes = [self._wishes[row] for row in rows]
        if not any(wish.draws or wish.edits for wish in wishes):
            return
        index = self._index(rows)
        going = tokens != NO_TOKEN if going is None else going & (tokens != NO_TOKEN)
        self._counters[_POSITION, index] += going.long()
        if self._marks is not None:
            self._marks[index, tokens] |= GENERATED * going.to(torch.uint8)
        if any(wish.decays for wish in wishes):
            self._decay(tokens, index, going)
        if self._words is not None:
            self._words.advance(index, tokens, going)
        if any(wish.texts for wish in wishes):
            self._texts.advance(tokens, rows, going)

    def _decay(self, tokens: Tensor, index: Tensor, going: Tensor) -> None:
        numbers = self._numbers[:, index]
        lower = torch.maximum(numbers[_TOP_P] * numbers[_TOP_P_DECAY], numbers[_TOP_P_MIN])
        if self._marks is not None:
            lower = torch.where((self._marks[index, tokens] & RESET) != 0, numbers[_TOP_P_FULL], lower)
        self._numbers[_TOP_P, index] = torch.where(going, lower, numbers[_TOP_P])

    def _draw(self, logits: Tensor, rows: SequenceOf[int]) -> Tensor:
        tokens = self._drawn(logits, rows)
        if not any(self._wishes[row].bans for row in rows):
            return tokens
        return tokens.where(logits.amax(dim=-1) > -math.inf, NO_TOKEN)

    def _drawn(self, logits: Tensor, rows: SequenceOf[int], ahead: int = 0) -> Tensor:
        drawing = [line for line, row in enumerate(rows) if self._wishes[row].draws]
        if not drawing:
            return logits.argmax(dim=-1)
        index = self._index([rows[line] for line in drawing])
        lines = self._index(drawing)
        numbers, counters = self._numbers[:, index], self._counters[:, index]
        drawn = ops.sample(
            logits if len(drawing) == len(rows) else logits[lines],
            numbers[_TEMPERATURE],
            counters[_TOP_K],
            numbers[_TOP_P],
            counters[_SEED],
            counters[_SAMPLE],
            counters[_POSITION] + ahead,
        )
        return drawn if len(drawing) == len(rows) else logits.argmax(dim=-1).index_copy_(0, lines, drawn)

    def _marks_of(self, sequence: Sequence) -> Tensor:
        row = torch.zeros(self._shape[1], dtype=torch.uint8, device="cpu")
        single = [word[0] for word in sequence.bad_words if len(word) == 1]
        for mark, tokens in (
            (IN_PROMPT, sequence.prompt),
            (GENERATED, sequence.new_tokens),
            (STOP, list(sequence.stop_token_ids)),
            (BANNED, single),
            (RESET, list(sequence.params.top_p_reset_ids)),
        ):
            row[torch.tensor(tokens, dtype=torch.int64, device="cpu")] |= mark
        return row

    def _sent(self, numbers: SequenceOf[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device="cpu").to(self.device)

    def _index(self, rows: SequenceOf[int]) -> Tensor:
        """The row numbers as a tensor on the device.

        The most recently used tensors are kept, because most steps use the same rows as the step before.
        """
        key = tuple(rows)
        index = self._indexed.pop(key, None)
        if index is None:
            host = torch.tensor(key, dtype=torch.int64, device="cpu")
            if self.device.type == "cuda":
                host = host.pin_memory()  # pinned, so that the host does not wait for the copy
            index = host.to(self.device, non_blocking=True)
        self._indexed[key] = index
        if len(self._indexed) > KEPT_INDICES:
            del self._indexed[next(iter(self._indexed))]  # remove the least recently used tensor
        return index


def _top_p(sequence: Sequence) -> float:
    """The value of top_p for the next token of a sequence (factual-nucleus sampling).

    With `top_p_decay`, top_p decreases with each new token.
    """
    params = sequence.params
    top_p = params.top_p
    for token in sequence.new_tokens if params.top_p_decay < 1 else ():
        top_p = params.top_p if token in params.top_p_reset_ids else max(top_p * params.top_p_decay, params.top_p_min)
    return top_p


def _accepted(made: SequenceOf[int], draft: SequenceOf[int]) -> list[int]:
    """The tokens of `made` up to and including the first one that differs from its guess in `draft`."""
    right = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(made, draft, strict=False))
    return list(made[: 1 + sum(1 for _ in right)])
