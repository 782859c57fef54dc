"""The processes that `launch` keeps. Each process waits for functions, runs them and answers over a socket."""

from __future__ import annotations

import os
import selectors
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from labkit.errors import InvalidRequest, RankFailed
from labkit.host_cores import usable_cores
from labkit.launch.function_source import pack
from labkit.launch.messages import Message, receive_message, send_message
from labkit.launch.outcome import Launched, failure_words, has_waited_in_vain, is_at_rest, ledgers_of, raise_failure, values_of
from labkit.launch.processes import RankProcess
from labkit.locked_folder import LockedFolder, ended_folders
from labkit.plain_values import encode
from labkit.time_limits import limit_passed

START_SECONDS = 180.0
"""A process starts in about 5 seconds; on a busy machine, several processes that start together need much longer."""
STRAGGLER_SECONDS = 0.5
"""After one rank has failed, the other ranks have this many seconds to report their own failures.

After this time, ranks that have not answered are ended.
"""

PREFIX = "labkit-launch-"
"""The names of the folders of all teams begin with this text. A team deletes the folders of teams whose process was killed."""


@dataclass(frozen=True)
class Each:
    """An argument that differs by rank: rank r gets `values[r]`."""

    values: Sequence[Any]


@dataclass(frozen=True)
class LaunchOptions:
    """The options with which a function is launched. The docstring of `launch` describes each field."""

    timeout: float
    seconds: float
    checked: bool
    say: Callable[[str], None]
    progress: Callable[[int, int], None]


class Team:
    """The processes that run functions. Their number is the largest number of ranks that a launch has needed so far."""

    def __init__(self) -> None:
        self._members: dict[int, TeamMember] = {}
        place = Path(tempfile.gettempdir())
        for folder in ended_folders(PREFIX, place):
            shutil.rmtree(folder, ignore_errors=True)
        self._folder = LockedFolder(PREFIX, place)
        self._groups = 0
        # `ranks`, `timeout` and `checked` of the last group, if the next launch can use that group again.
        self._last_group: tuple[int, float, bool] | None = None

    def run(self, function: Callable[..., Any], ranks: int, args: Sequence[Any], options: LaunchOptions) -> Launched:
        """Run `function(*args)` on `ranks` processes. Raises the same errors as `launch`.

        If a rank does not answer, all processes that took part are ended.
        """
        messages = [job_message(function, ranks, args, rank, options) for rank in range(ranks)]
        members = self.start(ranks, options.progress)
        wanted = (ranks, options.timeout, options.checked)
        if self._last_group != wanted:
            self._groups += 1
        self._last_group = None
        began = time.monotonic()
        try:
            for member, (job, tensors) in zip(members, messages, strict=True):
                member.process.say = options.say
                member.process.said_all.clear()
                member.send(job | {"group": str(self._folder.path / f"group-{self._groups}")}, tensors)
            answers = _answers(members, began + options.seconds, options.seconds)
        except BaseException:
            self._end(members)
            raise
        if has_waited_in_vain(answers):
            limit_passed("a rank waited for other ranks that did not join")
        if len(answers) < ranks:
            self._end(members)
        for member in members:
            member.process.said_all.wait(1.0)
        raise_failure(answers, ranks)
        ledgers = ledgers_of(answers)
        if is_at_rest(answers, ledgers):
            self._last_group = wanted
        return Launched(values_of(answers), [entry for ledger in ledgers for entry in ledger], time.monotonic() - began)

    def close(self) -> None:
        """End all processes."""
        self._end(list(self._members.values()))
        self._folder.delete()

    def start(self, ranks: int, progress: Callable[[int, int], None] = lambda done, total: None) -> list[TeamMember]:
        """Start processes until there are `ranks` members, wait until these members are ready, and return them."""
        self._end([member for member in self._members.values() if member.process.exit_status is not None])
        try:
            for rank in range(ranks):
                if rank not in self._members:
                    self._members[rank] = TeamMember(rank)
            members = [self._members[rank] for rank in range(ranks)]
            until = time.monotonic() + START_SECONDS
            for done, member in enumerate(members):
                progress(done, ranks)
                member.wait_ready(until)
        except BaseException:
            self._end(list(self._members.values()))
            raise
        progress(ranks, ranks)
        return members

    def _end(self, members: list[TeamMember]) -> None:
        self._last_group = None
        for member in members:
            member.process.kill()
        for member in members:
            member.process.wait()
            member.socket.close()
            del self._members[member.process.rank]


