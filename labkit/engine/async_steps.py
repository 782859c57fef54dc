"""Requests of an event loop: their steps run in a thread, their events come back to the loop, which never waits.

Knows of the engine only how requests join, leave and go a step on.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Callable
from functools import partial

from labkit.engine.intake import Inbox, Request
from labkit.engine.outputs import TokenEvent
from labkit.errors import LabkitError


class LoopInbox:
    """Takes events in any thread and gives them to the event loop in which it was made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[TokenEvent | Exception] = asyncio.Queue()

    def append(self, event: TokenEvent | Exception, /) -> None:
        """Hand an event on, or what ends the stream."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits there
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    async def get(self) -> TokenEvent:
        """The next event; raises what ended the request."""
        event = await self._queue.get()
        if isinstance(event, Exception):
            raise event
        if event.error is not None:
            raise event.error
        return event


class Call:
    """The requests of one stream, and where their events go."""

    def __init__(self, requests: list[Request], inbox: LoopInbox) -> None:
        self.requests, self.inbox = requests, inbox

    @property
    def goes_on(self) -> bool:
        """Whether one of its requests has not ended."""
        return any(request.unfinished for request in self.requests)


class AsyncSteps:
    """A thread that steps as long as a call is under way; there is none while there is no call.

    `submit` and `withdraw` take requests, `advance` is one step. They may wait for other threads' steps, so they are called
    in this thread alone, and never in the event loop's.
    """

    def __init__(
        self,
        submit: Callable[[list[Request]], None],
        withdraw: Callable[[list[Request]], None],
        advance: Callable[[], None],
    ) -> None:
        self._submit, self._withdraw, self._advance = submit, withdraw, advance
        self._lock = threading.Lock()  # never held for long
        self._arrived: list[Call] = []
        self._ended: list[Call] = []
        self._calls: list[Call] = []  # under way; the thread's own
        self._thread: threading.Thread | None = None

    def begin(self, call: Call) -> None:
        """Let a call join before the next step."""
        with self._lock:
            self._arrived.append(call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="labkit async steps", daemon=True)
                self._thread.start()

    def end(self, call: Call) -> None:
        """Take back, before the next step, what has not ended of a call that has begun."""
        if call.goes_on:
            with self._lock:
                self._ended.append(call)

    def fail(self, error: LabkitError) -> None:
        """End all streams with this: their requests were taken back by somebody else."""
        with self._lock:
            for call in self._calls + self._arrived:
                call.inbox.append(error)

    def _run(self) -> None:
        while True:
            with self._lock:
                arrived, self._arrived = self._arrived, []
                ended, self._ended = self._ended, []
                self._calls = [call for call in self._calls + arrived if call.goes_on and call not in ended]
                if not (self._calls or ended):
                    self._thread = None
                    return
            for call in ended:
                self._withdraw(call.requests)
            for call in arrived:
                if call in self._calls:
                    self._try(partial(self._submit, call.requests), [call])
            if self._calls:
                self._try(self._advance, self._calls)
            time.sleep(0)  # a thread that waits for the engine has its turn

    def _try(self, do: Callable[[], None], calls: list[Call]) -> None:
        """Do it; what it raises goes to these calls, and ends them."""
        try:
            do()
        except BaseException as error:
            self._calls = [call for call in self._calls if call not in calls]
            for call in calls:
                self._withdraw(call.requests)
                call.inbox.append(error if isinstance(error, LabkitError) else LabkitError(f"{type(error).__name__}: {error}"))


async def stream_of(steps: AsyncSteps, begin: Callable[[Inbox], list[Request]]) -> AsyncGenerator[TokenEvent, None]:
    """The events of the requests that `begin` makes for an inbox; it is called in a thread, since it reads the prompts."""
    inbox = LoopInbox()
    call = Call(await asyncio.to_thread(begin, inbox), inbox)
    left = sum(len(request.sequences) for request in call.requests)
    steps.begin(call)
    try:
        while left:
            event = await inbox.get()
            left -= event.finish_reason is not None
            yield event
    finally:
        steps.end(call)
