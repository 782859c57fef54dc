"""The process in which an executor checks one notebook: it reads a task from stdin, and writes all messages to stdout.

The task and the messages are pickled. A learner's code runs neither in this process nor in its parent: each function runs in
another process (`labkit.grading.worker`).
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time

from labkit.gradebook.grader import answers, end


def main(parent: int) -> None:
    """Answer one task. Output that the course's own code prints goes to stderr. The process ends when its parent has ended."""
    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with os.fdopen(os.dup(1), "wb") as answer:
        os.dup2(2, 1)
        pickle.dump(list(answers(pickle.load(sys.stdin.buffer))), answer)


def _end_with(parent: int) -> None:
    """End this process when its parent has ended, even if SIGKILL ended the parent.

    Before this process ends, it ends the processes that run learners' functions and removes their files.
    """
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(int(sys.argv[1]))
