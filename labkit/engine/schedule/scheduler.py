"""Decides what each sequence computes in the next forward pass. This module uses no tensors, no model and no text."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from labkit.engine.engine_stats import EngineStats
from labkit.engine.schedule.cached_sequence import CachedSequence, slots_needed
from labkit.engine.schedule.plan import Chunk, Plan
from labkit.engine.schedule.sequence import Sequence
from labkit.engine.schedule.slot_allocator import Slots
from labkit.engine.schedule.slot_pool import SlotPool
from labkit.errors import InvalidRequest

MAX_BATCH_SIZE = 64
"""The most sequences that run at the same time, by default."""

MAX_STEP_TOKENS = 1024
"""The most tokens that a step computes, by default."""

LOOKAHEAD = 8
"""A prompt is admitted only if this many slots stay free per running sequence, so that no sequence is preempted soon after."""

WORTH_WAITING = 32
"""A prompt waits if a running prompt will compute at least this many tokens with which both prompts begin."""


class Drafter(Protocol):
    """Guesses the next tokens of decoding sequences (`labkit.engine.draft.Draft`)."""

    def choose(self, sequences: int) -> int:
        """Decide how many tokens to guess for each of `sequences` sequences that decode in the next step."""

    def propose(self, wanted: list[tuple[CachedSequence, int]], sequences: int) -> list[list[int]]:
        """Guess tokens for each of these sequences, at most as many as the number that comes with the sequence.

        The sequences already have slots for the guesses.
        """


@dataclass(frozen=True, eq=False)
class Reservation:
    """The slots and sampler rows that a beam search holds until it ends, and the `samples` that get its best hypotheses."""

    samples: list[Sequence]
    slots: Slots
    rows: list[int]


class Scheduler:
    """Serves prompts in the order of their arrival. Decoding is never delayed by a prompt.

    Each step decodes one token of every running sequence. The rest of `max_step_tokens` goes to chunks of prompts in the order
    of admission, but at most `max_mixed_prefill` tokens in a step that also decodes. So a running sequence gets one token per
    step, and an admitted prompt has its first token after at most ceil(T / m) steps, unless it is preempted. Here T is the
    number of tokens of this prompt and of all prompts admitted before it, and m is the smaller of `max_step_tokens -
    max_batch_size` and `max_mixed_prefill`. Requests are admitted in order, as soon as there are enough rows and slots. No
    request overtakes another, with one exception: while a prompt waits for a running prompt that is computing a long prefix of
    both prompts, later prompts can be admitted first.

    If several steps are in flight (the stages of a pipeline), each step decodes its share of the sequences, so that a sequence
    gets one token in every round of steps.

    If a step does not use all of `max_step_tokens`, the rest goes to the guesses of requests that speculate. If there is a
    `drafter`, it guesses tokens for all other sequences, in steps that compute no prompt. A beam search is admitted in the same
    order, once all slots that it can need are available. It keeps these slots until it ends, and it is not part of the plan.

    When slots run out, idle prefixes are evicted first. If that is not enough, the sequence that was admitted last is
    preempted: it loses its slots, goes to the front of the queue, and later computes its tokens again, except the tokens whose
    slots were kept. The sequence that was admitted first waits only for beam searches, and every request that runs alone fits
    the pool (`SlotPool.check`), so at least one sequence always advances.
    """

    def __init__(self, pool: SlotPool, max_batch_size: int, max_step_tokens: int, max_mixed_prefill: int | None = None) -> None:
        check_limits(max_batch_size, max_step_tokens, max_mixed_prefill)
        self.pool = pool
        self.max_batch_size = max_batch_size
        self.max_step_tokens = max_step_tokens
        self.max_mixed_prefill = max_mixed_prefill or max_step_tokens
        self.waiting: deque[list[Sequence]] = deque()  # each entry: the samples of a prompt, or a preempted sequence
        self.running: list[CachedSequence] = []  # in the order of admission
        self.reservations: list[Reservation] = []
        self.drafter: Drafter | None = None
        self._rows = list(range(max_batch_size - 1, -1, -1))
        self.tokens_computed = self.tokens_reused = self.preemptions = self.tokens_guessed = self.guesses_right = 0

    def add(self, samples: SequenceOf[Sequence]) -> None:
        """Put the samples of one prompt at the end of the queue. The caller has checked the samples with `SlotPool.check`."""
        self.waiting.append(list(samples))

    def cancel(self, sequences: Collection[Sequence]) -> None:
        """Remove these sequences (all samples of a prompt), waiting or running. Their slots become free immediately."""
        self.waiting = deque(group for group in self.waiting if group[0] not in sequences)
        for entry in [entry for entry in self.running if entry.sequence in sequences]:
            self.finish(entry)

    def plan(self, steps: int = 1, busy: Collection[CachedSequence] = ()) -> Plan:
        """Plan the next step. This call assigns slots; all other changes are left to `commit`.

        So a failed step can be planned again.

        steps: how many steps can be in flight; each step decodes its share of the sequences. busy: the sequences of the other
        steps in flight.
        """
        plan = Plan(self._decodes(steps, busy), [])
        left = self.max_mixed_prefill if plan.decodes else self.max_step_tokens  # tokens of prompts
        prompts = [entry for entry in self.running if not entry.decoding and entry not in busy]
        while (budget := min(left, self.max_step_tokens - plan.num_tokens)) > 0:
            entry = prompts.pop(0) if prompts else self._admit()
            if entry is None:
                break
            if entry.decoding:
                plan.decodes.append(entry)
            else:
                plan.chunks.append(Chunk.next_of(entry, budget))
                left -= plan.chunks[-1].count
        for entry in plan.decodes:
            entry.guesses = []
        if self.drafter is not None and not plan.chunks and plan.decodes:
            self._draft(plan, self.drafter, self.max_step_tokens - plan.num_tokens)
        self._speculate(plan, self.max_step_tokens - plan.num_tokens)
        return plan

    def gone(self, plan: Plan) -> set[CachedSequence]:
        """The sequences of a step that were cancelled while the step was in flight."""
        return set(plan.entries).difference(self.running)

    def commit(self, plan: Plan) -> list[CachedSequence]:
        """Record that the step was computed. None of its sequences may be in `gone(plan)`.

        Returns the sequences that get a new token: the decodes, then the sequences whose prompt is complete, each with its
        forks.
        """
        self.tokens_computed += plan.num_tokens
        for entry in plan.decodes:
            entry.computed = entry.num_tokens
        sampled = list(plan.decodes)
        for chunk in plan.chunks:
            if chunk.entry.decoding:
                chunk.entry.computed = chunk.begin + 1  # the positions of right guesses are counted later
                sampled.append(chunk.entry)
                continue
            chunk.entry.computed = chunk.begin + chunk.count
            self.pool.share_prefix(chunk.entry)
            if chunk.is_last:
                chunk.entry.decoding = True
                sampled += [chunk.entry, *self._branch(chunk.entry)]
        return sampled

    def finish(self, entry: CachedSequence) -> None:
        """Remove a sequence that has ended or is preempted. Its slots and rows become free."""
        self.pool.release(entry)
        self.running.remove(entry)
        self._rows += [entry.row, *entry.fork_rows]

    def stats(self) -> EngineStats:
        """Counters of finished and running work."""
        return EngineStats(
            tokens_computed=self.tokens_computed,
            tokens_reused=self.tokens_reused,
            preemptions=self.preemptions,
            tokens_guessed=self.tokens_guessed,
            guesses_right=self.guesses_right,
            running=sum(1 + len(e.forks) for e in self.running) + sum(len(r.samples) for r in self.reservations),
            waiting=sum(map(len, self.waiting)),
            num_slots=self.pool.num_slots,
            free_slots=self.pool.num_available,
            prefix_slots=self.pool.allocator.num_idle,
        )

    def release(self, reservation: Reservation) -> None:
        """Free the slots and rows of a beam search that has ended."""
        self.reservations.remove(reservation)
        self.pool.allocator.release(reservation.slots)
        self._rows += reservation.rows

    def _decodes(self, steps: int, busy: Collection[CachedSequence]) -> list[CachedSequence]:
        """Choose the sequences that decode in the next step, and give each of them a slot for its next token.

        The chosen sequences are the step's share of all decoding sequences. If slots are missing, the sequences admitted last
        are preempted. But a sequence in flight cannot be preempted: if the sequence admitted last is in flight, the sequences
        without a slot wait.
        """
        while True:
            decoding = [entry for entry in self.running if entry.decoding]
            share = -(-len(decoding) // steps)
            decodes = [entry for entry in decoding if entry not in busy][:share]
            short = [entry for entry in decodes if self.pool.lacks_slot(entry)]
            if len(short) <= self.pool.num_available:
                break
            if self.running[-1] in busy:
                waiting = short[self.pool.num_available :]
                short = short[: self.pool.num_available]
                decodes = [entry for entry in decodes if entry not in waiting]
                break
            self._preempt(self.running[-1])
        if short:
            self.pool.give_next(short)
        return decodes

    def _speculate(self, plan: Plan, budget: int) -> None:
        """Use the step's remaining tokens and spare slots for guesses of the next tokens.

        No sequence is preempted for guesses.
        """
        for entry in [entry for entry in plan.decodes if entry.speculates]:
            spare = self.pool.num_available - len(self.running)
            guesses = entry.guess(min(budget, spare))
            self.pool.give_guesses(entry, len(guesses))
            self._with_guesses(plan, entry, guesses)
            budget -= len(guesses)

    def _draft(self, plan: Plan, drafter: Drafter, budget: int) -> None:
        """Let the drafter guess for the sequences of a step that all decode.

        A sequence with a bounded memory, or with given keys or embeddings, gets no guesses, because the draft does not support
        such sequences.
        """
        sequences = len(plan.decodes)
        most = drafter.choose(sequences)
        wanted = []
        for entry in plan.decodes:
            count = min(most, entry.room, budget, self.pool.num_available - len(self.running))
            if count > 0 and entry.is_shareable and not entry.speculates:
                self.pool.give_guesses(entry, count)
                wanted.append((entry, count))
                budget -= count
        if wanted:
            for (entry, _), guesses in zip(wanted, drafter.propose(wanted, sequences), strict=True):
                self._with_guesses(plan, entry, guesses)

    def _with_guesses(self, plan: Plan, entry: CachedSequence, guesses: list[int]) -> None:
        """Move a decoding sequence that has guesses, and slots for them, from the plan's decodes to its chunks."""
        entry.guesses = guesses
        if guesses:
            plan.decodes.remove(entry)
            plan.chunks.append(Chunk(entry, entry.begin, 1 + len(guesses), True))
            self.tokens_guessed += len(guesses)

    def _preempt(self, entry: CachedSequence) -> None:
        self.finish(entry)
        self.waiting.appendleft([entry.sequence, *entry.forks])
        self.preemptions += 1

    def _admit(self) -> CachedSequence | None:
        """Start the next waiting prompt and return it; None if none can start or if there are not enough rows or slots."""
        place = 0
        while place < len(self.waiting):
            samples = self.waiting[place]
            if place + width_of(samples) > len(self._rows):  # each prompt before it in the queue needs a row
                return None
            spare = LOOKAHEAD * (len(self.running) + len(samples)) if self.running else 0
            if samples[0].params.num_beams > 1:
                if not self._reserve(samples, spare):
                    return None
                del self.waiting[place]
                continue
            entry = CachedSequence(samples[0], samples[1:])
            shared = self.pool.matched(entry)
            if self._is_being_computed(entry, len(shared)):
                place += 1
                continue
            if not self.pool.seat(entry, shared, spare):
                return None
            del self.waiting[place]
            self._run(entry, len(shared))
            return entry
        return None

    def _reserve(self, samples: list[Sequence], spare: int) -> bool:
        slots = self.pool.reserve(slots_needed(samples[0]), spare)
        if slots is None:
            return False
        rows = [self._rows.pop() for _ in range(width_of(samples))]
        self.reservations.append(Reservation(samples, slots, rows))
        return True

    def _run(self, entry: CachedSequence, reused: int) -> None:
        entry.row, *entry.fork_rows = (self._rows.pop() for _ in (entry, *entry.forks))
        entry.decoding = entry.num_tokens - entry.computed == 1 and not entry.forks and not entry.prefix_len
        self.tokens_reused += reused
        self.running.append(entry)

    def _is_being_computed(self, entry: CachedSequence, matched: int) -> bool:
        """Whether a running prompt is going to compute a much longer prefix of this prompt than is already cached."""
        end = matched + WORTH_WAITING
        if not self.pool.prefix_reuse or not entry.is_shareable or entry.scores_prompt or end >= len(entry.tokens):
            return False
        peers = (other for other in self.running if not other.decoding and other.is_shareable)
        return any(np.array_equal(other.tokens[:end], entry.tokens[:end]) for other in peers)

    def _branch(self, entry: CachedSequence) -> list[CachedSequence]:
        """Start the other samples of a computed prompt as separate sequences."""
        pairs = zip(entry.forks, entry.fork_rows, strict=True)
        twins = [self.pool.fork(entry, sequence, row) for sequence, row in pairs]
        entry.forks, entry.fork_rows = [], []
        place = self.running.index(entry) + 1
        self.running[place:place] = twins
        return twins


def width_of(samples: SequenceOf[Sequence]) -> int:
    """The number of rows that the samples of a prompt need: one for each sample, or one for each beam of their search."""
    beams = samples[0].params.num_beams
    return beams if beams > 1 else len(samples)


def check_limits(max_batch_size: int, max_step_tokens: int, max_mixed_prefill: int | None = None) -> None:
    """Raise `InvalidRequest` for limits with which a prompt might wait for ever."""
    if max_mixed_prefill is not None and max_mixed_prefill < 1:
        raise InvalidRequest(f"max_mixed_prefill is {max_mixed_prefill}; at least 1 is accepted, or None for no limit")
    if max_batch_size < 1:
        raise InvalidRequest(f"max_batch_size is {max_batch_size}; at least 1 is accepted")
    if max_step_tokens <= max_batch_size:
        raise InvalidRequest(
            f"max_step_tokens is {max_step_tokens} with max_batch_size {max_batch_size}; max_step_tokens must be "
            "larger than max_batch_size, so that prompts are computed while all sequences decode"
        )
