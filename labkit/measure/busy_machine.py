"""Decides whether other programs are to blame when a time limit passes while a learner's function is checked.

The module handles every kind of time limit: the limit of a call, of a whole worker process, and of a wait inside an exercise
(for a server, an answer or another rank). When a limit passes, `labkit.time_limits.limit_passed` is called.

The learner's own program is this process and all its descendants, including descendants that left its session (setsid) or whose
parent has ended. A limit is excused only if other programs kept the threads of these processes waiting for a core (see
`labkit.measure.contention`). So neither a function that sleeps nor a function that waits for its own child processes is
excused.

The processor time of some of the learner's processes cannot be seen, so it is counted as the processor time of other programs:

- a descendant that ended without any process collecting its exit status (SIGCHLD ignored)
- a program that another program starts for the learner (a terminal, cron, a service)
- on systems other than Linux, a process whose parent has ended

On a machine that really is busy, even an endless loop is excused, because nobody can know how long it would have run. An
excused limit earns no points.
"""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType

from labkit.measure.contention import Contention
from labkit.measure.orphans import adopting_orphans
from labkit.time_limits import listening


class BusyMachine:
    """Watches the time limits in its `with` block.

    `words` is "" unless a limit has passed and other programs are to blame. Then it names the limit and the cause: "your
    function did not finish within 20 seconds, but other programs kept this one waiting for a core for 60% of the time".
    """

    def __init__(self) -> None:
        self.words = ""
        self._contention = Contention(in_turn=True)
        self._open = ExitStack()

    def __enter__(self) -> BusyMachine:
        self._open.enter_context(adopting_orphans())
        self._contention.start()
        self._open.enter_context(listening(self._passed))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()

    def _passed(self, what: str) -> None:
        # The machine is examined now, because the processes that had to wait may be gone at the end of the block.
        others = self._contention.so_far()
        if others and not self.words:
            self.words = f"{what}, but {others}"
