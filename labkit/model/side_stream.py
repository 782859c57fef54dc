"""Adds a second CUDA stream. From a fork until a join, its work runs at the same time as the work of the current stream.

GPT-J's attention and MLP both read the same normalized hidden state. If they run on two streams, the small kernels of attention
run while the GPU reads the matrices of the MLP, so attention and MLP do not wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class SideStream:
    """A stream on `device` with a higher priority. If kernels of both streams wait, the kernels of this stream start first.

    Inside the capture of a CUDA graph, the fork and the join become edges of the graph. The forked call may read tensors that
    were made before the fork; free these tensors only after the join. The call's result may be read after the join. The result
    may be freed as soon as all calls that read it are queued, because the next fork waits for these calls.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]

    def fork(self, call: Callable[[], Tensor]) -> Tensor:
        """Run `call` on this stream, after all work that is queued on the current stream now.

        The result is valid after `join`.
        """
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            return call()

    def join(self) -> None:
        """Make the current stream wait for this second stream."""
        torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
