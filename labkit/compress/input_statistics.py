"""The statistics of a layer's inputs that a calibrated quantizer uses: the mean outer product and the mean magnitude."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from labkit.errors import LabkitError


class InputStatistics:
    """Accumulates the statistics of a layer's inputs. `name` is the layer's name in error messages.

    After all inputs have been added, `hessian` `[in, in]` float32 is the mean of x x^T over tokens, and `magnitude` `[in]`
    float32 is the mean of |x|.
    """

    def __init__(self, name: str, in_features: int) -> None:
        self.name = name
        self.tokens = 0
        self._products = torch.zeros(in_features, in_features, dtype=torch.float32, device="cpu")
        self._sums = torch.zeros(in_features, dtype=torch.float64, device="cpu")

    def add(self, x: Tensor) -> None:
        """Add inputs `[tokens, in]` float32. Raises `LabkitError` if a value is not finite."""
        if not bool(torch.isfinite(x.sum())) or not bool(torch.isfinite(x).all()):
            raise LabkitError(
                f"the calibration inputs of {self.name} are NaN or infinite, so the model itself is broken or its numbers are "
                f"too large for float32; check the model with `labkit evaluate`, or use a method without calibration (rtn)"
            )
        self._products.addmm_(x.t(), x)
        self._sums += x.abs().sum(0, dtype=torch.float64)
        self.tokens += len(x)

    @property
    def hessian(self) -> Tensor:
        """The mean of x x^T."""
        return self._products / max(self.tokens, 1)

    @property
    def magnitude(self) -> Tensor:
        """The mean of |x|."""
        return (self._sums / max(self.tokens, 1)).float()


def statistics_of(name: str, inputs: Iterable[Tensor]) -> InputStatistics:
    """Compute the statistics of the inputs `[tokens, in]` of several windows. Raises `LabkitError` if a value is not finite."""
    found: InputStatistics | None = None
    for x in inputs:
        found = found or InputStatistics(name, x.shape[1])
        found.add(x)
    assert found is not None
    return found
