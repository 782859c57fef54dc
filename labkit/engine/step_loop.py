"""One step of everything that runs: plan, forward pass, a token for each sequence. Knows nothing of who asked."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from labkit import ops
from labkit.engine.batch_builder import BatchBuilder
from labkit.engine.beams.running_searches import RunningSearches
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
"""Tokens of a prompt whose log-probabilities are computed together, in float64 over the vocabulary."""


@dataclass(frozen=True)
class Flight:
    """A step under way: its plan, who built its batch, and what is called to have its logits."""

    plan: Plan
    builder: BatchBuilder
    logits: Callable[[], Tensor]


class StepLoop:
    """The scheduler, and the tensors that its sequences live in. The cache is made when the first request comes.

    A forward that works on several steps at a time (stages of a pipeline) is given as many, of different sequences.

    A step that fails is tried again, one sequence at a time. Whoever fails alone has an event with the `error`; until its
    request is cancelled, which is for the caller to do, it stays as it was. Not so while an operation is swapped (`ops.use`):
    what the swapped function raises goes to the caller. `RankFailed` does, too, and what is no `Exception` (Ctrl-C): then
    everything is as it was before, but for keys and values that the next step writes anew.
    """

    def __init__(self, model: GPTJ, scheduler: Scheduler) -> None:
        self._model = model
        self._cache: KVCache | None = None
        self._operations = ops.replacements()
        self._begin_with(scheduler)

    def start_anew(self) -> None:
        """Forget all sequences, and whatever a fault in the bookkeeping left behind; the cache's memory is kept."""
        old = self.scheduler
        pool = SlotPool(old.pool.num_slots, prefix_reuse=old.pool.prefix_reuse)
        self._begin_with(Scheduler(pool, old.max_batch_size, old.max_step_tokens, old.max_mixed_prefill))

    def _begin_with(self, scheduler: Scheduler) -> None:
        vocab_size = self._model.config.vocab_size
        self.scheduler = scheduler
        self._builders: list[BatchBuilder] = []  # of which no step is under way
        self._flights: deque[Flight] = deque()
        self._sampler = Sampler(scheduler.max_batch_size, vocab_size, self._model.device)
        self._beams = RunningSearches(scheduler, self._sampler)

    def occupy_cache(self, forward: Forward) -> None:
        """Make the cache now, with all its memory. Raises `InvalidRequest` when there is one already."""
        if self._cache is not None:
            raise InvalidRequest("the KV cache is in use already; have its memory taken before the first request")
        self._cache = self._new_cache()
        forward.occupy(self._cache)

    def drop_cache(self) -> None:
        """Give the cache's memory back; nothing may run."""
        self._cache = None
        self._flights.clear()
        self._builders.clear()

    def add(self, samples: SequenceOf[Sequence]) -> None:
        """Let the samples of a prompt wait for their turn."""
        if self._cache is None:
            self._cache = self._new_cache()
        self.scheduler.add(samples)

    def step(self, forward: Forward) -> Generator[tuple[Sequence, TokenEvent], None, None]:
        """One forward pass (and one of each beam search), and a token for each sequence whose tokens are all computed then.

        Nothing if nothing runs. It is the pass that was begun first; as many as the forward works on are begun before.
        """
        if self._operations != (now := ops.replacements()):
            self._operations = now
            self.scheduler.pool.prefixes.clear()  # they were computed by other functions
        if self._cache is None:
            return
        steps = forward.steps_in_flight
        while len(self._flights) < steps:
            with held:
                plan = self.scheduler.plan(steps, {entry for flight in self._flights for entry in flight.plan.entries})
            if not plan.num_tokens:
                break
            try:
                self._flights.append(self._begin(plan, forward, self._cache))
            except Exception as error:
                yield from self._one_by_one(plan, forward, self._cache, error)
        if self._flights:
            yield from self._end(self._flights.popleft(), forward, self._cache)
        yield from self._beams.step(forward, self._cache)

    def cancel(self, sequences: Collection[Sequence]) -> None:
        """Let these sequences (all samples of a prompt) go, wherever they are."""
        self.scheduler.cancel(sequences)
        self._beams.cancel(sequences)

    def _new_cache(self) -> KVCache:
        model, slots = self._model, self.scheduler.pool.num_slots + 1  # and the one for padding
        return KVCache(model.config, slots, device=model.device, dtype=model.dtype, part=model.part)

    def _begin(self, plan: Plan, forward: Forward, cache: KVCache) -> Flight:
        model = self._model
        builder = self._builders.pop() if self._builders else None
        if builder is None:
            builder = BatchBuilder(self.scheduler.max_batch_size, model.config.context_length, forward.batch_device)
        plan = Plan(builder.line_up(plan.decodes), plan.chunks)
        write_prefix_prompts(plan.chunks, forward, cache)
        return Flight(plan, builder, forward.submit(builder.build(plan), cache))

    def _end(self, flight: Flight, forward: Forward, cache: KVCache) -> Iterator[tuple[Sequence, TokenEvent]]:
        try:
            logits = flight.logits()
        except Exception as error:
            self._flights.clear()  # those begun after it are planned again
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
        """The step of a plan that failed, sequence by sequence: those that fail alone have an event that says so."""
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
        """What follows from the logits of a step: log-probabilities of prompts, then a token for each sequence."""
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
        """Sample; each event as soon as its sequence has taken the token, so that none is lost if another one fails."""
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
        """The next tokens of each sequence, and their log-probabilities where it asks for them."""
        new = [place for place, entry in enumerate(entries) if not entry.sequence.new_tokens]
        if new and not ops.swapped():
            check_numbers(logits[new])
        for entry in entries:
            if entry.sampled != len(entry.sequence.new_tokens):  # new in its row, or the last step did not come to its end
                self._sampler.join(entry.row, entry.sequence)
            entry.sampled = -1  # until its tokens are there
        made = self._sample(logits, entries)
        scores = _logprobs(logits, entries, made)
        for entry, tokens in zip(entries, made, strict=True):
            entry.sampled = len(entry.sequence.new_tokens) + len(tokens)
        return made, scores

    def _append(
        self, entry: CachedSequence, tokens: list[int], scores: list[TokenLogprob | None]
    ) -> Iterator[tuple[Sequence, TokenEvent]]:
        """Let a sequence take its tokens."""
        sequence = entry.sequence
        entry.computed += len(tokens) - 1  # the guesses that were right
        self.scheduler.guesses_right += len(tokens) - 1
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
        """The next token of each sequence, and those behind it where its guesses are right."""
        rows = [entry.row for entry in entries]
        guesses = [entry.guesses for entry in entries]
        if any(guesses):
            return self._sampler.verify(logits, rows, guesses)
        return [[token] for token in self._sampler.sample(logits, rows).tolist()]


def _logprobs(logits: Tensor, entries: list[CachedSequence], made: list[list[int]]) -> list[list[TokenLogprob | None]]:
    """Log-probabilities of the tokens that each sequence made, as far as it asks for them."""
    if all(entry.sequence.params.logprobs is None for entry in entries):
        return [[None] * len(tokens) for tokens in made]
    starts = itertools.accumulate((1 + len(entry.guesses) for entry in entries), initial=0)
    rows = [start + place for start, tokens in zip(starts, made, strict=False) for place in range(len(tokens))]
    sequences = [entry.sequence for entry, tokens in zip(entries, made, strict=True) for _ in tokens]
    scores = iter(logprobs(logits[rows], sequences, list(itertools.chain(*made))))
    return [list(itertools.islice(scores, len(tokens))) for tokens in made]


def _score_prompts(plan: Plan, logits: Tensor) -> tuple[list[int], dict[CachedSequence, Exception]]:
    """Note the log-probabilities of prompts' tokens that this step can tell.

    Gives the rows after which tokens are made, and the sequences for which it failed.
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
