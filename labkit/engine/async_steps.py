"""Serves requests from an asyncio event loop.

A thread runs the engine's steps and sends the events to the event loop, which never blocks. This module uses only three
functions of the engine: one adds requests, one removes requests, and one runs a step.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any
from weakref import WeakMethod

from labkit.engine.intake import Inbox, Request
from labkit.engine.outputs import TokenEvent
from labkit.errors import LabkitError


class LoopInbox:
    """Takes events from any thread and passes them to the event loop in which the inbox was created."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[TokenEvent | Exception] = asyncio.Queue()

    def append(self, event: TokenEvent | Exception, /) -> None:
        """Pass on an event, or the error that ends the stream."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits for the event
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    async def get(self) -> TokenEvent:
        """The next event. Raises the error that ended the request."""
        event = await self._queue.get()
        if isinstance(event, Exception):
            raise event
        if event.error is not None:
            raise event.error
        return event


class Call:
    """The requests of one stream, and the inbox that receives their events."""

    def __init__(self, requests: list[Request], inbox: LoopInbox) -> None:
        self.requests, self.inbox = requests, inbox

    @property
    def goes_on(self) -> bool:
        """Whether at least one request of the call is still running."""
        return any(request.unfinished for request in self.requests)


def weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """A function that calls a bound method, but does not keep the method's object in memory.

    When the object is gone, the function does nothing and returns None.
    """
    held = WeakMethod(method)

    def call(*given: Any) -> Any:
        found = held()
        return None if found is None else found(*given)

    return call


class AsyncSteps:
    """Runs the engine's steps in a thread while there are unfinished calls. When all calls have ended, the thread ends.

    submit, withdraw and advance are methods that add requests, remove requests, and run one step. They may have to wait for a
    step that another thread runs, so they are called only in this object's thread and never in the event loop's thread. This
    object does not keep the methods' object in memory: a stream that still runs does (see `stream_of`).
    """

    def __init__(
        self,
        submit: Callable[[list[Request]], None],
        withdraw: Callable[[list[Request]], None],
        advance: Callable[[], None],
    ) -> None:
        self._submit, self._withdraw, self._advance = weakly(submit), weakly(withdraw), weakly(advance)
        self._lock = threading.Lock()  # no thread holds this lock for long
        self._arrived: list[Call] = []
        self._ended: list[Call] = []
        self._calls: list[Call] = []  # the running calls; only this object's thread uses the list
        self._thread: threading.Thread | None = None

    def begin(self, call: Call) -> None:
        """Add a call; its requests take part from the next step on."""
        with self._lock:
            self._arrived.append(call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="labkit async steps", daemon=True)
                self._thread.start()

    def end(self, call: Call) -> None:
        """Make the thread remove the unfinished requests of a call before the next step."""
        if call.goes_on:
            with self._lock:
                self._ended.append(call)

    def fail(self, error: LabkitError) -> None:
        """End all streams with this error. The caller of this method removes the streams' requests."""
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
            time.sleep(0)  # gives another thread that waits for the engine a chance to run

    def _try(self, do: Callable[[], None], calls: list[Call]) -> None:
        """Call `do`. If it raises, end these calls with the error."""
        try:
            do()
        except BaseException as error:
            self._calls = [call for call in self._calls if call not in calls]
            for call in calls:
                self._withdraw(call.requests)
                call.inbox.append(error if isinstance(error, LabkitError) else LabkitError(f"{type(error).__name__}: {error}"))


async def stream_of(steps: AsyncSteps, begin: Callable[[Inbox], list[Request]]) -> AsyncGenerator[TokenEvent, None]:
    """Yield the events of the requests that `begin` makes for an inbox.

    `begin` runs in a thread, because it tokenizes the prompts, which takes time. While the stream runs, it keeps `begin` and so
    the engine in memory.
    """
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
