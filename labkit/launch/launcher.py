"""`launch(function, ranks, ...)`: a function of yours on several processes of this host, as an MPI program would run it.

Every rank calls the same function; `torch.distributed` says which rank it is, and takes data to the others. The function goes
over as source, so one that was written in a notebook a moment ago will do.
"""

from __future__ import annotations

import atexit
import os
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from labkit.environment import usable_cores
from labkit.errors import InvalidRequest, RankFailed
from labkit.forked import by_owner
from labkit.frames import SAID_ALL, receive, send
from labkit.launch.function_source import pack
from labkit.parallel.layout import MOST_RANKS
from labkit.parallel.ledger import COMPUTE, Entry, decode_entries
from labkit.parallel.rank_processes import how_it_ended
from labkit.plain_values import decode, encode

COLLECTIVE_SECONDS = 5.0
"""A collective to which somebody does not come fails after so long, unless told otherwise."""

START_SECONDS = 60.0
STRAGGLER_SECONDS = 0.5
"""Once a rank has failed, the others have so long to say that they have as well; then they are ended."""


@dataclass(frozen=True)
class Each:
    """An argument that differs by rank: rank r gets `values[r]`."""

    values: Sequence[Any]


@dataclass(frozen=True)
class Launched:
    """What came back: each rank's value, what passed between them, and the seconds it took."""

    values: list[Any]
    ledger: list[Entry] = field(repr=False)
    seconds: float


class RankRaisedError(RankFailed):
    """A launched function raised: on `rank`, an exception called `kind`; `cause` is all that, in words."""

    def __init__(self, rank: int, ranks: int, cause: str, kind: str) -> None:
        super().__init__(_words(rank, ranks, cause))
        self.rank, self.cause, self.kind = rank, cause, kind


