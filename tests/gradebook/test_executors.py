"""Grading by executors: verdicts are equal, a lost process costs nobody points, and runs can continue."""

from __future__ import annotations

import gc
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import pytest

from labkit.errors import InvalidRequest, NotAvailable
from labkit.gradebook import class_run
from labkit.gradebook import executor_at as executor_at_module
from labkit.gradebook.book import Gradebook
from labkit.gradebook.class_run import Summary
from labkit.gradebook.executor_at import executor_at
from labkit.gradebook.executor_graders import ExecutorGraders
from labkit.gradebook.grader import GradeTask, ReadTask
from labkit.gradebook.graders import Lost
from labkit.gradebook.reading import digest
from tests.gradebook.classes import EXERCISE, HALF, HALF_SAYS, HEAD, SOLVED, STUB, grade, has_sandbox, notebook, start, write
from tests.gradebook.test_class_run import FEW, Watcher
from tests.patience import PATIENCE, is_running, wait_for

LEARNERS = {"ada": SOLVED, "bert": HALF, "carl": STUB, "dies": f"{HEAD}import os; os._exit(0)"}
VERDICTS = ["passed", "failed", "not attempted", "error"]
SLOW = f"{HEAD}import time; time.sleep({PATIENCE})"

grade_class = partial(class_run.grade_class, sandboxed=has_sandbox())


@pytest.fixture(scope="module")
def submissions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("class") / "submissions"
    for learner, cell in LEARNERS.items():
        write(root / learner / "00.ipynb", notebook(cell))
    return root


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Dask cluster on this machine with two processes of one thread each. A task that fails is not tried again."""
    import dask
    from distributed import LocalCluster

    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        started = LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1")
    with started:
        yield started


def address(cluster: Any) -> str:
    """The value of `--executor` for a cluster."""
    return str(cluster.scheduler_address).replace("tcp://", "dask://")


def a_pool(kind: type[ProcessPoolExecutor] = ProcessPoolExecutor) -> ProcessPoolExecutor:
    return kind(1, mp_context=get_context("spawn"))


def verdicts(summary: Summary) -> dict[tuple[str, str], tuple[str, float, str]]:
    return {
        (score.learner, item.exercise): (item.verdict, item.points, item.message)
        for score in summary.report.scores
        for item in score.items
    }


def gradings(out: Path) -> list[tuple[str, int]]:
    """For each learner who was graded, the name and the number of gradings."""
    text = (
        "SELECT name, count(*) FROM grading JOIN attempt ON attempt.id = attempt JOIN learner ON learner.id = learner"
        " GROUP BY name ORDER BY name"
    )
    try:
        with closing(sqlite3.connect(f"file:{out / 'gradebook.sqlite'}?mode=ro", uri=True)) as base:
            return base.execute(text).fetchall()
    except sqlite3.Error:  # The gradebook does not exist yet.
        return []


def task(path: Path) -> GradeTask:
    return GradeTask(path, digest(path), (EXERCISE.name,))


@pytest.mark.long
def test_a_pool_of_processes_grades_a_class(submissions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of the submissions is relative here, and the pool's processes have another working directory."""
    monkeypatch.chdir(submissions.parent)
    watcher = Watcher()
    with a_pool() as pool:
        pool.submit(os.chdir, "/").result()
        summary = grade_class(Path("submissions"), Path("pool"), watcher, executor=pool, lab="00")
        again = grade_class(Path("submissions"), Path("pool"), Watcher(), executor=pool, lab="00")
    assert (summary.graded, again.graded, again.known) == (4, 0, 4)
    assert verdicts(summary) == verdicts(again)
    assert [verdicts(summary)[learner, EXERCISE.name][0] for learner in LEARNERS] == VERDICTS
    assert verdicts(summary)["bert", EXERCISE.name][2] == HALF_SAYS
    assert [told for told in watcher.told if len(told) == 2] == [(learner, "00") for learner in LEARNERS]


class _Dies(ProcessPoolExecutor):
    """A pool whose process is killed as soon as it has a notebook to grade."""

    def submit(self, function: Any, /, *arguments: Any, **more: Any) -> Future[Any]:
        future = super().submit(function, *arguments, **more)
        if isinstance(arguments[0], GradeTask):
            for process in list(self._processes.values()):
                process.kill()
        return future


def test_a_lost_process_costs_no_notebook_its_points_and_the_next_run_goes_on(tmp_path: Path) -> None:
    for learner in ("ada", "bert"):
        write(tmp_path / "submissions" / learner / "00.ipynb", FEW)
    with a_pool(_Dies) as pool, pytest.raises(NotAvailable, match="takes no more work, with 1 notebook left"):
        grade_class(tmp_path / "submissions", tmp_path / "grades", Watcher(), executor=pool, lab="00")
    assert gradings(tmp_path / "grades") == []
    with Gradebook(tmp_path / "grades" / class_run.BOOK) as book:
        assert {(one.learner, "BrokenProcessPool" in one.reason) for one in book.ungraded()} == {("ada", True)}
    with a_pool() as pool:
        summary = grade_class(tmp_path / "submissions", tmp_path / "grades", Watcher(), executor=pool, lab="00")
    assert (summary.graded, summary.known) == (2, 0)
    assert {verdicts(summary)[learner, EXERCISE.name][0] for learner in ("ada", "bert")} == {"not attempted"}


