"""Runs an engine in its own thread. Any thread can submit prompts; callbacks deliver the tokens."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence

from labkit.engine import Engine, SamplingParams, TokenEvent
from labkit.engine.intake import NO_TOKENIZER
from labkit.errors import THE_LIMIT, Cancelled, DeadlinePassed, InvalidRequest, LabkitError, Overloaded, RankFailed
from labkit.plurals import counted
from labkit.serving.python_backend.engine_counts import EngineThreadCounts
from labkit.serving.python_backend.word_lists import MOST_WORDS

LOOK_SECONDS = 0.25
"""The seconds between two readings of the engine's state while the engine is working."""

OnEvent = Callable[["Job", TokenEvent], None]
OnFailure = Callable[[LabkitError], None]


class Job:
    """A prompt that was submitted to an `EngineThread`; it ends with its last event or with one failure.

    seconds: the client's time limit; None if only the limit of the engine thread applies. is_counted: whether the counts
    include the prompt. queue_seconds: from `submit` to the step that generated the first token; 0 before that step.
    """

    def __init__(
        self,
        engine_thread: EngineThread,
        token_ids: list[int],
        params: SamplingParams,
        on_event: OnEvent,
        on_failure: OnFailure,
        seconds: float | None,
        is_counted: bool,
    ) -> None:
        self.token_ids, self.params = token_ids, params
        self.on_event, self.on_failure = on_event, on_failure
        self.seconds, self.is_counted = seconds, is_counted
        self.made = 0
        self.since = time.monotonic()
        self.deadline = self.since + min(engine_thread.request_seconds, math.inf if seconds is None else seconds)
        self.queue_seconds = 0.0
        self.left = params.num_samples
        self._engine_thread = engine_thread

    def cancel(self) -> None:
        """End the job before the next step and free its cache slots.

        If the job has not ended already, it fails with `Cancelled`.
        """
        self._engine_thread.withdraw(self)


