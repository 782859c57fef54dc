"""Runs a function in a separate process, so that all of its memory is freed afterwards: tracing a model leaks memory."""

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


def run_in_separate_process(
    function: Callable[Arguments, Result], *arguments: Arguments.args, **options: Arguments.kwargs
) -> Result:
    """Call a module-level function in a new Python process; return its result or raise its error.

    The output of the process is hidden. Function, arguments and result are pickled. If the process dies, for example because
    the kernel kills it when memory runs out, this raises `NotAvailable` with the last line that the process wrote.
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
    """Run the pickled task from the file that the first argument names, and pickle its outcome to the file that the second
    argument names.
    """
    task, answer = (Path(argument) for argument in sys.argv[1:])
    function, arguments, options = pickle.loads(task.read_bytes())
    try:
        outcome = (False, function(*arguments, **options))
    except Exception as error:
        outcome = (True, error)
    answer.write_bytes(pickle.dumps(outcome))