def test_a_cancelled_task_is_lost(tmp_path: Path) -> None:
    path = write(tmp_path / "00.ipynb", notebook(STUB))
    free = threading.Event()
    executor = ThreadPoolExecutor(1)
    executor.submit(free.wait)

    def cancel() -> None:
        wait_for(lambda: executor._work_queue.qsize(), "the task in the executor's queue")
        executor.shutdown(wait=False, cancel_futures=True)

    threading.Thread(target=cancel).start()
    try:
        with ExecutorGraders(executor, 1) as graders:
            assert list(graders.run([ReadTask(path)])) == [(0, Lost("its task was cancelled by the executor", try_again=False))]
    finally:
        free.set()
        executor.shutdown()


def test_a_notebook_that_takes_too_long_is_lost_with_its_processes(tmp_path: Path) -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    with ThreadPoolExecutor(1) as executor, ExecutorGraders(executor, 1) as graders:
        ((_, lost),) = graders.run([task(write(tmp_path / "00.ipynb", notebook(SLOW)))], silent_seconds=0.0)
    assert lost == Lost("the check of the notebook took more than 0 seconds and was ended", try_again=False)
    assert {process.pid for process in psutil.Process().children(recursive=True)} == before


def test_other_addresses_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import Client

    monkeypatch.setattr(executor_at_module, "CONNECT_SECONDS", 0.5)
    with (
        pytest.raises(InvalidRequest, match="'threads'; give 'processes', or dask://HOST:PORT"),
        executor_at("threads", tmp_path),
    ):
        pass
    for place in ("127.0.0.1:1", "nowhere"):
        with (
            pytest.raises(NotAvailable, match=f"no Dask scheduler answers at {place}"),
            executor_at(f"dask://{place}", tmp_path),
        ):
            pass
    left = [each.status for each in gc.get_objects() if issubclass(type(each), Client)]
    assert all(status == "closed" for status in left), (
        "Dask waits forever if an open client is garbage-collected while a cluster starts"
    )


def test_a_cluster_that_does_not_see_the_submissions_is_refused(cluster: Any, tmp_path: Path) -> None:
    with executor_at(address(cluster), tmp_path) as (_, threads):
        assert threads == 2
    gone = executor_at(address(cluster), tmp_path / "gone")
    with pytest.raises(NotAvailable, match=r"Dask worker tcp://.* has no folder .*gone"), gone:
        pass


def test_a_notebook_is_lost_with_its_dask_worker(cluster: Any, tmp_path: Path) -> None:
    """The worker is killed while the learner's function runs. The processes that the worker started end too."""
    write(tmp_path / "00.ipynb", notebook(SLOW))
    found: list[psutil.Process] = []

    def kill_the_busy_worker(client: Any) -> None:
        pids = client.run(os.getpid)
        (name,) = wait_for(lambda: [name for name, tasks in client.processing().items() if tasks], "the task on a worker")
        worker = psutil.Process(pids[name])
        found.extend(wait_for(lambda: worker.children(recursive=True), "the process that checks the notebook"))
        worker.kill()

    with executor_at(address(cluster), tmp_path) as (executor, _):
        assert executor is not None
        killer = threading.Thread(target=kill_the_busy_worker, args=(executor._client,))  # type: ignore[attr-defined]
        killer.start()
        with ExecutorGraders(executor, 1) as graders:
            ((_, lost),) = graders.run([task(tmp_path / "00.ipynb")], PATIENCE)
        killer.join()
    assert isinstance(lost, Lost)
    assert "the executor lost its task (KilledWorker" in lost.why
    wait_for(lambda: not any(map(is_running, found)), "the end of the processes of the killed worker")


@pytest.mark.long
def test_a_run_on_a_dask_cluster_is_stopped_and_goes_on(cluster: Any, submissions: Path) -> None:
    out = submissions.parent / "dask"
    command = (submissions, "--out", out, "--executor", address(cluster), "--lab", "00")
    process = start(*command)
    wait_for(lambda: gradings(out), "the first submission in the gradebook")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "stopped; run the same command again to continue" in errors
    assert "Traceback" not in errors
    grade(*command)
    assert gradings(out) == [(learner, 1) for learner in LEARNERS]
    with ThreadPoolExecutor(2) as executor:  # This run grades nothing: the cluster has given all verdicts.
        summary = grade_class(submissions, out, Watcher(), executor=executor, lab="00")
    assert (summary.graded, summary.known) == (0, 4)
    assert [verdicts(summary)[learner, EXERCISE.name][0] for learner in LEARNERS] == VERDICTS
