"""Forked children generate the same tokens, on one thread, and do not touch the objects of their parent."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import labkit
from labkit.engine import Engine, SamplingParams
from labkit.errors import NotAvailable, RequestFailed
from labkit.parallel import Layout, load_parallel

PATIENCE = 120.0
"""The seconds after which a child is considered to hang; it needs one or two."""

PROMPT = "In the beginning"
PARAMS = SamplingParams(max_new_tokens=12)
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="not measured here: this system does not fork")


def in_child(do: Callable[[], Any]) -> Any:
    """Call `do` in a forked child. Return its result, passed as JSON, or the message of its exception."""
    reader, writer = os.pipe()
    if not (child := os.fork()):
        gc.disable()  # the child has no gRPC threads, so it must not free gRPC objects that earlier tests left behind
        try:
            said = json.dumps(do())
        except BaseException as error:
            said = json.dumps(f"{type(error).__name__}: {error}")
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    ended = threading.Timer(PATIENCE, os.kill, (child, signal.SIGKILL))
    ended.start()
    with os.fdopen(reader) as file:
        said = file.read()
    os.waitpid(child, 0)
    ended.cancel()
    assert said, "the child hangs"
    return json.loads(said)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_child_generates_the_same_and_the_parent_goes_on(precision: str) -> None:
    with labkit.load("gptj-tiny", device="cpu", dtype=precision) as engine:
        expected = engine.generate([PROMPT, "The"], PARAMS)
        tokens = [output.token_ids for output in expected]

        def again() -> list[list[int]]:
            return [output.token_ids for output in engine.generate([PROMPT, "The"], PARAMS)]

        assert in_child(again) == tokens
        assert in_child(lambda: in_child(again)) == tokens
        assert again() == tokens


def test_a_child_without_the_native_library_generates_too() -> None:
    code = (
        "import os, labkit\n"
        "engine = labkit.load('gptj-tiny', device='cpu')\n"
        "made = engine.generate('In the beginning')[0].token_ids\n"
        "if not (child := os.fork()):\n"
        "    os._exit(engine.generate('In the beginning')[0].token_ids != made)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"LABKIT_NATIVE": "0"}, timeout=PATIENCE, check=False)
    assert done.returncode == 0


def test_a_fork_in_the_middle_of_other_threads_steps() -> None:
    """When the process is copied, another thread may hold the lock and may be in the middle of a step."""
    with labkit.load("gptj-tiny", device="cpu") as engine:
        expected = engine.generate(PROMPT, PARAMS)[0].token_ids
        over = threading.Event()

        def work() -> None:
            while not over.is_set():
                engine.generate("The", PARAMS)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(5):
                time.sleep(0.01)
                assert in_child(lambda: engine.generate(PROMPT, PARAMS)[0].token_ids) == expected
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert engine.generate(PROMPT, PARAMS)[0].token_ids == expected


def test_a_stream_goes_on_in_the_parent_alone() -> None:
    with labkit.load("gptj-tiny", device="cpu") as engine:
        expected = engine.generate(PROMPT, PARAMS)[0].token_ids
        stream = engine.stream(PROMPT, PARAMS)
        tokens = [next(stream).token_id for _ in range(3)]
        said = in_child(lambda: [event.token_id for event in stream])
        assert said.startswith(RequestFailed.__name__)
        assert "forked while the request ran" in said
        assert tokens + [event.token_id for event in stream] == expected


def test_ranks_are_the_parents() -> None:
    with load_parallel("gptj-tiny", Layout(tensor_parallel=2)) as engine:
        expected = engine.generate(PROMPT, PARAMS)[0].token_ids
        said = in_child(lambda: engine.generate(PROMPT, PARAMS)[0].token_ids)
        assert said.startswith(NotAvailable.__name__)
        assert "forked child" in said

        def close(engine: Engine = engine) -> str:
            engine.close()
            return "closed"

        assert in_child(close) == "closed"
        assert in_child(lambda: engine.forward.ranks._end()) is None  # type: ignore[attr-defined]  # as at its exit
        assert engine.generate(PROMPT, PARAMS)[0].token_ids == expected
