"""A process of a `Team`: runs one function after another.

It is started as `python -m labkit.launch.team_process SOCKET RANK`, where SOCKET is the number of an open file.
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
from typing import Any

import torch
from torch import Tensor

from labkit.errors import RankFailed
from labkit.launch import ledger_group
from labkit.launch.function_source import left_behind, unpack
from labkit.launch.ledger import Ledger, encode_entries
from labkit.launch.ledger_compute import recording_to
from labkit.launch.messages import receive_message, send_message
from labkit.launch.processes import END_OF_OUTPUT, end_with_parent
from labkit.plain_values import decode, encode


def main(handle: int, rank: int) -> None:
    """Run each function that arrives over the socket, until the other end closes the socket."""
    end_with_parent()
    torch.set_grad_enabled(False)
    runner = Runner(rank)
    with socket.socket(fileno=handle) as other:
        send_message(other, {"ready": rank}, {})
        while (job := receive_message(other)) is not None:
            tensors: dict[str, Tensor] = {}
            answer = runner.run(*job, tensors)
            print(END_OF_OUTPUT, flush=True)
            send_message(other, answer, tensors)


class Runner:
    """Runs functions. Each job names its process group: the group of the previous job, or a new one."""

    def __init__(self, rank: int) -> None:
        self._ledger = Ledger(rank)
        self._group = ""

    def run(self, job: dict[str, Any], given: dict[str, Tensor], tensors: dict[str, Tensor]) -> dict[str, Any]:
        """Run a function. Returns the function's value or error, the ledger, and whether the group can be used again."""
        torch.set_num_threads(job["threads"])
        answer: dict[str, Any] = {}
        try:
            function = unpack(job["function"], given)
            args = [_argument(coded, given) for coded in job["args"]]
            if job["group"] != self._group:
                ledger_group.join(
                    job["group"], self._ledger.rank, job["ranks"], job["timeout"], self._ledger, checked=job["checked"]
                )
                self._group = job["group"]
            with recording_to(self._ledger):
                answer["value"] = encode(function(*args), tensors)
        except BaseException as error:  # report every exception of the function, and continue with the next function
            words = in_words(error) + _why_unknown(error, job)
            answer |= {"error": words, "kind": type(error).__name__, "others": isinstance(error, RankFailed)}
        ledger = encode_entries(self._ledger.take()).decode()
        return answer | {"ledger": ledger, "at_rest": ledger_group.is_at_rest()}


def _argument(coded: dict[str, Any], given: dict[str, Tensor]) -> Any:
    return unpack(coded["function"], given) if "function" in coded else decode(coded, given)


def _why_unknown(error: BaseException, job: dict[str, Any]) -> str:
    """Explain why a name is unknown on the rank: the name exists in the process that sent the function, but could not be sent.

    Returns "" if `error` has another cause.
    """
    packed = [job["function"], *(coded["function"] for coded in job["args"] if "function" in coded)]
    left = {name: kind for one in packed for name, kind in left_behind(one).items()}
    name = getattr(error, "name", None)
    if not isinstance(error, NameError) or name not in left:
        return ""
    what = "class" if left[name] == "class" else f"value of type {left[name]}"
    return (
        f"; {name} is a {what} of yours, which cannot be sent to the ranks; functions made by `def`, modules, plain values, "
        "tensors, and lists and dictionaries of these can"
    )


def in_words(error: BaseException) -> str:
    """Return the first line of an exception's message, and the line of the launched function that caused the exception."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith("<") and frame.line]
    place = f" (in your line `{own[-1].line}`)" if own else ""
    try:
        text = str(error).strip().splitlines()
    except Exception:  # an exception class of the function may have a broken __str__
        text = []
    if isinstance(error, RankFailed):
        return f"{text[0] if text else 'the connection to the other ranks was lost'}{place}"
    return f"{type(error).__name__}: {text[0] if text else 'no message'}{place}"


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
    os._exit(0)  # gloo's threads may be waiting for ranks that are gone
