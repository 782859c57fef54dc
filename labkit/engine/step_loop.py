"""One step of everything that runs: plan, forward pass, a token for each sequence. Knows nothing of who asked."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace

from torch import Tensor

from labkit import ops
from labkit.engine.batch_builder import BatchBuilder
from labkit.engine.beam_lane import BeamLane
from labkit.engine.cached_sequence import CachedSequence
from labkit.engine.forward import Forward, batch_device, occupy, steps_in_flight, submit
from labkit.engine.kv_cache import KVCache
from labkit.engine.model import GPTJ
from labkit.engine.outputs import TokenEvent, TokenLogprob
from labkit.engine.prefix_prompt import write_prefix_prompt
from labkit.engine.sampler import Sampler, logprobs, token_logprobs
from labkit.engine.scheduler import Chunk, Plan, Scheduler
from labkit.engine.sequence import Sequence
from labkit.errors import InvalidRequest

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

    A forward that works on several steps at a time (stages of a pipeline) is given as many, of different sequences. A step
    that fails leaves everything as it was, but for keys and values that the next one writes anew.
    """

    def __init__(self, model: GPTJ, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._model = model
        self._cache: KVCache | None = None
        self._builders: list[BatchBuilder] = []  # of which no step is under way
        self._flights: deque[Flight] = deque()
        self._sampler = Sampler(scheduler.max_batch_size, model.config.vocab_size, model.device)
        self._beams = BeamLane(scheduler, model.config.vocab_size)
        self._operations = ops.replacements()

    def occupy_cache(self, forward: Forward) -> None:
        """Make the cache now, with all its memory. Raises `InvalidRequest` when there is one already."""
        if self._cache is not None:
            raise InvalidRequest("the KV cache is in use already; have its memory taken before the first request")
        self._cache = self._new_cache()
        occupy(forward, self._cache)

    def add(self, samples: SequenceOf[Sequence]) -> None:
        """Let the samples of a prompt wait for their turn."""
        if self._cache is None:
            self._cache = self._new_cache()
        self.scheduler.add(samples)

    def step(self, forward: Forward) -> Iterator[tuple[Sequence, TokenEvent]]:
        """One forward pass (and one of each beam search), and a token for each sequence whose tokens are all computed then.

        Nothing if nothing runs. It is the pass that was begun first; as many as the forward works on are begun before.
        """
        if self._operations != (now := ops.replacements()):
            self._operations = now
            self.scheduler.pool.prefixes.clear()  # they were computed by other functions
        if self._cache is None:
            return
        steps = steps_in_flight(forward)
        while len(self._flights) < steps:
            plan = self.scheduler.plan(steps, {entry for flight in self._flights for entry in flight.plan.entries})
            if not plan.num_tokens:
                break
            self._begin(plan, forward, self._cache)
        if self._flights:
            yield from self._end()
        yield from self._beams.step(forward, self._cache)

    def cancel(self, sequences: Collection[Sequence]) -> None:
        """Let these sequences (all samples of a prompt) go, wherever they are."""
        self.scheduler.cancel(sequences)
        self._beams.cancel(sequences)

    def _new_cache(self) -> KVCache:
        model, slots = self._model, self.scheduler.pool.num_slots + 1  # and the one for padding
        return KVCache(model.config, slots, device=model.device, dtype=model.dtype, part=model.part)

    def _begin(self, plan: Plan, forward: Forward, cache: KVCache) -> None:
        model = self._model
        builder = self._builders.pop() if self._builders else None
        if builder is None:
            device = batch_device(forward, model)
            builder = BatchBuilder(self.scheduler.max_batch_size, model.config.context_length, device)
        plan = Plan(builder.line_up(plan.decodes), plan.chunks)
        for chunk in plan.chunks:
            self._write_prefix_prompt(chunk, forward, cache)
        self._flights.append(Flight(plan, builder, submit(forward, builder.build(plan), cache)))

    def _end(self) -> Iterator[tuple[Sequence, TokenEvent]]:
        flight = self._flights.popleft()
        plan = flight.plan
        try:
            logits = flight.logits()
        except BaseException:
            self._flights.clear()  # those begun behind it are planned again as well
            raise
        self._builders.append(flight.builder)
        if gone := self.scheduler.gone(plan):
            plan, rows = plan.without(gone)
            logits = logits[rows]
        if any(len(chunk.scored) for chunk in plan.chunks):
            logits = _score_prompts(plan, logits)
        if entries := self.scheduler.commit(plan):
            yield from self._take_tokens(logits, entries)

    def _take_tokens(self, logits: Tensor, entries: list[CachedSequence]) -> Iterator[tuple[Sequence, TokenEvent]]:
        """Sample; each event as soon as its sequence has taken the token, so that none is lost if another one fails."""
        for entry in entries:
            if entry.sampled != len(entry.sequence.new_tokens):  # new in its row, or the last step did not come to its end
                self._sampler.join(entry.row, entry.sequence)
                entry.sampled = len(entry.sequence.new_tokens)
        made = self._sample(logits, entries)
        for entry, tokens, scores in zip(entries, made, _logprobs(logits, entries, made), strict=True):
            entry.sampled += len(tokens)
            entry.computed += len(tokens) - 1  # the guesses that were right
            self.scheduler.guesses_right += len(tokens) - 1
            for token, score in zip(tokens, scores, strict=True):
                first = not entry.sequence.new_tokens and entry.scores_prompt and entry.sequence.sample == 0
                event = entry.sequence.append(token, score)
                if first:
                    event = replace(event, prompt_logprobs=_prompt_logprobs(entry))
                if event.finish_reason is not None:
                    self._sampler.leave(entry.row)
                    self.scheduler.finish(entry)
                yield entry.sequence, event
                if event.finish_reason is not None:
                    break

    def _sample(self, logits: Tensor, entries: list[CachedSequence]) -> list[list[int]]:
        """The next token of each sequence, and those behind it where its guesses are right."""
        rows = [entry.row for entry in entries]
        guesses = [entry.guesses for entry in entries]
        if any(guesses):
            return self._sampler.verify(logits, rows, guesses)
        return [[token] for token in self._sampler.sample(logits, rows).tolist()]

    @staticmethod
    def _write_prefix_prompt(chunk: Chunk, forward: Forward, cache: KVCache) -> None:
        """Put the keys and values that a request brings into its first slots, before its first token is computed."""
        given = chunk.entry.sequence.params.prefix_prompt
        if given is not None and chunk.begin == chunk.entry.prefix_len:
            write_prefix_prompt(forward, cache, chunk.entry.slots[: chunk.begin], given)


def _logprobs(logits: Tensor, entries: list[CachedSequence], made: list[list[int]]) -> list[list[TokenLogprob | None]]:
    """Log-probabilities of the tokens that each sequence made, as far as it asks for them."""
    if all(entry.sequence.params.logprobs is None for entry in entries):
        return [[None] * len(tokens) for tokens in made]
    starts = itertools.accumulate((1 + len(entry.guesses) for entry in entries), initial=0)
    rows = [start + place for start, tokens in zip(starts, made, strict=False) for place in range(len(tokens))]
    sequences = [entry.sequence for entry, tokens in zip(entries, made, strict=True) for _ in tokens]
    scores = iter(logprobs(logits[rows], sequences, list(itertools.chain(*made))))
    return [list(itertools.islice(scores, len(tokens))) for tokens in made]


def _score_prompts(plan: Plan, logits: Tensor) -> Tensor:
    """Note the log-probabilities of prompts' tokens that this step can tell; the rows behind which tokens are made."""
    left, row = list(range(len(plan.decodes))), len(plan.decodes)
    for chunk in plan.chunks:
        entry, count = chunk.entry, len(chunk.scored)
        places = [chunk.begin + position - entry.lead + 1 for position in chunk.scored]
        for start in range(0, count, SCORED_AT_ONCE):
            part = places[start : start + SCORED_AT_ONCE]
            tokens = [entry.sequence.prompt[place] for place in part]
            most = entry.sequence.params.prompt_logprobs or 0
            found = token_logprobs(logits[row + start : row + start + len(part)], tokens, [most] * len(part))
            entry.prompt_logprobs.update(zip(part, found, strict=True))
        left += range(row + count, row + count + len(chunk.sampled))
        row += count + len(chunk.sampled)
    return logits[left]


def _prompt_logprobs(entry: CachedSequence) -> tuple[TokenLogprob | None, ...]:
    return tuple(entry.prompt_logprobs.get(place) for place in range(len(entry.sequence.prompt)))