class TeamMember:
    """The process of one rank, and the socket that connects to it."""

    def __init__(self, rank: int) -> None:
        self.socket, theirs = socket.socketpair()
        handle = theirs.fileno()
        self.process = RankProcess(
            rank,
            "labkit.launch.team_process",
            [str(handle), str(rank)],
            say=print,
            # A launched function can import the same modules as this process.
            environ={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            handles=[handle],
        )
        theirs.close()
        self._is_ready = False

    def wait_ready(self, until: float) -> None:
        """Wait until the process says that it is ready. Raises `RankFailed` if the process ends or is not ready in time."""
        if self._is_ready:
            return
        found = _readable([self.socket], until - time.monotonic())
        if not found:
            limit_passed(f"a rank did not start within {START_SECONDS:g} seconds")
            raise self._failed(f"the process did not start within {START_SECONDS:g} s")
        if receive_message(self.socket) is None:
            raise self._failed(self.process.how_it_ended())
        self._is_ready = True

    def send(self, job: Any, tensors: dict[str, Tensor]) -> None:
        """Send the process a function to run. Raises `RankFailed` if the process is gone."""
        try:
            send_message(self.socket, job, tensors)
        except OSError:
            raise self._failed(self.process.how_it_ended()) from None

    def _failed(self, cause: str) -> RankFailed:
        return RankFailed(failure_words(self.process.rank, None, cause))


def job_message(function: Callable[..., Any], ranks: int, args: Sequence[Any], rank: int, options: LaunchOptions) -> Message:
    """Make the message that tells a rank what to run. The name of the process group is added later.

    Raises `InvalidRequest` if an argument cannot be sent.
    """
    tensors: dict[str, Tensor] = {}

    def coded(argument: Any) -> dict[str, Any]:
        value = argument.values[rank] if isinstance(argument, Each) else argument
        if callable(value):
            return {"function": pack(value, tensors)}
        form: dict[str, Any] = encode(value, tensors)
        if "other" in form:
            raise InvalidRequest(
                f"an argument is a {form['other']}; only plain values, tensors and functions can be sent to ranks"
            )
        return form

    job = {
        "ranks": ranks,
        "timeout": options.timeout,
        "checked": options.checked,
        "threads": max(1, usable_cores() // ranks),
        "function": pack(function, tensors),
        "args": [coded(argument) for argument in args],
    }
    return job, tensors


def _answers(members: list[TeamMember], until: float, seconds: float) -> dict[int, Message]:
    """Wait for the answers of all members and return them by rank.

    After the first answer that reports a failure, the wait for the other answers lasts only `STRAGGLER_SECONDS`.
    """
    answers: dict[int, Message] = {}
    while len(answers) < len(members):
        waiting = [member for member in members if member.process.rank not in answers]
        found = _readable([member.socket for member in waiting], until - time.monotonic())
        if not found:
            if any("error" in answer for answer, _ in answers.values()):
                return answers
            limit_passed(f"the ranks were not done within {seconds:g} seconds")
            late = ", ".join(str(member.process.rank) for member in waiting)
            cause = f"the function was not done after {seconds:g} s (waiting for: {late})"
            raise RankFailed(failure_words(waiting[0].process.rank, len(members), cause))
        for member in [member for member in waiting if member.socket in found]:
            rank, answer = member.process.rank, receive_message(member.socket)
            if answer is None:
                raise RankFailed(failure_words(rank, len(members), member.process.how_it_ended()))
            answers[rank] = answer
            if "error" in answer[0]:
                until = min(until, time.monotonic() + STRAGGLER_SECONDS)
    return answers


def _readable(sockets: Sequence[socket.socket], seconds: float) -> list[Any]:
    """Wait at most `seconds` until a socket can be read. Returns all sockets that can be read."""
    with selectors.DefaultSelector() as selector:
        for one in sockets:
            selector.register(one, selectors.EVENT_READ)
        return [key.fileobj for key, _ in selector.select(max(seconds, 0))]
