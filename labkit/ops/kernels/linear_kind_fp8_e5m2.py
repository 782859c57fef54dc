"""Defines the kind FP8 e5m2. It has no GPU kernel, and cuBLAS does not multiply e5m2 by e5m2."""

from __future__ import annotations

from labkit.errors import NotAvailable
from labkit.ops.kernels.linear_kind_fp8 import Fp8Kind
from labkit.weight_formats import Fp8E5M2Weight


class Fp8E5M2Kind(Fp8Kind):
    """The kind of `Fp8E5M2Weight`. This format runs only on the CPU, to compare its quality with the quality of e4m3."""

    name, head_name = Fp8E5M2Weight.kind, Fp8E5M2Weight.head_kind

    def check(self, arch: int) -> None:
        """Raise `NotAvailable`, because this format does not run on any GPU."""
        raise NotAvailable("a weight is in FP8 e5m2, which labkit multiplies only on the CPU; use fp8 (e4m3) on a GPU")


KIND = Fp8E5M2Kind()
