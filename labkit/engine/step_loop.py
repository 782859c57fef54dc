"""One step of everything that runs: plan, forward pass, a token for each sequence. Knows nothing of who asked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from collections.abc import Sequence as SequenceOf

import torch
from torch import Tensor

from labkit import ops
from labkit.engine.batch import Batch
from labkit.engine.batch_builder import BatchBuilder
from labkit.engine.beam_lane import BeamLane
from labkit.engine.cached_sequence import CachedSequence
from labkit.engine.kv_cache import KVCache
from labkit.engine.model import GPTJ
from labkit.engine.outputs import TokenEvent
from labkit.engine.sampler import Sampler, logprobs
from labkit.engine.scheduler import Chunk, Plan, Scheduler
from labkit.engine.sequence import Sequence

Forward = Callable[[Batch, KVCache], Tensor]
"""Runs a batch and gives the logits that it wants, as `GPTJ.forward` does."""


class StepLoop:
    """The scheduler, and the tensors that its sequences live in. The cache is made when the first request comes.

    A step that fails leaves everything as it was, but for keys and values that the next one writes anew.
    """

    def __init__(self, model: GPTJ, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._model = model
        self._cache: KVCache | None = None
        self._builder = BatchBuilder(scheduler.max_batch_size, model.config.context_length, model.device)
        self._sampler = Sampler(scheduler.max_batch_size, model.config.vocab_size, model.device)
        self._beams = BeamLane(scheduler, model.config.vocab_size)
        self._operations = ops.replacements()

    def add(self, samples: SequenceOf[Sequence]) -> None:
        """Let the samples of a prompt wait for their turn."""
        if self._cache is None:
            model = self._model
            self._cache = KVCache(model.config, self.scheduler.pool.num_slots, device=model.device, dtype=model.dtype)
        self.scheduler.add(samples)

    def step(self, forward: Forward) -> Iterator[tuple[Sequence, TokenEvent]]:
        """One forward pass (and one of each beam search), and a token for each sequence whose tokens are all computed then.

        Nothing if nothing runs.
        """
        if self._operations != (now := ops.replacements()):
            self._operations = now
            self.scheduler.pool.prefixes.clear()  # they were computed by other functions
        if self._cache is None:
            return
        plan = self.scheduler.plan()
        if plan.num_tokens:
            yield from self._pass(plan, forward, self._cache)
        yield from self._beams.step(forward, self._cache)

    def cancel(self, sequences: Collection[Sequence]) -> None:
        """Let these sequences (all samples of a prompt) go, wherever they are."""
        self.scheduler.cancel(sequences)
        self._beams.cancel(sequences)

    def _pass(self, plan: Plan, forward: Forward, cache: KVCache) -> Iterator[tuple[Sequence, TokenEvent]]:
        plan = Plan(self._builder.line_up(plan.decodes), plan.chunks)
        for chunk in plan.chunks:
            self._write_prefix_prompt(chunk, cache)
        logits = forward(self._builder.build(plan), cache)
        if entries := self.scheduler.commit(plan):
            yield from self._take_tokens(logits, entries)

    def _take_tokens(self, logits: Tensor, entries: list[CachedSequence]) -> Iterator[tuple[Sequence, TokenEvent]]:
        """Sample; each event as soon as its sequence has taken the token, so that none is lost if another one fails."""
        sequences = [entry.sequence for entry in entries]
        for entry in entries:
            if entry.sampled != len(entry.sequence.new_tokens):  # new in its row, or the last step did not come to its end
                self._sampler.join(entry.row, entry.sequence)
                entry.sampled = len(entry.sequence.new_tokens)
        tokens: list[int] = self._sampler.sample(logits, [entry.row for entry in entries]).tolist()
        scores = logprobs(logits, sequences, tokens)
        for entry, token, score in zip(entries, tokens, scores, strict=True):
            entry.sampled += 1
            event = entry.sequence.append(token, score)
            if event.finish_reason is not None:
                self._sampler.leave(entry.row)
                self.scheduler.finish(entry)
            yield entry.sequence, event

    @staticmethod
    def _write_prefix_prompt(chunk: Chunk, cache: KVCache) -> None:
        """Put the keys and values that a request brings into its first slots, before its first token is computed."""
        given = chunk.entry.sequence.params.prefix_prompt  # [num_layers, 2, num_heads, prefix_len, head_dim]
        if given is None or chunk.begin != chunk.entry.prefix_len:
            return
        slots = torch.from_numpy(chunk.entry.slots[: chunk.begin]).to(cache.keys.device, torch.int64)
        keys, values = given.to(cache.keys.device, cache.keys.dtype).transpose(2, 3).unbind(1)
        cache.keys[:, slots] = keys
        cache.values[:, slots] = values
