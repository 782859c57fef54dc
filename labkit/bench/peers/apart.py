"""A function run in a process of its own, so that all memory it took is given back: tracing a model leaks the model."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from labkit.errors import NotAvailable

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def run_apart(function: Callable[Arguments, Result], *arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
    """Call a module's function in a fresh Python and give what it returns, or raise what it raises; it prints nothing.

    Function, arguments and result are pickled. Raises `NotAvailable` with the last line it wrote when the process died,
    as it does when the kernel ends it for want of memory.
    """
    with tempfile.TemporaryDirectory(prefix="labkit-apart-") as folder:
        task, answer = Path(folder) / "task", Path(folder) / "answer"
        task.write_bytes(pickle.dumps((function, arguments, options)))
        command = [sys.executable, "-c", f"from {__name__} import main; main()", str(task), str(answer)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if not answer.exists():
            last = (done.stderr.strip().splitlines() or ["it wrote nothing"])[-1]
            raise NotAvailable(f"{function.__name__} ended with status {done.returncode}: {last}")
        failed, found = pickle.loads(answer.read_bytes())
    if failed:
        raise found
    result: Result = found
    return result


def main() -> None:
    """Do the pickled task that the command line names and pickle the outcome to where it says."""
    task, answer = (Path(argument) for argument in sys.argv[1:])
    function, arguments, options = pickle.loads(task.read_bytes())
    try:
        outcome = (False, function(*arguments, **options))
    except Exception as error:
        outcome = (True, error)
    answer.write_bytes(pickle.dumps(outcome))
