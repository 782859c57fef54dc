"""The limits of a learner's process hold in the sandbox too, where the process and its children have other process ids."""

from __future__ import annotations

import psutil
import pytest

from labkit.exercises.registry import exercise
from labkit.grading import notebook_check, workers
from labkit.grading.notebook_check import run_apart
from labkit.grading.sandbox import Sandbox
from labkit.grading.submission import submission_of
from labkit.grading.verdict import ERROR, INCONCLUSIVE, TIMED_OUT, Verdict
from labkit.grading.workers import Workers
from tests.patience import is_running, wait_for
from tests.sandboxes import sandbox_or_skip

pytestmark = pytest.mark.long

HEAD = "def kv_cache_bytes(config, lengths, element_bytes):\n    import mmap, signal, subprocess, time\n"
MARKER = "98765.1234"
"""The number of seconds for which a child process sleeps. This number identifies the child."""


@pytest.fixture
def sandbox() -> Sandbox:
    """A sandbox, if this machine has one."""
    return sandbox_or_skip()


def verdict_on(body: str, sandbox: Sandbox) -> Verdict:
    """Judge a function with this body on the inputs of one seed. Return the verdict."""
    with Workers(sandbox=sandbox) as workers:
        verdict = run_apart(exercise("lab00.kv_cache_bytes"), submission_of(HEAD + body), workers, (1,))
    assert verdict.points == 0
    return verdict


def test_too_many_processes_are_ended(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "MOST_PROCESSES", 20)
    body = f"    children = [subprocess.Popen(['setsid', 'sleep', '{MARKER}']) for _ in range(40)]\n    time.sleep(600)"
    verdict = verdict_on(body, sandbox)
    assert verdict.verdict == INCONCLUSIVE or (verdict.cause, verdict.message) == (
        ERROR,
        "Your function started more than 20 processes and was stopped.",
    )

    def left() -> list[psutil.Process]:
        return [one for one in psutil.process_iter(["cmdline"]) if MARKER in (one.info["cmdline"] or []) and is_running(one)]

    wait_for(lambda: not left(), "the end of what the function had started")


def test_shared_memory_counts(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker's own memory limit does not count shared memory, but the watching process outside the sandbox does."""
    monkeypatch.setattr(workers, "MOST_MEMORY_BYTES", 2 * 2**30)
    body = "    memory = mmap.mmap(-1, 2**31)\n    for _ in range(8):\n        memory.write(bytes(2**28))\n    time.sleep(600)"
    verdict = verdict_on(body, sandbox)
    assert verdict.verdict == INCONCLUSIVE or (verdict.cause, verdict.message) == (
        ERROR,
        "Your function used more than 2 GiB of memory and was stopped.",
    )


def test_a_loop_that_catches_everything_is_ended(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits inside the process do not end it, so the process outside the sandbox ends it after a limit, which this test
    shortens.
    """
    monkeypatch.setattr(notebook_check, "START_SECONDS", 20)
    body = "    signal.signal(signal.SIGALRM, signal.SIG_IGN)\n    while True:\n        time.sleep(1)"
    verdict = verdict_on(body, sandbox)
    assert verdict.verdict == INCONCLUSIVE or (verdict.cause, verdict.message) == (
        TIMED_OUT,
        "Your function ran for more than 40 seconds and was stopped.",
    )
