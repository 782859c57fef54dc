"""Runs the steps of all running sequences: plan, forward pass, one token for each sequence. It knows nothing about callers."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from labkit import ops
from labkit.engine.batch_builder import BatchBuilder
from labkit.engine.beams.running_searches import RunningSearches
from labkit.engine.draft import Draft
from labkit.engine.interrupts import held
from labkit.engine.logprobs import logprobs, token_logprobs
from labkit.engine.outputs import TokenEvent, TokenLogprob
from labkit.engine.prefill_batch import write_prefix_prompts
from labkit.engine.sampler import Sampler
from labkit.engine.schedule.cached_sequence import CachedSequence
from labkit.engine.schedule.plan import Chunk, Plan
from labkit.engine.schedule.scheduler import Scheduler
from labkit.engine.schedule.sequence import Sequence
from labkit.engine.schedule.slot_pool import SlotPool
from labkit.engine.step_failures import check_numbers, failed, may_be_of_one
from labkit.errors import InvalidRequest
from labkit.model.forward import Forward
from labkit.model.gptj import GPTJ
from labkit.model.kv_cache import KVCache

SCORED_AT_ONCE = 64
"""The number of prompt tokens whose log-probabilities are computed together, in float64 over the vocabulary."""


@dataclass(frozen=True)
class Flight:
    """A step that has begun: its plan, the builder of its batch, and a function that waits for its logits.

    decoding: whether every sequence decodes, so that the step computes no prompt.
    """

    plan: Plan
    builder: BatchBuilder
    logits: Callable[[], Tensor]
    decoding: bool


class StepLoop:
    """Runs the steps that the scheduler plans, and holds the tensors of the scheduler's sequences.

    The cache is made when the first request arrives.

    If `forward` can work on several steps at the same time (the stages of a pipeline), several steps are in flight. No sequence
    is part of two steps in flight.

    A step that fails is run again, one sequence at a time. A sequence that fails again gets an event with the `error`, and
    stays unchanged until the caller cancels its request. Some exceptions go to the caller instead: any exception while an
    operation is swapped (`ops.use`), `RankFailed`, and any exception whose class is not an `Exception`, such as Ctrl-C. In
    these cases all sequences stay as they were before the step, and the next step writes the same keys and values again.

    draft: the draft model that guesses tokens, if there is one. The draft model is used only if steps run one at a time.
    """

    def __init__(
        self, model: GPTJ, scheduler: Scheduler, kv_cache_dtype: str | None = None, draft: Draft | None = None
    ) -> None:
        self._draft = draft
        self._model, self._kv_cache_dtype = model, kv_cache_dtype
        self._cache: KVCache | None = None
        self._operations = ops.replacements()
        self._begin_with(scheduler)

    def start_anew(self) -> None:
        """Forget all sequences, after an error in the bookkeeping. The cache's memory is kept."""
        old = self.scheduler
        pool = SlotPool(old.pool.num_slots, prefix_reuse=old.pool.prefix_reuse)
        self._begin_with(Scheduler(pool, old.max_batch_size, old.max_step_tokens, old.max_mixed_prefill))

    def _begin_with(self, scheduler: Scheduler) -> None:
        vocab_size = self._model.config.vocab_size
        self.scheduler = scheduler
        self._builders: list[BatchBuilder] = []  # the batch builders that no step in flight uses
        self._flights: deque[Flight] = deque()
        self._sampler = Sampler(scheduler.max_batch_size, vocab_size, self._model.device)
        self._beams = RunningSearches(scheduler, self._sampler)
        if self._draft is not None:
            self._draft.begin_with(self._sampler)
            scheduler.drafter = self._draft

    def occupy_cache(self, forward: Forward) -> None:
        """Make the cache now and take all its memory. Raises `InvalidRequest` if the cache exists already."""
        if self._cache is not None:
            raise InvalidRequest("the KV cache is in use already; call occupy_cache before the first request")
        self._cache = self._new_cache()
        forward.occupy(self._cache)

    def drop_cache(self) -> None:
        """Free the cache's memory. No sequence may be running."""
        self._cache = None
        self._flights.clear()
        self._builders.clear()
        if self._draft is not None:
            self._draft.drop_cache()

    def add(self, samples: SequenceOf[Sequence]) -> None:
        """Put the samples of a prompt into the queue."""
        if self._cache is None:
            self._cache = self._new_cache()
        self.scheduler.add(samples)

    def step(self, forward: Forward) -> Generator[tuple[Sequence, TokenEvent], None, None]:
        """Finish one forward pass, and run one pass of each beam search. Yields the new tokens' events, sequence by sequence.

        First, new passes are begun until `forward.steps_in_flight` passes are in flight. Then the oldest pass in flight is
        finished. Nothing happens if no sequence is running.
        """
        if self._operations != (now := ops.replacements()):
            self._operations = now
            self.scheduler.pool.prefixes.clear()  # the keys in the cache were computed by other functions
        if self._cache is None:
            return
        steps, begun, right = forward.steps_in_flight, time.perf_counter(), self.scheduler.guesses_right
        while len(self._flights) < steps:
            with held:
                plan = self.scheduler.plan(steps, {entry for flight in self._flights for entry in flight.plan.entries})
            if not plan.num_tokens:
                break
            try:
                self._flights.append(self._begin(plan, forward, self._cache))
            except Exception as error:
                yield from self._one_by_one(plan, forward, self._cache, error)
                break  # failed sequences would be planned again until the caller cancels them, after this step
        if self._flights:
            flight = self._flights.popleft()
            yield from self._end(flight, forward, self._cache)
            if self._draft is not None:
                made = len(flight.plan.entries) + self.scheduler.guesses_right - right
                self._draft.ended(flight.plan, flight.decoding, made, time.perf_counter() - begun)
        yield from self._beams.step(forward, self._cache)

    def cancel(self, sequences: Collection[Sequence]) -> None:
        """Remove these sequences (all samples of a prompt), waiting or running."""
        self.scheduler.cancel(sequences)
        self._beams.cancel(sequences)
        if not self.scheduler.running and not self.scheduler.waiting:
            self._finish_flights()

    def _finish_flights(self) -> None:
        """Finish the passes in flight, whose tokens nobody wants any more.

        If they stayed unfinished until the next request, the other ranks would wait for this rank up to their time limit.
        """
        while self._flights:
            flight = self._flights.popleft()
            try:
                flight.logits()
            except Exception:
                self._flights.clear()  # if a rank has failed, the next request gets the error
                return
            self._builders.append(flight.builder)

    def _new_cache(self) -> KVCache:
        return self._model.new_cache(self.scheduler.pool.num_slots + 1, self._kv_cache_dtype)  # one more slot for padding

    def _begin(self, plan: Plan, forward: Forward, cache: KVCache) -> Flight:
        model = self._model
        builder = self._builders.pop() if self._builders else None
        if builder is None:
            builder = BatchBuilder(self.scheduler.max_batch_size, model.config.context_length, forward.batch_device)
        plan = Plan(builder.line_up(plan.decodes), plan.chunks)
        write_prefix_prompts(plan.chunks, forward, cache)
        if self._draft is not None:
            self._draft.writes(plan)
        decoding = all(entry.decoding for entry in plan.entries)
        return Flight(plan, builder, forward.submit(builder.build(plan), cache), decoding)

    def _end(self, flight: Flight, forward: Forward, cache: KVCache) -> Iterator[tuple[Sequence, TokenEvent]]:
        try:
            logits = flight.logits()
        except Exception as error:
            self._flights.clear()  # the steps begun after the failed step are planned again
            plan, _ = flight.plan.without(self.scheduler.gone(flight.plan))
            yield from self._one_by_one(plan, forward, cache, error)
            return
        except BaseException:
            self._flights.clear()
            raise
        self._builders.append(flight.builder)
        yield from self._take(flight.plan, logits)

    def _one_by_one(
        self, plan: Plan, forward: Forward, cache: KVCache, error: Exception
    ) -> Iterator[tuple[Sequence, TokenEvent]]:
        """Run a failed step again, sequence by sequence. A sequence that fails again gets an event with its error."""
        if not may_be_of_one(error):
            raise error
        for part in plan.parts():
            try:
                flight = self._begin(part, forward, cache)
                logits = flight.logits()
            except Exception as own:
                if not may_be_of_one(own):
                    raise
                yield failed(part.entries[0].sequence, own)
                continue
            self._builders.append(flight.builder)
            yield from self._take(flight.plan, logits)

    def _take(self, plan: Plan, logits: Tensor) -> Iterator[tuple[Sequence, TokenEvent]]:
        """Use the logits of a step: first for the log-probabilities of prompts, then for the next token of each sequence."""
        if gone := self.scheduler.gone(plan):
            plan, rows = plan.without(gone)
            logits = logits[rows]
        if any(len(chunk.scored) for chunk in plan.chunks):
            rows, failures = _score_prompts(plan, logits)
            logits = logits[rows]
            if failures:
                yield from (failed(entry.sequence, error) for entry, error in failures.items())
                plan, rows = plan.without(failures, scored=False)
                logits = logits[rows]
        with held:
            entries = self.scheduler.commit(plan)
        if entries:
            yield from self._take_tokens(logits, entries)

    def _take_tokens(self, logits: Tensor, entries: list[CachedSequence]) -> Iterator[tuple[Sequence, TokenEvent]]:
        """Sample the next tokens, and yield each event immediately, so that no event is lost if a later sequence fails."""
        try:
            made, scores = self._choose(logits, entries)
        except Exception as error:
            if not may_be_of_one(error):
                raise
            if len(entries) == 1:
                yield failed(entries[0].sequence, error)
                return
            counts = [1 + len(entry.guesses) for entry in entries]
            for entry, rows in zip(entries, torch.split(logits, counts), strict=True):
                yield from self._take_tokens(rows, [entry])
            return
        with held:
            for entry, tokens, scored in zip(entries, made, scores, strict=True):
                yield from self._append(entry, tokens, scored)

    def _choose(self, logits: Tensor, entries: list[CachedSequence]) -> tuple[list[list[int]], list[list[TokenLogprob | None]]]:
        """Choose the next tokens of each sequence, and their log-probabilities if the request asks for them."""
        new = [start for start, entry in zip(_row_starts(entries), entries, strict=False) if not entry.sequence.new_tokens]
        if new and not ops.swapped():
            check_numbers(logits[new])
        for entry in entries:
            if entry.sampled != len(entry.sequence.new_tokens):  # the sequence is new in its row, or its last step failed
                self._sampler.join(entry.row, entry.sequence)
            entry.sampled = -1  # until the new tokens of the sequence are known
        made = self._sample(logits, entries)
        scores = _logprobs(logits, entries, made)
        for entry, tokens in zip(entries, made, strict=True):
            entry.sampled = len(entry.sequence.new_tokens) + len(tokens)
        return made, scores

    def _append(
        self, entry: CachedSequence, tokens: list[int], scores: list[TokenLogprob | None]
    ) -> Iterator[tuple[Sequence, TokenEvent]]:
        """Append new tokens to a sequence, and yield their events."""
        sequence = entry.sequence
        entry.computed += len(tokens) - 1  # the guesses that were right
        self.scheduler.guesses_right += len(tokens) - 1
        if self._draft is not None and entry.guesses and not entry.speculates:
            self._draft.length.judged(len(tokens) - 1, len(entry.guesses))
        for token, score in zip(tokens, scores, strict=True):
            first = not sequence.new_tokens and entry.scores_prompt and sequence.sample == 0
            try:
                event = sequence.append(token, score)
            except Exception as error:
                yield failed(sequence, error)
                return
            if first:
                event = replace(event, prompt_logprobs=_prompt_logprobs(entry))
            if event.finish_reason is not None:
                self._sampler.leave(entry.row)
                self.scheduler.finish(entry)
            yield sequence, event
            if event.finish_reason is not None:
                return

    def _sample(self, logits: Tensor, entries: list[CachedSequence]) -> list[list[int]]:
        """Choose the next token of each sequence, and further tokens for sequences with right guesses."""
        rows = [entry.row for entry in entries]
        guesses = [entry.guesses for entry in entries]
        if any(guesses):
            return self._sampler.verify(logits, rows, guesses)
        return [[token] for token in self._sampler.sample(logits, rows).tolist()]


