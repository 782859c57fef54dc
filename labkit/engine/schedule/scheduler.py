"""Who computes what in the next forward pass. Pure bookkeeping: no tensors, no model, no text."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np

from labkit.engine.engine_stats import EngineStats
from labkit.engine.schedule.cached_sequence import CachedSequence, slots_needed
from labkit.engine.schedule.plan import Chunk, Plan
from labkit.engine.schedule.sequence import Sequence
from labkit.engine.schedule.slot_allocator import Slots
from labkit.engine.schedule.slot_pool import SlotPool
from labkit.errors import InvalidRequest

MAX_BATCH_SIZE = 64
"""Sequences that run at a time, unless told otherwise."""

MAX_STEP_TOKENS = 1024
"""Tokens that a step computes at most, unless told otherwise."""

LOOKAHEAD = 8
"""Slots that must be left for each running sequence when another is admitted, so that it is not preempted at once."""

WORTH_WAITING = 32
"""Tokens of a prompt that a running prompt is about to compute from which it pays to wait for them."""


@dataclass(frozen=True, eq=False)
class Reservation:
    """Slots and rows of the beam search of a prompt, whose best hypotheses become `samples`; held until its end."""

    samples: list[Sequence]
    slots: Slots
    rows: list[int]


class Scheduler:
    """First come, first served, and decoding is never held up by prompts.

    Each step decodes one token of every running sequence; what is left of `max_step_tokens` goes to chunks of prompts in
    the order of their admission, but no more than `max_mixed_prefill` in a step for which decoding sequences wait. So a
    running sequence gets a token a step, and an admitted prompt has its first token after at most ceil(T / m) steps, unless
    it is preempted: T are the tokens of the prompts admitted up to and with it, m is `max_step_tokens - max_batch_size` or
    `max_mixed_prefill`, whichever is less. Requests are admitted in order as rows and slots allow; none overtakes, except
    that a prompt steps back while a running one computes a long prefix which both share.

    Where several steps are under way at a time (stages of a pipeline), each decodes its share of the sequences, so that a
    sequence gets a token in every round of them.

    What is left of the tokens then goes to guesses of requests that speculate. A beam search is admitted in the same order
    once all slots that it may need are there, and keeps them to its end; it runs outside of the plan.

    When slots run out, idle prefixes are given up, then the latest admitted sequence is preempted: its slots go, it stands
    in front of the queue and computes its tokens anew, as far as nobody kept them. The earliest makes room for nobody but
    beam searches, and every request fits the pool alone (`SlotPool.check`), so something always goes on.
    """

    def __init__(self, pool: SlotPool, max_batch_size: int, max_step_tokens: int, max_mixed_prefill: int | None = None) -> None:
        check_limits(max_batch_size, max_step_tokens, max_mixed_prefill)
        self.pool = pool
        self.max_batch_size = max_batch_size
        self.max_step_tokens = max_step_tokens
        self.max_mixed_prefill = max_mixed_prefill or max_step_tokens
        self.waiting: deque[list[Sequence]] = deque()  # the samples of a prompt, or a preempted sequence
        self.running: list[CachedSequence] = []  # in the order of admission
        self.reservations: list[Reservation] = []
        self._rows = list(range(max_batch_size - 1, -1, -1))
        self.tokens_computed = self.tokens_reused = self.preemptions = self.tokens_guessed = self.guesses_right = 0

    def add(self, samples: SequenceOf[Sequence]) -> None:
        """Let the samples of one prompt wait at the end of the queue; `SlotPool.check` has passed them."""
        self.waiting.append(list(samples))

    def cancel(self, sequences: Collection[Sequence]) -> None:
        """Let these sequences (all samples of a prompt) go, wherever they are; their slots are available at once."""
        self.waiting = deque(group for group in self.waiting if group[0] not in sequences)
        for entry in [entry for entry in self.running if entry.sequence in sequences]:
            self.finish(entry)

    def plan(self, steps: int = 1, busy: Collection[CachedSequence] = ()) -> Plan:
        """Decide the next step. Slots are assigned; all else waits for `commit`, so a step that failed is planned again.

        Of up to `steps` that are under way at a time, each decodes its share of the sequences. `busy`: those of the others.
        """
        plan = Plan(self._decodes(steps, busy), [])
        left = self.max_mixed_prefill if plan.decodes else self.max_step_tokens  # of prompts' tokens
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
        self._speculate(plan, self.max_step_tokens - plan.num_tokens)
        return plan

    def gone(self, plan: Plan) -> set[CachedSequence]:
        """Sequences of a step that were cancelled while it was under way."""
        return set(plan.entries).difference(self.running)

    def commit(self, plan: Plan) -> list[CachedSequence]:
        """The step is computed. Those that get a token: the decodes, then whoever has ended its prompt, with its forks.

        None of them may be `gone`.
        """
        self.tokens_computed += plan.num_tokens
        for entry in plan.decodes:
            entry.computed = entry.num_tokens
        sampled = list(plan.decodes)
        for chunk in plan.chunks:
            if chunk.entry.decoding:
                chunk.entry.computed = chunk.begin + 1  # and the guesses, if they turn out to be right
                sampled.append(chunk.entry)
                continue
            chunk.entry.computed = chunk.begin + chunk.count
            self.pool.share_prefix(chunk.entry)
            if chunk.is_last:
                chunk.entry.decoding = True
                sampled += [chunk.entry, *self._branch(chunk.entry)]
        return sampled

    def finish(self, entry: CachedSequence) -> None:
        """A sequence has ended, or makes room: its slots and its row are available."""
        self.pool.release(entry)
        self.running.remove(entry)
        self._rows += [entry.row, *entry.fork_rows]

    def stats(self) -> EngineStats:
        """What was done and is going on."""
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
        """A beam search is over, or given up."""
        self.reservations.remove(reservation)
        self.pool.allocator.release(reservation.slots)
        self._rows += reservation.rows

    def _decodes(self, steps: int, busy: Collection[CachedSequence]) -> list[CachedSequence]:
        """A step's share of the sequences that decode, each with a slot for its token.

        The latest admitted make room if they must; as long as the latest is under way, those that lack a slot wait.
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
        """With what is left of the step's tokens and slots, try guesses of what follows; nobody makes room for them."""
        for entry in [entry for entry in plan.decodes if entry.speculates]:
            spare = self.pool.num_available - len(self.running)
            entry.guesses = entry.guess(min(budget, spare))
            if entry.guesses:
                self.pool.give_guesses(entry)
                plan.decodes.remove(entry)
                plan.chunks.append(Chunk(entry, entry.begin, 1 + len(entry.guesses), True))
                budget -= len(entry.guesses)
                self.tokens_guessed += len(entry.guesses)

    def _preempt(self, entry: CachedSequence) -> None:
        self.finish(entry)
        self.waiting.appendleft([entry.sequence, *entry.forks])
        self.preemptions += 1

    def _admit(self) -> CachedSequence | None:
        """The next waiting prompt, now running; None if there is none for which rows and slots are left."""
        place = 0
        while place < len(self.waiting):
            samples = self.waiting[place]
            if place + width_of(samples) > len(self._rows):  # those that stepped back keep a row each
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
        """Whether a running prompt is about to compute much more of this one than is here already."""
        end = matched + WORTH_WAITING
        if not self.pool.prefix_reuse or not entry.is_shareable or entry.scores_prompt or end >= len(entry.tokens):
            return False
        peers = (other for other in self.running if not other.decoding and other.is_shareable)
        return any(np.array_equal(other.tokens[:end], entry.tokens[:end]) for other in peers)

    def _branch(self, entry: CachedSequence) -> list[CachedSequence]:
        """The other samples go their own way behind the computed prompt."""
        pairs = zip(entry.forks, entry.fork_rows, strict=True)
        twins = [self.pool.fork(entry, sequence, row) for sequence, row in pairs]
        entry.forks, entry.fork_rows = [], []
        place = self.running.index(entry) + 1
        self.running[place:place] = twins
        return twins


def width_of(samples: SequenceOf[Sequence]) -> int:
    """Sequences that the samples of a prompt run at a time: one each, or the beams that they are chosen from."""
    beams = samples[0].params.num_beams
    return beams if beams > 1 else len(samples)


def check_limits(max_batch_size: int, max_step_tokens: int, max_mixed_prefill: int | None = None) -> None:
    """Raise `InvalidRequest` for limits under which prompts could stand still."""
    if max_mixed_prefill is not None and max_mixed_prefill < 1:
        raise InvalidRequest(f"max_mixed_prefill is {max_mixed_prefill}; at least 1 is accepted, or none for no such limit")
    if max_batch_size < 1:
        raise InvalidRequest(f"max_batch_size is {max_batch_size}; at least 1 is accepted")
    if max_step_tokens <= max_batch_size:
        raise InvalidRequest(
            f"max_step_tokens is {max_step_tokens} with max_batch_size {max_batch_size}; give more tokens a step than "
            "sequences, so that prompts go on while all of them decode"
        )
