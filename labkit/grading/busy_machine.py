"""Decides whether other programs are to blame when a time limit passes while a learner's function is checked.

This is the only place that decides it. It serves every limit: of a call, of a whole worker process, and of a wait inside an
exercise (for a server, an answer or another rank). Each limit calls `labkit.time_limits.limit_passed`.

The learner's own program is this process and all its descendants, including those that left its session (setsid) or whose
parent has ended. A limit is excused only if one of their threads was kept waiting for a core by other programs (see
`labkit.measure.contention`). So a function that sleeps is not excused, and neither is one that waits for processes that it
started itself.

What cannot be seen: processor time of descendants that ended without any process collecting their exit status (SIGCHLD
ignored), a program that some other program starts for the learner (a terminal, cron, a service), and on systems other than
Linux a process whose parent has ended. Their processor time counts as that of other programs. An endless loop on a machine
that really is busy is excused as well, because nobody can know how long it would have run. None of this earns points.
"""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType

from labkit.measure.contention import Contention
from labkit.measure.orphans import adopting_orphans
from labkit.time_limits import listening


class BusyMachine:
    """Watches the time limits in its `with` block.

    `words` is "" unless a limit has passed and other programs are to blame. Then it says both: "your function did not finish
    within 20 seconds, but other programs kept this one waiting for a core for 60% of the time".
    """

    def __init__(self) -> None:
        self.words = ""
        self._contention = Contention()
        self._open = ExitStack()

    def __enter__(self) -> BusyMachine:
        self._open.enter_context(adopting_orphans())
        self._open.enter_context(self._contention)
        self._open.enter_context(listening(self._passed))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()

    def _passed(self, what: str) -> None:
        # The machine is examined now: at the end of the block, the processes that had to wait may be gone.
        others = self._contention.so_far()
        if others and not self.words:
            self.words = f"{what}, but {others}"
