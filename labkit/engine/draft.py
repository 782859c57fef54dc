"""A draft model guesses the next tokens of running sequences, so that the main model can check several tokens in one pass.

This is speculative decoding (Leviathan, Kalman and Matias 2023, https://arxiv.org/abs/2211.17192). The draft never changes a
token: the engine keeps a guess only if it is the token that the model itself chooses (`Sampler.verify`). When tokens are drawn
at random, the draft uses the same random numbers as the model, so that two similar distributions often give the same token.

The draft has its own cache, in which a token uses the same slot number as in the model's cache. So when several requests share
a prefix, the draft, too, reads it only once.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from labkit import ops
from labkit.engine.sampler import Sampler
from labkit.engine.schedule.cached_sequence import CachedSequence
from labkit.engine.schedule.draft_length import DraftLength
from labkit.engine.schedule.plan import Plan
from labkit.engine.step_failures import may_be_of_one
from labkit.errors import InvalidRequest
from labkit.model.batch import Batch, RowNumbers
from labkit.model.fastest_forward import fastest_forward
from labkit.model.forward import Forward
from labkit.model.gptj import GPTJ
from labkit.model.kv_cache import KVCache
from labkit.model.part import WHOLE


@dataclass
class _Guessed:
    """The work for one sequence: how many tokens to guess, and the first position that the draft has not computed yet."""

    entry: CachedSequence
    count: int
    begin: int

    @property
    def end(self) -> int:
        """The number of tokens that are known, in the prompt and after it."""
        return self.entry.num_tokens

    @property
    def tokens(self) -> list[int]:
        """The known tokens from `begin` on."""
        sequence = self.entry.sequence
        return sequence.prompt[self.begin :] + sequence.new_tokens[max(self.begin - len(sequence.prompt), 0) :]


class Draft:
    """A model that guesses tokens for another model, the target.

    rows: how many sequences run at the same time. num_slots: the number of slots in the target's cache, without the padding
    slot. max_step_tokens: the most tokens of texts that the draft reads in one step. padding_slot: see `fastest_forward`.
    """

    def __init__(
        self, model: GPTJ, target: GPTJ, *, rows: int, num_slots: int, max_step_tokens: int, padding_slot: int | None
    ) -> None:
        parameters = target.config.parameter_count
        self.length = DraftLength(cost=model.config.parameter_count / parameters)
        self.sampler: Sampler | None = None
        self._model, self._num_slots, self._max_step_tokens = model, num_slots, max_step_tokens
        self._forward = fastest_forward(model, padding_slot=padding_slot)
        self._cache: KVCache | None = None
        # for each slot of the cache: whether it holds the draft's key and value for its token
        self._known = np.zeros(num_slots + 1, np.bool_)
        self._numbers = RowNumbers(rows, model.device)
        self._reading = 0.0
        self._failed = False

    def begin_with(self, sampler: Sampler) -> None:
        """Forget all sequences, and choose tokens with `sampler` from now on."""
        self.sampler = sampler
        self._known[:] = False

    def choose(self, sequences: int) -> int:
        """Decide how many tokens to guess for each of `sequences` sequences in the next step.

        Nothing is guessed while an operation is swapped (`ops.use`), because the user wants to see the swapped function at work
        in the target.
        """
        return 0 if self._failed or ops.swapped() else self.length.choose(sequences)

    def propose(self, wanted: list[tuple[CachedSequence, int]], sequences: int) -> list[list[int]]:
        """Guess tokens for decoding sequences. `wanted` holds each sequence with the number of guesses to make (at least 1).

        The sequences have slots for their last token and for the guesses. Returns a list of guesses for each sequence. The list
        is empty if the draft cannot guess for this sequence in this step. An exception turns the draft off, with a warning,
        because every request can continue without a draft. `sequences`: how many sequences take part in the step.
        """
        found: dict[CachedSequence, list[int]] = {}
        try:
            if ready := self._ready(wanted, sequences):
                found = self._guess(ready)
            else:
                self.length.pause(sequences)
        except Exception as error:
            if not may_be_of_one(error):
                raise
            self._failed = True
            warnings.warn(f"the draft model failed, so the engine continues without it: {error}", stacklevel=2)
        return [found.get(entry, []) for entry, _ in wanted]

    def writes(self, plan: Plan) -> None:
        """Record that the target computes this plan.

        The draft's keys and values in the plan's slots are then invalid, except for sequences with guesses.
        """
        self._known[[entry.slots[entry.column(entry.num_tokens - 1)] for entry in plan.decodes]] = False
        for chunk in plan.chunks:
            if not chunk.entry.guesses:
                self._known[chunk.slots] = False

    def ended(self, plan: Plan, decoding: bool, made: int, seconds: float) -> None:
        """Record how long a step took if every sequence was `decoding` in this step, or if the step only read prompts."""
        reading, self._reading = self._reading, 0.0
        if decoding:
            guessed = sum(len(chunk.entry.guesses) for chunk in plan.chunks)
            self.length.stepped(len(plan.entries), guessed, made, seconds, reading)
        elif not plan.decodes:
            self.length.target_read(plan.num_tokens, seconds)

    def drop_cache(self) -> None:
        """Free the cache's memory."""
        self._cache = None
        self._known[:] = False

    def close(self) -> None:
        """Free the cache's memory and close the draft's forward pass. The draft cannot be used afterwards."""
        self.drop_cache()
        self._forward.close()

    def _ready(self, wanted: list[tuple[CachedSequence, int]], sequences: int) -> list[_Guessed]:
        """The sequences for which the draft can guess now. Sequences with the most guesses to make come first."""
        ready: list[_Guessed] = []
        budget = self._max_step_tokens
        read_now: set[int] = set()
        for entry, count in wanted:
            end, sequence = entry.num_tokens, entry.sequence
            room = self._model.config.context_length - end + 1
            if room < 1 or entry.sampled != len(sequence.new_tokens):  # the sampler does not know the sequence yet
                continue
            known = self._known[entry.slots[: end - 1]]
            begin = end - 1 if known.all() else int(known.argmin())
            missing = end - 1 - begin
            left = sequence.max_new_tokens - len(sequence.new_tokens)
            if missing + 1 > budget or int(entry.slots[begin]) in read_now:
                continue  # a text that several sequences share is read once
            if missing > 1 and not self.length.may_read(missing, left, sequences):
                continue
            budget -= missing + 1
            read_now.update(entry.slots[begin:end].tolist())
            ready.append(_Guessed(entry, min(count, room), begin))
        return sorted(ready, key=lambda each: -each.count)

    def _guess(self, ready: list[_Guessed]) -> dict[CachedSequence, list[int]]:
        """Read the new tokens, then guess one token after another. Returns the guesses for each sequence."""
        if self._cache is None:
            model = self._model
            self._cache = KVCache(model.config, self._num_slots + 1, device=model.device, dtype=model.dtype)
        table = np.zeros((len(ready), max(each.end - 1 + each.count for each in ready)), np.int32)
        for line, each in enumerate(ready):
            table[line, : each.end - 1 + each.count] = each.entry.slots[: each.end - 1 + each.count]
        slots = self._sent(table)
        begun = time.perf_counter()
        batch = self._reading_batch(ready, table, slots)
        chosen = [self._choose(batch, ready, 0)]
        for turn in range(1, ready[0].count):
            going = sum(each.count > turn for each in ready)
            first = time.perf_counter()
            chosen.append(self._choose(self._next_batch(ready[:going], chosen[-1][:going], slots, turn), ready[:going], turn))
            if turn == 1:
                self._took(begun, first, batch)
        guesses = [tokens.tolist() for tokens in chosen]  # on a GPU, this waits for all guesses
        if ready[0].count == 1:
            self._took(begun, time.perf_counter(), batch)
        for each in ready:
            own, end = each.entry.slots, each.end - 1 + each.count
            self._known[own[each.begin : end]] = True
            self._known[own[end : end + 1]] = False
        return {each.entry: [row[line] for row in guesses[: each.count]] for line, each in enumerate(ready)}

    def _took(self, begun: float, ended: float, batch: Batch) -> None:
        """Record the time of the first pass, which read single tokens or longer texts."""
        more = batch.num_tokens - 2 * batch.num_sequences
        if more <= 0:
            self.length.passed(batch.num_sequences, ended - begun)
        else:
            self._reading = ended - begun
            self.length.read(batch.num_tokens, ended - begun)

    def _reading_batch(self, ready: list[_Guessed], table: npt.NDArray[np.int32], slots: Tensor) -> Batch:
        """Build the batch of the tokens that the draft has not read yet, with logits after the last token of each sequence."""
        if all(each.begin == each.end - 1 for each in ready):
            last = torch.tensor([each.tokens[-1] for each in ready], dtype=torch.int64, device="cpu")
            return self._next_batch(ready, last.to(self._model.device), slots, 0)
        ends = np.cumsum([each.end - each.begin for each in ready])
        return Batch.of_prefills(
            token_ids=self._sent(np.concatenate([each.tokens for each in ready])),
            positions=self._sent(np.concatenate([np.arange(each.begin, each.end) for each in ready])),
            slot_mapping=self._sent(
                np.concatenate([table[line, each.begin : each.end] for line, each in enumerate(ready)]).astype(np.int64)
            ),
            starts=self._sent(np.concatenate(([0], ends)).astype(np.int32)),
            slot_table=slots,
            lengths=self._sent(np.array([each.end for each in ready], np.int32)),
            logit_rows=self._sent(ends - 1),
        )

    def _next_batch(self, ready: list[_Guessed], tokens: Tensor, slots: Tensor, turn: int) -> Batch:
        """Build the batch with one token of each sequence: the token `turn` positions after the last known token."""
        positions = self._sent(np.array([each.end - 1 + turn for each in ready], np.int64))
        return Batch.of_decodes(
            token_ids=tokens,
            positions=positions,
            slot_mapping=slots[self._numbers.rows[: len(ready)], positions].long(),
            slot_table=slots[: len(ready)],
            lengths=(positions + 1).int(),
            numbers=self._numbers,
        )

    def _choose(self, batch: Batch, ready: list[_Guessed], turn: int) -> Tensor:
        assert self.sampler is not None
        assert self._cache is not None
        return self.sampler.guess(self._forward(batch, self._cache), [each.entry.row for each in ready], turn)

    def _sent(self, array: npt.NDArray[np.int32] | npt.NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(self._model.device)


def check_draft(draft: GPTJ, target: GPTJ, forward: Forward) -> None:
    """Raise `InvalidRequest` if `draft` cannot guess for the model `target`, which `forward` runs."""
    if target.part != WHOLE or forward.steps_in_flight > 1:
        raise InvalidRequest("a draft model is accepted for a model in one process; leave the draft out on several ranks")
    if draft.config.vocab_size != target.config.vocab_size:
        raise InvalidRequest(
            f"the draft model has a vocabulary of {draft.config.vocab_size} tokens and the model one of "
            f"{target.config.vocab_size}; give a draft with the same tokenizer, such as a student of the model"
        )
    if draft.device != target.device:
        raise InvalidRequest(
            f"the draft model is on {draft.device} and the model on {target.device}; both must be on one device"
        )