def _row_starts(entries: list[CachedSequence]) -> Iterator[int]:
    """The first row of the logits of each sequence. A sequence with guesses has a row for each of them too."""
    return itertools.accumulate((1 + len(entry.guesses) for entry in entries), initial=0)


def _logprobs(logits: Tensor, entries: list[CachedSequence], made: list[list[int]]) -> list[list[TokenLogprob | None]]:
    """The log-probabilities of each sequence's new tokens; None for each token if the request does not ask for them."""
    if all(entry.sequence.params.logprobs is None for entry in entries):
        return [[None] * len(tokens) for tokens in made]
    rows = [start + place for start, tokens in zip(_row_starts(entries), made, strict=False) for place in range(len(tokens))]
    sequences = [entry.sequence for entry, tokens in zip(entries, made, strict=True) for _ in tokens]
    scores = iter(logprobs(logits[rows], sequences, list(itertools.chain(*made))))
    return [list(itertools.islice(scores, len(tokens))) for tokens in made]


def _score_prompts(plan: Plan, logits: Tensor) -> tuple[list[int], dict[CachedSequence, Exception]]:
    """Store the log-probabilities of the prompt tokens that this step's logits score.

    Returns the rows of the logits that choose new tokens, and the sequences whose scoring failed, each with its exception.
    """
    left, row = list(range(len(plan.decodes))), len(plan.decodes)
    failures: dict[CachedSequence, Exception] = {}
    for chunk in plan.chunks:
        count = len(chunk.scored)
        try:
            _score_chunk(chunk, logits[row : row + count])
        except Exception as error:
            failures[chunk.entry] = error
        left += range(row + count, row + count + len(chunk.sampled))
        row += count + len(chunk.sampled)
    return left, failures


def _score_chunk(chunk: Chunk, logits: Tensor) -> None:
    entry = chunk.entry
    places = [chunk.begin + position - entry.lead + 1 for position in chunk.scored]
    most = entry.sequence.params.prompt_logprobs or 0
    for start in range(0, len(places), SCORED_AT_ONCE):
        part = places[start : start + SCORED_AT_ONCE]
        tokens = [entry.sequence.prompt[place] for place in part]
        found = token_logprobs(logits[start : start + len(part)], tokens, [most] * len(part))
        entry.prompt_logprobs.update(zip(part, found, strict=True))


def _prompt_logprobs(entry: CachedSequence) -> tuple[TokenLogprob | None, ...]:
    return tuple(entry.prompt_logprobs.get(place) for place in range(len(entry.sequence.prompt)))
