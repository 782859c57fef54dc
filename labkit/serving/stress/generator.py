"""Sends the requests of a stress test, from a fixed number of users or at random times, and records when each token arrives."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from labkit.errors import LabkitError
from labkit.plurals import counted
from labkit.serving.client import AsyncClient
from labkit.serving.stress.arrivals import poisson_arrivals
from labkit.serving.stress.other_programs import OtherPrograms
from labkit.serving.stress.prompts import Prompts
from labkit.serving.stress.settings import StressSettings
from labkit.serving.stress.times import RequestTimes, StressRun

TICK_SECONDS = 0.01
"""Time between two measurements of how late the event loop is."""

PAUSE_AFTER_ERROR = 0.05
"""Seconds that a user waits after an error, so that users whose requests are refused do not send thousands of them per second.
"""


def run_stress(
    grpc_address: str, settings: StressSettings, *, progress: Callable[[str], None] = lambda words: None
) -> StressRun:
    """Run a stress test of a server, and wait until every request has ended.

    A failed request is recorded with its error and not repeated. `progress` is called with a text about the progress every
    second. Raises `InvalidRequest` for a malformed address, and `NotAvailable` if tritonclient is not installed. Before the
    test, one request is sent that does not count; if this request fails, its error is raised and the test does not start.
    """
    generator = _Generator(grpc_address, settings, progress)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(generator.run())
    with ThreadPoolExecutor(1) as other:  # the thread of a notebook already runs an event loop
        return other.submit(lambda: asyncio.run(generator.run())).result()


class _Generator:
    def __init__(self, address: str, settings: StressSettings, progress: Callable[[str], None]) -> None:
        self._address, self._settings, self._progress = address, settings, progress
        self._prompts = Prompts(settings.prompt_tokens, seed=settings.seed, as_token_ids=settings.as_token_ids)
        self._lengths = random.Random(f"lengths {settings.seed}")
        self._run = StressRun(settings)
        self._began = 0.0
        self._ended = 0

    async def run(self) -> StressRun:
        async with AsyncClient(
            self._address, model=self._settings.model, timeout=self._settings.timeout, retries=0
        ) as self._client:
            await self._client.generate(self._prompts.next(), max_new_tokens=1)
            with OtherPrograms(self._address) as others:
                await self._load()
        self._run.disturbed, self._run.not_watched = others.disturbed, others.not_watched
        self._run.requests.sort(key=lambda request: request.number)
        return self._run

    async def _load(self) -> None:
        """Send all requests and wait until they have ended."""
        self._began = time.perf_counter()
        watchers = [asyncio.create_task(self._watch_loop()), asyncio.create_task(self._tell())]
        try:
            async with asyncio.TaskGroup() as requests:
                await (self._users(requests) if self._settings.rate is None else self._independent(requests))
        except ExceptionGroup as errors:  # the requests' own errors are counted, so this is an error of the generator itself
            raise errors.exceptions[0] from None
        finally:
            for watcher in watchers:
                watcher.cancel()

    def _now(self) -> float:
        return time.perf_counter() - self._began

    async def _users(self, requests: asyncio.TaskGroup) -> None:
        for _ in range(self._settings.users or 0):
            requests.create_task(self._user())

    async def _user(self) -> None:
        while (now := self._now()) < self._run.end:
            if (await self._ask(now)).error is not None:
                await asyncio.sleep(PAUSE_AFTER_ERROR)

    async def _independent(self, requests: asyncio.TaskGroup) -> None:
        for due in poisson_arrivals(self._settings.rate or 0.0, self._run.end, self._settings.seed):
            await asyncio.sleep(max(0.0, due - self._now()))
            requests.create_task(self._ask(due))

    async def _ask(self, due: float) -> RequestTimes:
        prompt, new_tokens = self._prompts.next(), self._settings.new_tokens.draw(self._lengths)
        request = RequestTimes(len(self._run.requests), due, self._now())
        self._run.requests.append(request)
        pieces = self._client.stream(
            prompt, max_new_tokens=new_tokens, ignore_eos=True, temperature=self._settings.temperature, seed=request.number
        )
        try:
            async for piece in pieces:
                request.pieces.append(self._now())
                request.tokens += len(piece.token_ids)
                if piece.last:
                    request.prompt_tokens, request.queue_seconds = piece.last.prompt_tokens, piece.last.queue_seconds
        except LabkitError as error:
            request.error, request.words = type(error).__name__, str(error)
        request.ended = self._now()
        self._ended += 1
        return request

    async def _watch_loop(self) -> None:
        while True:
            before = self._now()
            await asyncio.sleep(TICK_SECONDS)
            self._run.loop_lags.append(self._now() - before - TICK_SECONDS)

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(1)
            asked = len(self._run.requests)
            self._progress(
                f"{self._settings.offered_load}: {self._now():.0f} of {self._run.end:.0f} s, {counted(asked, 'request')}, "
                f"{asked - self._ended} of them unfinished"
            )
