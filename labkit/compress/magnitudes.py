"""The statistics of a layer's inputs that calibrators use: a histogram of magnitudes, and each channel's largest magnitude."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from labkit.errors import LabkitError

BINS = 4096
"""The number of bins of a histogram. TensorRT's calibrators have 2048."""


class Magnitudes:
    """The magnitudes of the inputs of a layer, over all tokens of all windows.

    `channels` `[in]` float32 are the largest magnitudes of the channels. `counts` `[BINS]` float64 says how many numbers are in
    each of `BINS` equal bins from 0 to `largest`. `inputs()` returns the inputs, one tensor `[tokens, in]` for each window; it
    is called twice, because the width of the bins is only known after the first pass. Raises `LabkitError`, with `name`, if an
    input is not finite.
    """

    def __init__(self, name: str, inputs: Callable[[], Iterable[Tensor]]) -> None:
        self.channels = largest_of_channels(name, inputs())
        self.largest = float(self.channels.max())
        self.counts = torch.zeros(BINS, dtype=torch.float64, device="cpu")
        for x in inputs():
            self.counts += torch.histc(x.abs().float(), BINS, 0, self.largest or 1.0).double()

    @property
    def edges(self) -> Tensor:
        """The upper edges of the bins, `[BINS]` float64."""
        steps = torch.arange(1, BINS + 1, dtype=torch.float64, device="cpu")
        return steps * ((self.largest or 1.0) / BINS)


def largest_of_channels(name: str, inputs: Iterable[Tensor]) -> Tensor:
    """The largest magnitude of each channel of inputs `[tokens, in]`, as `[in]` float32.

    Raises `LabkitError` for inputs that are not finite.
    """
    found: Tensor | None = None
    for x in inputs:
        largest = x.abs().amax(0)
        if not bool(torch.isfinite(largest).all()):
            raise LabkitError(
                f"the calibration inputs of {name} are NaN or infinite, so the model itself is broken or its numbers are too "
                "large for float32; check the model with `labkit evaluate`, or round the activations without calibration "
                "(--activations dynamic)"
            )
        found = largest if found is None else torch.maximum(found, largest)
    assert found is not None
    return found