def launch(
    function: Callable[..., Any],
    ranks: int,
    *args: Any,
    timeout: float = COLLECTIVE_SECONDS,
    seconds: float = 120.0,
    checked: bool = True,
    say: Callable[[str], None] = print,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Launched:
    """Call `function(*args)` on `ranks` processes of this host at the same time.

    In it `torch.distributed` is ready: `dist.get_rank()`, `dist.all_reduce(tensor)`, `dist.send(tensor, dst)`, ... Arguments
    and what it returns are plain values and tensors, and lists, tuples and dictionaries of these; an argument may be a
    function, and `Each([...])` gives each rank its own. What it uses besides goes along if it is a function, a module or a
    plain value. The processes stay for the next call and end with this one.

    timeout: seconds that a collective waits for the others. seconds: what it all may take. checked: see first whether all
    ranks call the same, on tensors that fit, and say so if not; off, a collective takes half the time, and one that does not
    fit ends its process. say: gets what ranks print, labelled. progress: is told how many ranks are there.

    Raises `InvalidRequest` for what cannot be sent, and `RankFailed` naming the rank, the host and the cause when the
    function raises (then a `RankRaisedError`), a process ends, or time is up. Nothing runs on after that.
    """
    if not isinstance(ranks, int) or not 1 <= ranks <= MOST_RANKS:
        raise InvalidRequest(f"ranks is {ranks!r}; a whole number from 1 to {MOST_RANKS} is accepted")
    for argument in args:
        if isinstance(argument, Each) and len(argument.values) != ranks:
            raise InvalidRequest(f"Each has {len(argument.values)} values for {ranks} ranks; give one a rank")
    global _team
    with _lock:
        if _team is None:
            _team = Team()
        return _team.run(function, ranks, args, timeout=timeout, seconds=seconds, checked=checked, say=say, progress=progress)


def shut_down() -> None:
    """End the processes that `launch` keeps; the next call starts new ones."""
    global _team
    with _lock:
        if _team is not None:
            _team.close()
        _team = None


def _forget() -> None:
    """In a forked child: the processes are the parent's."""
    global _lock, _team
    _lock, _team = threading.RLock(), None


_lock = threading.RLock()
_team: Team | None = None
atexit.register(by_owner(shut_down))
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class Team:
    """Processes that wait for functions to run; as many as were asked for at most so far."""

    def __init__(self) -> None:
        self._members: list[Member] = []
        self._folder = Path(tempfile.mkdtemp(prefix="labkit-team-"))
        self._groups = 0
        self._group: tuple[int, float, bool] | None = None  # of what kind the last one is, if it can serve again

    def run(
        self,
        function: Callable[..., Any],
        ranks: int,
        args: Sequence[Any],
        *,
        timeout: float,
        seconds: float,
        checked: bool,
        say: Callable[[str], None],
        progress: Callable[[int, int], None],
    ) -> Launched:
        """As `launch`; whatever goes wrong in it ends the processes that took part, unless all have said so themselves."""
        messages = [self._message(function, ranks, args, rank, timeout) for rank in range(ranks)]
        members = self._ready(ranks, progress)
        if self._group != (ranks, timeout, checked):
            self._groups += 1
        self._group = None
        for member, (message, _) in zip(members, messages, strict=True):
            member.say = say
            message["checked"] = checked
            message["group"] = str(self._folder / f"group-{self._groups}")
        began = time.monotonic()
        try:
            for member, (message, tensors) in zip(members, messages, strict=True):
                member.said_all.clear()
                member.send(message, tensors)
            answers = self._answers(members, began + seconds, seconds)
        except BaseException:
            self._end(members)
            raise
        if len(answers) < ranks:
            self._end(members)
        for member in members:
            member.said_all.wait(1.0)
        _raise_failure({rank: answer for rank, (answer, _) in answers.items()}, ranks)
        values = [decode(answers[rank][0]["value"], answers[rank][1]) for rank in range(ranks)]
        ledgers = [decode_entries(answers[rank][0]["ledger"].encode()) for rank in range(ranks)]
        if all(answer["at_rest"] for answer, _ in answers.values()) and _all_was_received(ledgers):
            self._group = ranks, timeout, checked
        entries = [entry for ledger in ledgers for entry in ledger]
        return Launched(values, entries, time.monotonic() - began)

    def close(self) -> None:
        """End all processes."""
        self._end(list(self._members))
        shutil.rmtree(self._folder, ignore_errors=True)

    def _message(
        self, function: Callable[..., Any], ranks: int, args: Sequence[Any], rank: int, timeout: float
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        tensors: dict[str, Tensor] = {}

        def coded(argument: Any) -> dict[str, Any]:
            value = argument.values[rank] if isinstance(argument, Each) else argument
            if callable(value):
                return {"function": pack(value, tensors)}
            form: dict[str, Any] = encode(value, tensors)
            if "other" in form:
                raise InvalidRequest(
                    f"an argument is a {form['other']}; plain values, tensors and functions can be sent to ranks"
                )
            return form

        message = {
            "ranks": ranks,
            "timeout": timeout,
            "threads": max(1, usable_cores() // ranks),
            "function": pack(function, tensors),
            "args": [coded(argument) for argument in args],
        }
        return message, tensors

    def _ready(self, ranks: int, progress: Callable[[int, int], None]) -> list[Member]:
        """So many running members; those that are missing are started."""
        for member in [member for member in self._members if not member.runs]:
            self._end([member])
        try:
            there = {member.rank for member in self._members}
            self._members += [Member(rank) for rank in range(ranks) if rank not in there]
            self._members.sort(key=lambda member: member.rank)
            until = time.monotonic() + START_SECONDS
            for done, member in enumerate(self._members[:ranks]):
                progress(done, ranks)
                member.wait_ready(until)
        except BaseException:
            self._end(list(self._members))
            raise
        progress(ranks, ranks)
        return self._members[:ranks]

    def _answers(self, members: list[Member], until: float, seconds: float) -> dict[int, tuple[Any, dict[str, Tensor]]]:
        """Every member's answer, or those that came before one failed and the others waited for it in vain."""
        answers: dict[int, tuple[Any, dict[str, Tensor]]] = {}
        while len(answers) < len(members):
            open_ones = [member for member in members if member.rank not in answers]
            left = until - time.monotonic()
            found = readable([member.socket for member in open_ones], left)
            if not found:
                if any("error" in answer for answer, _ in answers.values()):
                    return answers
                late = ", ".join(str(member.rank) for member in open_ones)
                raise RankFailed(
                    _words(open_ones[0].rank, len(members), f"it was not done after {seconds:g} s (waiting for: {late})")
                )
            for member in [member for member in open_ones if member.socket in found]:
                answer = member.receive()
                if answer is None:
                    raise RankFailed(_words(member.rank, len(members), member.ended()))
                answers[member.rank] = answer
                if "error" in answer[0]:
                    until = min(until, time.monotonic() + STRAGGLER_SECONDS)
        return answers

    def _end(self, members: list[Member]) -> None:
        self._group = None
        for member in members:
            member.kill()
            self._members.remove(member)


class Member:
    """One process, its socket, and a thread that passes on what it prints."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.say: Callable[[str], None] = print
        self.socket, theirs = socket.socketpair()
        environ = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        environ["PYTHONIOENCODING"] = "utf-8:backslashreplace"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "labkit.launch.team_process", str(theirs.fileno()), str(rank)],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            pass_fds=(theirs.fileno(),),
            process_group=0,  # a Ctrl-C is for the process that started it
        )
        theirs.close()
        self._is_ready = False
        self.said_all = threading.Event()
        self._lines: list[str] = []
        threading.Thread(target=self._relay, daemon=True, name=f"labkit output of rank {rank}").start()

    @property
    def runs(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def wait_ready(self, until: float) -> None:
        """Until it has said that it is; raises `RankFailed`."""
        if self._is_ready:
            return
        found = readable([self.socket], until - time.monotonic())
        if not found or receive(self.socket) is None:
            raise RankFailed(_words(self.rank, None, self.ended() if found else f"it did not start within {START_SECONDS:g} s"))
        self._is_ready = True

    def send(self, message: Any, tensors: dict[str, Tensor]) -> None:
        """Give it something to run."""
        try:
            send(self.socket, message, tensors)
        except OSError:
            raise RankFailed(_words(self.rank, None, self.ended())) from None

    def receive(self) -> tuple[Any, dict[str, Tensor]] | None:
        """Its answer; None when it has gone."""
        return receive(self.socket)

    def ended(self) -> str:
        """How it came to its end, in words."""
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "it does not answer"
        said = f"; it said last: {self._lines[-1]}" if self._lines else ""
        return how_it_ended(code) + (said if code >= 0 else "")

    def kill(self) -> None:
        """End it, whatever it is at."""
        self._process.kill()
        self._process.wait()
        self.socket.close()

    def _relay(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if line.startswith(SAID_ALL):
                    self.said_all.set()
                    continue
                self._lines = [*self._lines[-4:], line.rstrip()]
                self.say(f"[rank {self.rank}] {line.rstrip()}")
        self.said_all.set()


def readable(sockets: Sequence[socket.socket], seconds: float) -> list[Any]:
    """Those from which something can be read, as soon as there is one; none after `seconds`."""
    with selectors.DefaultSelector() as selector:
        for one in sockets:
            selector.register(one, selectors.EVENT_READ)
        return [key.fileobj for key, _ in selector.select(max(seconds, 0))]


def _all_was_received(ledgers: list[list[Entry]]) -> bool:
    """Whether no message was sent in vain, and all ranks called the same collectives."""
    calls = [Counter(entry.what for entry in ledger if entry.what not in ("send", "recv", COMPUTE)) for ledger in ledgers]
    passed = Counter(entry.what for ledger in ledgers for entry in ledger)
    return passed["send"] == passed["recv"] and all(found == calls[0] for found in calls)


def _raise_failure(answers: dict[int, dict[str, Any]], ranks: int) -> None:
    """Raise what is to be told of answers of which one is a failure: the cause, not what followed from it."""
    failures = {rank: answer for rank, answer in sorted(answers.items()) if "error" in answer}
    if not failures:
        return
    own = [rank for rank, answer in failures.items() if not answer["others"]]
    if own:
        raise RankRaisedError(own[0], ranks, failures[own[0]]["error"], failures[own[0]]["kind"])
    rank, error = next((rank, answer["error"]) for rank, answer in failures.items())
    silent = [other for other in range(ranks) if other not in answers]
    ended = [other for other in answers if other not in failures]
    if silent and not ended:
        raise RankRaisedError(silent[0], ranks, f"it does not answer; rank {rank} says: {error}", "RankFailed")
    left = f"; rank {', '.join(map(str, ended))} had come to the end of the function by then" if ended else ""
    raise RankRaisedError(rank, ranks, f"{error}{left}", "RankFailed")


def _words(rank: int, ranks: int | None, cause: str) -> str:
    return f"rank {rank}{f' of {ranks}' if ranks else ''} on {socket.gethostname()} failed: {cause}"
