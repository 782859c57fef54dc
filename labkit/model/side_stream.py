"""A second CUDA stream: from a fork until a join, its work runs at the same time as that of the current stream.

GPT-J's attention and MLP both read the same normalized hidden state. On two streams, the small kernels of attention run while
the GPU reads the matrices of the MLP, and neither waits until the other has finished.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class SideStream:
    """A stream on `device` with a higher priority: when kernels of both streams wait, its kernels start first.

    Inside the capture of a CUDA graph, the fork and the join become edges of the graph. The forked call may read tensors that
    were made before the fork; free these after the join. The call's result may be read after the join. It may be freed when
    all its readers are queued, since the next fork waits for them.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]

    def fork(self, call: Callable[[], Tensor]) -> Tensor:
        """Run `call` on this stream, after all work that the current stream holds now; its result is valid after `join`."""
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            return call()

    def join(self) -> None:
        """Let the current stream wait for this one."""
        torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
