"""`launch(function, ranks, ...)` runs your own function on several processes of this host, like an MPI program.

Every rank calls the same function. In the function, use `torch.distributed` to find out the rank and to exchange data with the
other ranks. The function is sent as source, so you can launch a function that was just defined in a notebook.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from typing import Any

from labkit.errors import InvalidRequest
from labkit.forked import by_owner
from labkit.launch.outcome import Launched
from labkit.launch.processes import MOST_RANKS
from labkit.launch.team import Each, LaunchOptions, Team
from labkit.plurals import counted

COLLECTIVE_SECONDS = 5.0
"""By default, a collective fails if a rank has not called the collective within this many seconds."""


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

    In the function, `torch.distributed` is ready for use: `dist.get_rank()`, `dist.all_reduce(tensor)`, `dist.send(tensor,
    dst)`, ... Arguments and return values can be plain values and tensors, and lists, tuples and dictionaries of these. An
    argument can also be a function, and `Each([...])` gives every rank its own value. Functions, modules and plain values that
    the function uses are sent with it. The processes that `launch` starts are kept for the next call and end together with this
    process.

    timeout: seconds that a collective waits for the other ranks. seconds: the limit for the whole call. checked: before each
    collective, check that all ranks call the same collective on the same shapes, and raise an error if they do not. With
    `checked=False` a collective takes half the time, but a mismatch ends the process. say: is called with each line that a rank
    prints, labelled with the rank. progress: is called with the number of ranks that are ready and the number of all ranks.

    Raises `InvalidRequest` if the function or an argument cannot be sent. Raises `RankFailed` if a process ends, the time is
    up, or the function raises an exception (then the error is a `RankRaisedError`). The error names the rank, the host and the
    cause. No rank keeps running after a `RankFailed`.
    """
    _check_ranks(ranks)
    for argument in args:
        if isinstance(argument, Each) and len(argument.values) != ranks:
            raise InvalidRequest(
                f"an argument of type Each has {counted(len(argument.values), 'value')} for {counted(ranks, 'rank')}; give one "
                f"value "
                "per rank"
            )
    with _lock:
        options = LaunchOptions(timeout=timeout, seconds=seconds, checked=checked, say=say, progress=progress)
        return _the_team().run(function, ranks, args, options)


def start(ranks: int) -> None:
    """Start the processes that a `launch` with `ranks` ranks needs and that are not running yet.

    Raises `InvalidRequest` for a wrong number of ranks, and `RankFailed` if a process does not start.
    """
    _check_ranks(ranks)
    with _lock:
        _the_team().start(ranks)


def shut_down() -> None:
    """End the processes that `launch` keeps; the next call starts new processes."""
    global _team
    with _lock:
        if _team is not None:
            _team.close()
        _team = None


def _check_ranks(ranks: int) -> None:
    if not isinstance(ranks, int) or not 1 <= ranks <= MOST_RANKS:
        raise InvalidRequest(f"ranks is {ranks!r}; a whole number from 1 to {MOST_RANKS} is accepted")


def _the_team() -> Team:
    global _team
    if _team is None:
        _team = Team()
    return _team


def _forget() -> None:
    """Forget the processes. Called in a forked child, because the processes belong to its parent process."""
    global _lock, _team
    _lock, _team = threading.RLock(), None


_lock = threading.RLock()
_team: Team | None = None
atexit.register(by_owner(shut_down))
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