class EngineThread:
    """A thread that runs an engine's steps for as long as there are prompts.

    At most `max_waiting` prompts wait in addition to the prompts that the engine runs. A prompt that is not done after
    `request_seconds` fails, because its client may have disconnected without notice. Callbacks are called in this thread
    between steps, so they must return quickly. `close` ends the thread, but does not close the engine.
    """

    def __init__(self, engine: Engine, *, max_waiting: int = 256, request_seconds: float = math.inf) -> None:
        self.engine = engine
        self.max_waiting, self.request_seconds = max_waiting, request_seconds
        self.counts = EngineThreadCounts()
        self._noted = 0.0
        tokenizer = engine.tokenizer
        longest = max(map(len, map(tokenizer.token_bytes, range(tokenizer.vocab_size)))) if tokenizer else 0
        self._most_bytes = longest * engine.config.context_length
        self._changed = threading.Condition()
        self._arrived: list[Job] = []
        self._withdrawn: list[Job] = []
        self._jobs: dict[int, Job] = {}
        self._lost: RankFailed | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="labkit engine", daemon=True)
        self._thread.start()

    @property
    def most(self) -> int:
        """The largest number of prompts that may run and wait together."""
        return self.engine.max_batch_size + self.max_waiting

    def submit(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams,
        *,
        on_event: OnEvent,
        on_failure: OnFailure,
        seconds: float | None = None,
        is_counted: bool = True,
    ) -> Job:
        """Submit a prompt (a text or token ids).

        The prompt's events go to `on_event`; if the prompt fails, `on_failure` is called once.

        seconds: a prompt that is not done after this time, or after `request_seconds`, fails with `DeadlinePassed`. is_counted:
        if False, the prompt is left out of `counts`, except for `running` and `waiting`. Raises `InvalidRequest` if the prompt
        or `params` are refused, `Overloaded` if too many prompts run and wait, `RankFailed` if a rank of the model has ended,
        `Cancelled` after `close`.
        """
        self._check_words(params)
        self.engine.prepare(params)
        job = Job(self, self._tokens(prompt), params, on_event, on_failure, seconds, is_counted)
        with self._changed:
            if self._lost:
                raise RankFailed(str(self._lost))
            if self._closed:
                raise Cancelled("the model is being unloaded")
            if len(self._jobs) + len(self._arrived) >= self.most:
                raise Overloaded(
                    f"{counted(self.most, 'request is', 'requests are')} running or waiting "
                    f"({self.engine.max_batch_size} + a queue of {self.max_waiting}), {THE_LIMIT}; ask again later"
                )
            self._arrived.append(job)
            self._changed.notify()
        return job

    def withdraw(self, job: Job) -> None:
        """End a job. `Job.cancel` calls this method."""
        with self._changed:
            self._withdrawn.append(job)
            self._changed.notify()

    def close(self) -> None:
        """End the thread. Jobs that have not ended fail with `Cancelled`."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _tokens(self, prompt: str | Sequence[int]) -> list[int]:
        """The prompt as token ids. A text that is too long for the context is refused without being encoded."""
        config = self.engine.config
        if not isinstance(prompt, str):
            return list(prompt[: config.context_length + 1])
        if self.engine.tokenizer is None:
            raise InvalidRequest(f"{NO_TOKENIZER}; give the prompt as token ids")
        if len(prompt) > self._most_bytes:
            raise InvalidRequest(
                f"a prompt has {len(prompt)} characters; at most {self._most_bytes} fit the model's context of "
                f"{config.context_length} tokens"
            )
        return self.engine.tokenizer.encode(prompt)

    @staticmethod
    def _check_words(params: SamplingParams) -> None:
        for name in ("stop", "bad_words"):
            words = getattr(params, name)
            if len(words) > MOST_WORDS or sum(map(len, words)) > 64 * MOST_WORDS:
                raise InvalidRequest(f"{name} has {len(words)} words; at most {MOST_WORDS} short words are accepted")

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._arrived or self._withdrawn or self._jobs or self._closed):
                    self._changed.wait()
                arrived = list(self._arrived)
                withdrawn, self._withdrawn = self._withdrawn, []
                closed = self._closed
            if closed:
                self._fail_all(Cancelled("the model is being unloaded"), arrived)
                return
            for job in arrived:
                self._admit(job)
            for job in withdrawn:
                self._end(job, Cancelled(f"its client has disconnected; it had generated {counted(job.made, 'token')}"))
            now = time.monotonic()
            for job in [job for job in self._jobs.values() if job.deadline < now]:
                self._end(job, self._too_late(job))
            if self._jobs:
                self.counts.step_deadline_seconds = time.time() + self.request_seconds
                self._step(now)
                self.counts.step_ended_seconds = time.time()
            self._note_state()

    def _admit(self, job: Job) -> None:
        """Hand a job to the engine. Until then the job stays in `_arrived`, so that `submit` always counts it."""
        failed = None
        try:
            number = self.engine.add_request(job.token_ids, job.params)
        except LabkitError as error:
            failed = error
        with self._changed:
            self._arrived.remove(job)
            if failed is None:
                self._jobs[number] = job
        if failed is not None:
            job.on_failure(failed)
        else:
            self.counts.requests += job.is_counted

    def _end(self, job: Job, error: LabkitError) -> None:
        """End a job before it is done. Does nothing if the job has ended already."""
        for number in [number for number, other in self._jobs.items() if other is job]:
            self.engine.cancel(number)
            self._forget(number).on_failure(error)

    def _too_late(self, job: Job) -> DeadlinePassed:
        made = f"its deadline has passed; it had generated {counted(job.made, 'token')}"
        if job.seconds is not None and job.seconds <= self.request_seconds:
            return DeadlinePassed(f"{made}; its timeout was {job.seconds:g} s: give a longer timeout, or ask for fewer tokens")
        return DeadlinePassed(
            f"{made}; this server gives a request {self.request_seconds:g} s (request_seconds): ask for fewer tokens"
        )

    def _note_state(self) -> None:
        """Copy the engine's state to the counts, from time to time and before the thread waits for prompts."""
        now = time.monotonic()
        if not self._jobs:
            self.counts.step_deadline_seconds = 0.0
        if not self._jobs or now - self._noted > LOOK_SECONDS:
            self._noted = now
            stats = self.engine.stats
            self.counts.running, self.counts.waiting = stats.running, stats.waiting
            self.counts.num_slots, self.counts.free_slots = stats.num_slots, stats.free_slots

    def _step(self, now: float) -> None:
        try:
            events = self.engine.step()
        except RankFailed as error:
            self._lost = error
            self._fail_all(error)
            return
        except Exception as error:  # the cause is unknown, so all jobs fail
            self._fail_all(LabkitError(f"a step of the engine failed: {type(error).__name__}: {error}"))
            return
        if counted := sum(event.error is None and self._jobs[event.request].is_counted for event in events):
            self.counts.count_step(counted)
        for event in events:
            job = self._jobs[event.request]
            if event.error is not None:
                self._forget(event.request)
                job.on_failure(event.error)
                continue
            if not job.made:
                job.queue_seconds = now - job.since
                self.counts.queue_seconds += job.queue_seconds * job.is_counted
            job.made += 1
            job.left -= event.finish_reason is not None
            if not job.left:
                self._forget(event.request)
            job.on_event(job, event)

    def _fail_all(self, error: LabkitError, arrived: Sequence[Job] = ()) -> None:
        for number in list(self._jobs):
            self.engine.cancel(number)
            self._forget(number).on_failure(error)
        for job in arrived:
            job.on_failure(error)

    def _forget(self, number: int) -> Job:
        with self._changed:
            return self._jobs.pop(number)
