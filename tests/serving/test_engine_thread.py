"""The engine's thread and its socket, without a server: jobs come, leave, miss their deadlines or are too many."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import labkit
from labkit import SamplingParams
from labkit.errors import (
    Cancelled,
    DeadlinePassed,
    InvalidRequest,
    LabkitError,
    NotAvailable,
    Overloaded,
    RankFailed,
    RequestFailed,
)
from labkit.serving.python_backend.engine_socket import EngineSocket, RemoteEngine
from labkit.serving.python_backend.engine_thread import EngineThread
from tests.patience import PATIENCE, wait_for

LONG = SamplingParams(max_new_tokens=400, ignore_eos=True)
SHORT = SamplingParams(max_new_tokens=5)


class Kept:
    """Records the messages that come back for a job. With `is_held`, each token stops the engine until `may_go_on` is set.

    A test that submits a job while another job runs must hold the engine, because the test's thread can be kept waiting for a
    second.
    """

    def __init__(self, is_held: bool = False) -> None:
        self.tokens: list[int] = []
        self.failures: list[LabkitError] = []
        self.began, self.over, self.may_go_on = threading.Event(), threading.Event(), threading.Event()
        if not is_held:
            self.may_go_on.set()

    def on_event(self, _job: Any, event: Any) -> None:
        self.tokens.append(event.token_id)
        self.began.set()
        self.may_go_on.wait(PATIENCE)
        if event.finish_reason is not None:
            self.over.set()

    def on_failure(self, error: LabkitError) -> None:
        self.failures.append(error)
        self.over.set()


def submit(host: EngineThread, prompt: Any, params: SamplingParams, is_held: bool = False, **more: Any) -> tuple[Any, Kept]:
    kept = Kept(is_held)
    return host.submit(prompt, params, on_event=kept.on_event, on_failure=kept.on_failure, **more), kept


@pytest.fixture
def host() -> Iterator[EngineThread]:
    engine = labkit.load("gptj-tiny", max_batch_size=2, num_slots=900)
    made = EngineThread(engine, max_waiting=2)
    yield made
    made.close()


def test_requests_join_a_running_one_and_get_what_the_engine_gives_alone(host: EngineThread) -> None:
    texts = ["In the beginning", "Call me", "It was"]
    alone = labkit.load("gptj-tiny").generate(texts, SHORT)
    long, kept = submit(host, "Now", LONG, is_held=True)
    assert kept.began.wait(PATIENCE)
    others = [submit(host, text, SHORT)[1] for text in texts]
    others[-1].may_go_on.clear()  # so that the long job cannot end before this test has looked at it
    kept.may_go_on.set()
    assert all(other.over.wait(PATIENCE) for other in others[:-1])
    assert others[-1].began.wait(PATIENCE)
    assert not kept.over.is_set(), "the long one was here first, and goes on"
    long.cancel()
    others[-1].may_go_on.set()
    assert others[-1].over.wait(PATIENCE)
    assert [other.tokens for other in others] == [output.token_ids for output in alone]
    assert kept.over.wait(PATIENCE)
    assert isinstance(kept.failures[0], Cancelled)
    assert f"it had generated {len(kept.tokens)} tokens" in str(kept.failures[0])
    assert host.counts.requests == 4
    assert sum(host.counts.batch_sizes) == host.counts.steps > 0
    assert sum(host.counts.batch_sizes[1:]) > 0, "some steps were of two"


def test_a_cancelled_request_gives_its_slots_back(host: EngineThread) -> None:
    long = [submit(host, "Now", SamplingParams(max_new_tokens=420, ignore_eos=True)) for _ in range(2)]
    assert all(kept.began.wait(PATIENCE) for _, kept in long)
    for job, kept in long:
        job.cancel()
        assert kept.over.wait(PATIENCE)
    _, after = submit(host, "In", SHORT)
    assert after.over.wait(PATIENCE)
    wait_for(lambda: not host.counts.running, "the end of what was cancelled")
    assert (host.counts.running, host.counts.waiting, host.counts.free_slots) == (0, 0, host.counts.num_slots)


def test_a_deadline_ends_a_request_waiting_or_running(host: EngineThread) -> None:
    _, late = submit(host, "Now", LONG, seconds=0.05)
    assert late.over.wait(PATIENCE)
    assert isinstance(late.failures[0], DeadlinePassed)
    assert "its deadline has passed" in str(late.failures[0])
    assert "its timeout was 0.05 s" in str(late.failures[0])


def test_the_hosts_limit_ends_what_has_a_longer_timeout_or_none(host: EngineThread) -> None:
    host.request_seconds = 0.05
    for seconds in (None, 3600.0):
        _, late = submit(host, "Now", LONG, seconds=seconds)
        assert late.over.wait(PATIENCE)
        assert isinstance(late.failures[0], DeadlinePassed)
        assert "this server gives a request 0.05 s" in str(late.failures[0])
    host.request_seconds = 3600.0
    _, after = submit(host, "Now", SHORT, seconds=3600.0)
    assert after.over.wait(PATIENCE)
    assert not after.failures


def test_what_is_not_counted_changes_no_count(host: EngineThread) -> None:
    for is_counted in (False, True, False):
        _, kept = submit(host, "Now", SHORT, is_counted=is_counted)
        assert kept.over.wait(PATIENCE)
    counts = host.counts
    assert (counts.requests, counts.tokens, counts.steps, sum(counts.batch_sizes)) == (1, 5, 5, 5)


def test_the_times_of_steps_tell_work_from_rest_and_from_a_hang(host: EngineThread) -> None:
    """The deadline is set while there is work, and the time of the latest step changes with each step, even of a probe."""
    assert (host.counts.step_ended_seconds, host.counts.step_deadline_seconds) == (0.0, 0.0)
    host.request_seconds = 3600.0
    before = time.time()
    job, kept = submit(host, "Now", LONG, is_held=True, is_counted=False)
    assert kept.began.wait(PATIENCE)
    assert host.counts.step_ended_seconds == 0.0, "the step goes on: the test holds it"
    assert before + 3600 <= host.counts.step_deadline_seconds <= time.time() + 3600
    kept.may_go_on.set()
    wait_for(lambda: host.counts.step_ended_seconds, "the end of a step")
    first = host.counts.step_ended_seconds
    wait_for(lambda: host.counts.step_ended_seconds > first, "the end of another step")
    assert before < first < host.counts.step_ended_seconds <= time.time()
    job.cancel()
    wait_for(lambda: not host.counts.step_deadline_seconds, "rest")


LIMIT = r"4 requests are running or waiting \(2 \+ a queue of 2\), which is the limit"


def test_more_than_may_wait_are_refused_with_the_limit(host: EngineThread) -> None:
    _, kept = submit(host, "Now", LONG, is_held=True)
    assert kept.began.wait(PATIENCE)
    for _ in range(3):
        submit(host, "Now", SHORT)
    with pytest.raises(Overloaded, match=LIMIT):
        submit(host, "Now", SHORT)
    kept.may_go_on.set()


def test_a_request_on_its_way_into_the_engine_counts(host: EngineThread, monkeypatch: pytest.MonkeyPatch) -> None:
    add, came, may_go_on = host.engine.add_request, threading.Event(), threading.Event()

    def slowly(*arguments: Any) -> int:
        came.set()
        assert may_go_on.wait(PATIENCE)
        return add(*arguments)

    monkeypatch.setattr(host.engine, "add_request", slowly)
    jobs = [submit(host, "Now", SHORT)[1] for _ in range(4)]
    assert came.wait(PATIENCE)
    with pytest.raises(Overloaded, match=LIMIT):
        submit(host, "Now", SHORT)
    may_go_on.set()
    assert all(kept.over.wait(PATIENCE) for kept in jobs)


@pytest.mark.parametrize(
    ("prompt", "params", "words"),
    [
        ("", SHORT, "a prompt is empty"),
        ("word " * 3_000_000, SHORT, "fit the model's context of 512 tokens"),
        ([1, 99_999], SHORT, "token ids are 0 to"),
        ("a", SamplingParams(max_new_tokens=10_000), "10000 new tokens do not fit"),
        ("a", SamplingParams(stop=["x"] * 5000), "stop has 5000 words; at most 1024"),
    ],
)
def test_what_cannot_be_met_is_refused_for_itself_alone(host: EngineThread, prompt: Any, params: Any, words: str) -> None:
    _, good = submit(host, "In", SHORT)
    try:
        _, bad = submit(host, prompt, params)
        assert bad.over.wait(PATIENCE)
        error: LabkitError = bad.failures[0]
    except InvalidRequest as refused:
        error = refused
    assert isinstance(error, InvalidRequest)
    assert words in str(error)
    assert good.over.wait(PATIENCE)
    assert not good.failures


def test_a_step_that_fails_answers_everybody_and_the_host_goes_on(host: EngineThread, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise MemoryError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(host.engine, "step", fail)
        kept = [submit(host, "Now", LONG)[1] for _ in range(3)]
        assert all(one.over.wait(PATIENCE) for one in kept)
        assert all("a step of the engine failed: MemoryError: no room" in str(one.failures[0]) for one in kept)
    _, after = submit(host, "In", SHORT)
    assert after.over.wait(PATIENCE)
    assert len(after.tokens) == 5


def test_a_request_that_fails_is_told_to_its_client_alone(host: EngineThread) -> None:
    _, good = submit(host, "Now", LONG)
    assert good.began.wait(PATIENCE)
    _, bad = submit(host, "In", SamplingParams(soft_prompt=torch.full((1, host.engine.config.hidden_size), 3e38)))
    assert bad.over.wait(PATIENCE)
    assert [type(error) for error in bad.failures] == [RequestFailed]
    assert "are not finite" in str(bad.failures[0])
    assert not bad.tokens
    assert good.over.wait(PATIENCE)
    assert not good.failures
    assert len(good.tokens) == 400


def test_a_lost_rank_is_named_to_all_who_come_behind(host: EngineThread, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise RankFailed("rank 1 is gone")

    monkeypatch.setattr(host.engine, "step", fail)
    _, kept = submit(host, "Now", LONG)
    assert kept.over.wait(PATIENCE)
    assert isinstance(kept.failures[0], RankFailed)
    with pytest.raises(RankFailed, match="rank 1 is gone"):
        submit(host, "Now", LONG)


def _is_refused(host: EngineThread) -> bool:
    try:
        submit(host, "Now", SHORT)
    except Cancelled:
        return True
    return False


def test_whoever_is_under_way_is_told_when_the_host_closes() -> None:
    host = EngineThread(labkit.load("gptj-tiny"))
    _, kept = submit(host, "Now", LONG, is_held=True)
    assert kept.began.wait(PATIENCE)
    closing = threading.Thread(target=host.close)
    closing.start()
    wait_for(lambda: _is_refused(host), "the host to close")
    kept.may_go_on.set()
    closing.join()
    assert kept.over.wait(PATIENCE)
    assert isinstance(kept.failures[0], Cancelled)
    with pytest.raises(Cancelled, match="being unloaded"):
        submit(host, "Now", SHORT)


@pytest.fixture
def remote(host: EngineThread, tmp_path: Path) -> Iterator[tuple[RemoteEngine, EngineSocket, Path]]:
    path = tmp_path / "engine.sock"
    served = EngineSocket(host, path)
    engine = RemoteEngine(lambda: [path])
    yield engine, served, path
    engine.close()
    served.close()


def call(engine: RemoteEngine, prompts: list[list[int]], params: list[dict[str, Any]], **more: Any) -> Any:
    found: list[Any] = []
    done = threading.Event()

    def keep(answer: Any) -> None:
        found.append(answer)
        done.set()

    cancel = engine.submit(prompts, params, keep, **more)
    return found, done, cancel


def test_calls_over_the_socket(host: EngineThread, remote: tuple[RemoteEngine, EngineSocket, Path]) -> None:
    prompts = [[5, 6, 7], [8]]
    expected = labkit.load("gptj-tiny").generate(prompts, SamplingParams(max_new_tokens=6, logprobs=0))
    found, done, _ = call(remote[0], prompts, [{"max_new_tokens": 6, "logprobs": 0}] * 2)
    assert done.wait(PATIENCE)
    assert [one["token_ids"] for one in found[0]] == [output.token_ids for output in expected]
    assert [one["logprobs"] for one in found[0]] == [
        pytest.approx([item.logprob for item in output.completions[0].logprobs or ()], rel=1e-4) for output in expected
    ]
    assert [one["stop_tokens"] for one in found[0]] == [0, 0]


def test_refusals_and_cancellation_over_the_socket(host: EngineThread, remote: tuple[RemoteEngine, EngineSocket, Path]) -> None:
    found, done, _ = call(remote[0], [[5], [6]], [{"max_new_tokens": 6}, {"max_new_tokens": -1}])
    assert done.wait(PATIENCE)
    assert isinstance(found[0], InvalidRequest)
    found, done, _ = call(remote[0], [[5]], [{"nonsense": 6}])
    assert done.wait(PATIENCE)
    assert isinstance(found[0], InvalidRequest)
    _, kept = submit(host, "Now", SHORT, is_held=True)
    assert kept.began.wait(PATIENCE)
    found, done, cancel = call(remote[0], [[5]], [{"max_new_tokens": 400, "ignore_eos": True}])
    cancel()
    wait_for(lambda: host._withdrawn, "the message that cancels")
    kept.may_go_on.set()
    assert done.wait(PATIENCE)
    assert isinstance(found[0], Cancelled)
    found, done, _ = call(remote[0], [[5]], [{"max_new_tokens": 400, "ignore_eos": True}], seconds=0.05)
    assert done.wait(PATIENCE)
    assert isinstance(found[0], Cancelled)


def test_an_engine_that_goes_fails_its_calls_and_one_that_comes_back_is_found(
    host: EngineThread, remote: tuple[RemoteEngine, EngineSocket, Path]
) -> None:
    engine, served, path = remote
    _, kept = submit(host, "Now", SHORT, is_held=True)
    assert kept.began.wait(PATIENCE)
    found, done, _ = call(engine, [[5]], [{"max_new_tokens": 400, "ignore_eos": True}])
    served.close()
    kept.may_go_on.set()
    assert done.wait(PATIENCE)
    assert isinstance(found[0], NotAvailable)
    with pytest.raises(NotAvailable, match="no engine answers"):
        call(engine, [[5]], [{"max_new_tokens": 2}])
    again = EngineSocket(host, path)
    found, done, _ = call(engine, [[5]], [{"max_new_tokens": 2}])
    assert done.wait(PATIENCE)
    assert len(found[0][0]["token_ids"]) == 2
    again.close()


def test_an_older_socket_that_is_closed_later_leaves_the_newer_one(host: EngineThread, tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    older, newer = EngineSocket(host, path), EngineSocket(host, path)
    older.close()
    engine = RemoteEngine(lambda: [path])
    found, done, _ = call(engine, [[5]], [{"max_new_tokens": 2}])
    assert done.wait(PATIENCE)
    assert len(found[0][0]["token_ids"]) == 2
    engine.close()
    newer.close()
    assert not path.exists()
