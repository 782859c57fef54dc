"""A second queue of a GPU: what is put there runs beside the work of the current queue, from a fork until a join.

GPT-J's attention and MLP both read the same normed hidden state. Put side by side, the small kernels of attention run while
the matrices of the MLP stream in, and neither waits for the other's last program.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class SideStream:
    """A queue of its own on `device`, whose kernels are begun before those of the current queue where both wait.

    Inside the capture of a CUDA graph the fork and the join become edges of the graph. What was made in front of a fork may
    be read beside, and let go behind the join; what was made beside may be read behind the join, and let go once all that
    reads it is queued: the next fork waits for that.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]

    def fork(self, call: Callable[[], Tensor]) -> Tensor:
        """Queue `call` behind all that the current queue holds now; its result is valid behind `join`."""
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            return call()

    def join(self) -> None:
        """Let the current queue wait for this one."""
        torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
