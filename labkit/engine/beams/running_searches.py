"""Runs beam searches in addition to the engine's batch. Each search runs one forward pass per step.

When a search is over, the tokens of its best hypotheses become the tokens of its samples.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace

from labkit.engine.beams.beam_group import Hypothesis
from labkit.engine.beams.beam_search import BeamSearch
from labkit.engine.beams.beam_tree import path
from labkit.engine.interrupts import held
from labkit.engine.outputs import NO_TOKEN, TokenEvent
from labkit.engine.sampler import Sampler
from labkit.engine.schedule.scheduler import Reservation, Scheduler
from labkit.engine.schedule.sequence import Sequence
from labkit.engine.step_failures import failed, may_be_of_one
from labkit.model.forward import Forward
from labkit.model.kv_cache import KVCache


@dataclass(eq=False)
class Search:
    """The search for all prompts that were admitted in the same step.

    `again`: whether this search repeats a failed search for one prompt alone.
    """

    reservations: list[Reservation]
    beams: BeamSearch
    passes: Iterator[None]
    again: bool


class RunningSearches:
    """Runs a search for each reservation of the scheduler.

    Prompts that are admitted together are searched together. A cancelled prompt frees its slots when the other prompts of its
    search have ended, or immediately if no other prompt is left. When a search fails, each of its prompts gets a new search of
    its own. If this new search fails, too, the prompt ends with an event that has the `error`. An exception that cannot be the
    fault of one prompt (see `may_be_of_one`) is raised to the caller, and the prompts return to the queue for a new search.
    """

    def __init__(self, scheduler: Scheduler, sampler: Sampler) -> None:
        self._scheduler = scheduler
        self._sampler = sampler
        self._searches: list[Search] = []
        self._gone: set[Sequence] = set()

    def step(self, forward: Forward, cache: KVCache) -> Iterator[tuple[Sequence, TokenEvent]]:
        """Run one pass of every search. Yields the tokens of the searches that have ended."""
        begun = self._begun()
        if new := [reservation for reservation in self._scheduler.reservations if reservation not in begun]:
            yield from self._start(new, forward, cache)
        for search in list(self._searches):
            try:
                ended = next(search.passes, self) is self
            except BaseException as error:
                if may_be_of_one(error):
                    yield from self._apart(search, error, forward, cache)
                    continue
                for samples in reversed(self._end(search)):
                    self._scheduler.waiting.appendleft(samples)
                raise
            if ended:
                with held:
                    wanted = self._end(search)
                    for reservation, hypotheses in zip(search.reservations, search.beams.hypotheses, strict=True):
                        if reservation.samples in wanted:
                            yield from _events(reservation.samples, hypotheses)

    def cancel(self, sequences: Collection[Sequence]) -> None:
        """Remove these sequences, which must include all samples of each of their prompts."""
        for search in list(self._searches):
            self._gone |= {r.samples[0] for r in search.reservations if r.samples[0] in sequences}
            if all(r.samples[0] in self._gone for r in search.reservations):
                self._end(search)
        begun = self._begun()
        for reservation in [r for r in self._scheduler.reservations if r.samples[0] in sequences and r not in begun]:
            self._scheduler.release(reservation)

    def _begun(self) -> set[Reservation]:
        return {reservation for search in self._searches for reservation in search.reservations}

    def _start(
        self, reservations: list[Reservation], forward: Forward, cache: KVCache, *, again: bool = False
    ) -> Iterator[tuple[Sequence, TokenEvent]]:
        slots = [slot for reservation in reservations for slot in reservation.slots.tolist()]
        sequences = [reservation.samples[0] for reservation in reservations]
        rows = [row for reservation in reservations for row in reservation.rows]
        limit = self._scheduler.max_step_tokens
        try:
            beams = BeamSearch(forward, cache, self._sampler, rows, slots, sequences, max_prefill_tokens=limit)
        except Exception as error:
            if not may_be_of_one(error):
                raise
            if len(reservations) > 1:
                for reservation in reservations:
                    yield from self._start([reservation], forward, cache)
                return
            self._scheduler.release(reservations[0])
            yield failed(sequences[0], error)
            return
        self._searches.append(Search(reservations, beams, beams.passes(), again))

    def _apart(
        self, search: Search, error: BaseException, forward: Forward, cache: KVCache
    ) -> Iterator[tuple[Sequence, TokenEvent]]:
        """Repeat a failed search, with a separate search for each prompt that was not cancelled.

        If the failed search is itself such a repeated search, its one prompt is ended with the error.
        """
        if search.again:
            for samples in self._end(search):
                yield failed(samples[0], error)
            return
        self._searches.remove(search)
        for reservation in search.reservations:
            if reservation.samples[0] in self._gone:
                self._gone.remove(reservation.samples[0])
                self._scheduler.release(reservation)
            else:
                yield from self._start([reservation], forward, cache, again=True)

    def _end(self, search: Search) -> list[list[Sequence]]:
        """End a search and free everything that it holds. Returns the samples that were not cancelled, one list per prompt."""
        self._searches.remove(search)
        for reservation in search.reservations:
            self._scheduler.release(reservation)
        groups = [reservation.samples for reservation in search.reservations]
        wanted = [samples for samples in groups if samples[0] not in self._gone]
        self._gone -= {samples[0] for samples in groups}
        return wanted


def _events(samples: list[Sequence], hypotheses: SequenceOf[Hypothesis]) -> Iterator[tuple[Sequence, TokenEvent]]:
    """Yield the tokens of the best hypotheses as events: one hypothesis per sample, best first.

    If bad words left too few hypotheses, the last hypothesis is repeated.
    """
    for number, sample in enumerate(samples):
        best = hypotheses[min(number, len(hypotheses) - 1)] if hypotheses else None
        nodes = path(best.node) if best is not None else []
        try:
            for node in nodes[:-1]:
                yield sample, sample.append(node.token, node.logprob)
            # If every token is forbidden, there is no hypothesis. The text then ends without a token, as in plain sampling.
            token, logprob = (nodes[-1].token, nodes[-1].logprob) if nodes else (NO_TOKEN, None)
            last = sample.append(token, logprob)
        except Exception as error:
            yield failed(sample, error)
            return
        score = None if best is None else best.score
        yield sample, replace(last, finish_reason=last.finish_reason or "length", score=score)
