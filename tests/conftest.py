"""How tests share the machine: which tests run in the same process, with how many threads, and what the summary at the end
says.

`tests/__main__.py` starts all tests. `python -m pytest FILE` works as well, in one process.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hung import pytest_timeout_set_timer  # noqa: F401  # a hook of pytest-timeout
from tests.kept import KEPT

WORKER = "PYTEST_XDIST_WORKER" in os.environ
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""The environment variables that limit the threads of torch, of the native kernels and of NumPy."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell ignores Ctrl-C in background jobs, but the tests need it
    signal.signal(signal.SIGINT, signal.default_int_handler)

if WORKER:  # a worker has one core; torch reads these variables when it is imported later, and so do programs that tests start
    os.environ.update(dict.fromkeys(THREADS, "1"))

# Some tests fork a process in which earlier tests used gRPC. By default, gRPC's own code in the child can then end the child.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(KEPT / "inductor"))  # Triton keeps its kernels in the user's home anyway

TOGETHER = {
    "tests/first_hour/": "a copy of the course",
    "tests/graphs/": "exported graphs",
    "tests/serving/live/": "a server of all models",
    "tests/serving/test_config.py": "a server without models",
    "tests/serving/test_silent_mistakes.py": "a server without models",
    "tests/serving/test_client.py": "a server of gptj",
    "tests/serving/test_metrics.py": "a server of gptj",
    "tests/serving/test_prometheus.py": "a server of gptj",
    "tests/serving/test_stress": "a server of gptj",
}
"""Test files that share a server, exported graphs or a copy of the course run in one process.

Each key is the beginning of the files' paths.
"""

APART = ("tests/labs/",)
"""Files whose tests take long and share nothing with each other, so that any process can run each of them."""

FIRST = ("docker", "labs", "browser", "serving/live", "serving", "bench", "exercises", "grading", "parallel", "ops", "cli")
"""Folders in the order in which they start: the longest tests start first, so that no process is left alone with them at the
end.
"""

SAVED = "LABKIT_TESTS_SAVED"
"""The environment variable with the path of the file in which a run saves the durations for `tests/__main__.py`."""

STANDS_FOR = "stands for"
"""The name of a property of a skipped test that stands for several left-out tests. Its value is their number."""

seconds: Counter[str] = Counter()
"""The seconds that each test took, including its setup and teardown."""


def scope_of(nodeid: str) -> str:
    """The group of tests that run in the same process as a test: those in its file, those that use the same server, or only
    itself.
    """
    file = nodeid.partition("::")[0]
    alone = nodeid if file.startswith(APART) else file
    return next((name for start, name in TOGETHER.items() if file.startswith(start)), alone)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Make a pytest-xdist scheduler that hands out scopes, not single tests, to the processes."""
    from xdist.scheduler import LoadScopeScheduling

    class ByScope(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(nodeid)

    config.option.loadscopereorder = False  # keep the order made by `pytest_collection_modifyitems`
    return ByScope(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a GPU, keep only one GPU test per file. With several processes, start with the longest tests."""
    if any(item.get_closest_marker("gpu") for item in items) and not has_gpu():
        items[:] = one_a_file(items)
    if WORKER:
        items.sort(key=turn_of)


def turn_of(item: pytest.Item) -> int:
    """The position in `FIRST` of the folder that holds an item."""
    return next((turn for turn, folder in enumerate(FIRST) if item.nodeid.startswith(f"tests/{folder}/")), len(FIRST))


def has_gpu() -> bool:
    """Whether torch can use a GPU."""
    import torch

    return torch.cuda.is_available()


def one_a_file(items: list[pytest.Item]) -> Iterator[pytest.Item]:
    """Yield the items that need no GPU, and the first GPU item of each file, which is skipped in place of the others."""
    files: dict[Path, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("gpu"):
            files[item.path].append(item)
    for item in items:
        rest = files.get(item.path, [])
        if item not in rest:
            yield item
        elif item is rest[0]:
            item.user_properties.append((STANDS_FOR, len(rest)))
            yield item


def pytest_collection_finish() -> None:
    """Let the garbage collector search neither the modules nor the collected tests again, which would take 0.3 seconds."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Switch gradients on for the next test in this process. Fail a test that left them off."""
    torch = sys.modules.get("torch")
    if torch is not None and not torch.is_grad_enabled():
        torch.set_grad_enabled(True)
        pytest.fail("this test, or what it called, left torch's gradients switched off")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    seconds[report.nodeid] += report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the durations of the tests for `tests/__main__.py`."""
    if not WORKER and SAVED in os.environ:
        Path(os.environ[SAVED]).write_text(json.dumps(seconds))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print once for each file and reason which tests were not measured here."""
    for line in skipped_lines(terminalreporter.stats.get("skipped", [])):
        terminalreporter.write_line(line)


def skipped_lines(reports: list[Any]) -> Iterator[str]:
    """Yield one line for each pair of a file and a reason in the reports on skipped tests."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for report in reports:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        count = dict(getattr(report, "user_properties", ())).get(STANDS_FOR, 1)
        found[report.nodeid.partition("::")[0]][reason.removeprefix("Skipped: ")] += count
    for file, reasons in sorted(found.items()):
        for reason, count in reasons.items():
            yield f"{file}: {reason}" + (f" ({count} tests)" if count > 1 else "")
