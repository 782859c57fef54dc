"""The methods of `labkit compress` by name. A method determines the number of bits and how the integers are found."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from labkit.checkpoints.checkpoint import expected_shapes
from labkit.checkpoints.integer_weight import IntegerScheme, IntegerWeight
from labkit.compress.binary import STORED_BITS
from labkit.compress.gptq import DAMPING
from labkit.compress.mixed import CHOICES
from labkit.compress.qat import QatOptions
from labkit.compress.scales import check_group_size
from labkit.config import GPTJConfig
from labkit.errors import InvalidRequest

ALGORITHMS = ("rtn", "mse", "awq", "gptq", "qat")
WITH_GPTQ = ("gptq", "qat", "mixed")
"""The ends of the names of the methods that use GPTQ, and have its options."""
BINARY = "int1-rtn"
"""The method that keeps only signs (`labkit.compress.binary`)."""
BITS = (8, 4, 3, 2)
GROUP_SIZE = 64
"""The default group size below 8 bits."""
METHODS = (*(f"int{bits}-{algorithm}" for bits in BITS for algorithm in ALGORITHMS), BINARY, "mixed")
"""The names of all methods. `int8` is short for `int8-rtn`."""
HEAD = IntegerScheme(8)
"""How every method stores the head. A rounding error of the head directly changes which token is chosen."""


Rounding = Callable[[Tensor, IntegerScheme], IntegerWeight]
"""A function that quantizes a dense `[out, in]` matrix to a scheme."""


@dataclass(frozen=True)
class Method:
    """How a model is compressed.

    `scheme` says how the blocks' matrices are stored in the files. `algorithm` is rtn, mse, awq, gptq, qat or signs. `damping`
    and `activation_order` are options of GPTQ (`GptqOptions`); `training` has the options of qat. `rounding` is the caller's
    function, which replaces labkit's own function for rtn.

    `average_bits` is set for mixed precision: the mean bits per weight, including scales, that the matrices of the blocks
    may have. `schemes` maps the full names of the matrices to their schemes; it is filled once the bits are chosen.
    """

    scheme: IntegerScheme
    algorithm: str
    damping: float = DAMPING
    activation_order: bool = True
    rounding: Rounding | None = None
    training: QatOptions = field(default_factory=QatOptions)
    average_bits: float | None = None
    schemes: Mapping[str, IntegerScheme] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the method, such as int4-gptq; or int4-own if the caller gave a `rounding`."""
        if self.algorithm == "signs":
            return BINARY
        if self.average_bits is not None:
            return "mixed"
        return f"int{self.scheme.bits}-{'own' if self.rounding else self.algorithm}"

    @property
    def calibrated(self) -> bool:
        """Whether the method needs calibration text."""
        return self.algorithm in ("awq", "gptq", "qat")

    def scheme_of(self, module: str) -> IntegerScheme:
        """The scheme of a block's matrix. `module` is the full name without `.weight`."""
        return self.schemes.get(module, self.scheme)

    def bits_per_weight(self, config: GPTJConfig) -> float:
        """The mean bits per weight of the blocks' matrices, including their scales and zero points."""
        bits = weights = 0.0
        for name, shape in expected_shapes(config).items():
            if len(shape) == 2 and ".h." in name:
                weights += math.prod(shape)
                bits += math.prod(shape) * self.scheme_of(name.removesuffix(".weight")).bits_per_weight(shape[1])
        return bits / weights

    def bits_of_scales(self, config: GPTJConfig) -> float:
        """How much of `average_bits` mixed precision needs for the scales."""
        return IntegerScheme(1, self.scheme.group_size).bits_per_weight(config.hidden_size) - 1

    def check(self, config: GPTJConfig) -> None:
        """Raise `InvalidRequest` if the group size does not divide the length of a matrix's rows, or if `average_bits` is too
        small for the scales and the smallest number of bits of a matrix.
        """
        for name, inputs in (("attention and fc_in", config.hidden_size), ("fc_out", config.intermediate_size)):
            check_group_size(self.scheme, inputs, name)
        scales = self.bits_of_scales(config)
        least = math.ceil(1000 * (min(CHOICES) + scales)) / 1000
        if self.average_bits is not None and self.average_bits < min(CHOICES) + scales:
            raise InvalidRequest(
                f"bits is {self.average_bits:g}, which is too few: a matrix has at least {min(CHOICES)} bits per weight, plus "
                f"{scales:g} for its scales; give --bits of at least {least:g}, or larger groups"
            )


def method_named(
    name: str,
    *,
    group_size: int | None = None,
    asymmetric: bool = False,
    damping: float | None = None,
    activation_order: bool | None = None,
    steps: int | None = None,
    continuations: int | None = None,
    bits: float | None = None,
) -> Method:
    """The method with this name. Raises `InvalidRequest` for a name or a value that is not accepted.

    group_size: the number of neighbours that share a scale; 0 means one scale for each row; None means one scale for each row
    in 8 bits and for qat, and otherwise groups of 64. damping, activation_order: options of gptq, qat and mixed
    (`GptqOptions`); None means the default. steps: the number of training steps of qat. continuations: how many times the
    dense model continues each window, to make more training text for qat. bits: for mixed, the mean bits per weight, including
    scales.
    """
    full = f"{name}-rtn" if f"{name}-rtn" in METHODS else name
    asked = {option: value for option, value in (("steps", steps), ("continuations", continuations)) if value is not None}
    errors = {"damping": damping, "activation_order": activation_order}
    compensation: dict[str, Any] = {option: value for option, value in errors.items() if value is not None}
    _check(name, full, group_size, compensation, asked, bits)
    if full == "mixed":
        return _mixed(bits or 0.0, group_size, asymmetric, compensation)
    width, _, algorithm = full.removeprefix("int").partition("-")
    size = (None if width == "8" or algorithm == "qat" else GROUP_SIZE) if group_size is None else group_size or None
    if full == BINARY:
        if asymmetric:
            raise InvalidRequest("int1-rtn stores signs, which have no zero point; leave --asymmetric out")
        return Method(IntegerScheme(STORED_BITS, size), "signs")
    if algorithm == "qat" and asymmetric:
        raise InvalidRequest("qat learns scales and no zero points; leave --asymmetric out")
    training = QatOptions(**asked)
    return Method(IntegerScheme(int(width), size, not asymmetric), algorithm, training=training, **compensation)


def _check(
    name: str,
    full: str,
    group_size: int | None,
    compensation: Mapping[str, Any],
    training: Mapping[str, int],
    bits: float | None,
) -> None:
    """Raise `InvalidRequest` for an unknown name, values that no method accepts, and options of another method."""
    if full not in METHODS:
        raise InvalidRequest(f"method is {name!r}; {', '.join(METHODS)} are accepted (int8 means int8-rtn)")
    if compensation and not full.endswith(WITH_GPTQ):
        option, value = next(iter(compensation.items()))
        raise InvalidRequest(
            f"{option.replace('_', '-')} is {value}, but method {full} does not use GPTQ; intN-gptq, intN-qat and mixed have it"
        )
    damping = compensation.get("damping", DAMPING)
    if not 0 < damping < 10:
        raise InvalidRequest(f"damping is {damping!r}; a number above 0 and below 10 is accepted, such as {DAMPING}")
    if (full == "mixed") != (bits is not None):
        raise InvalidRequest(
            f"method {full} with {bits} bits on average; give --bits with the method mixed and with no other method"
        )
    if training and not full.endswith("-qat"):
        option, value = next(iter(training.items()))
        raise InvalidRequest(f"{option} is {value}, but method {full} trains nothing; intN-qat has {option}")
    if group_size is not None and group_size < 0:
        raise InvalidRequest(f"group size is {group_size}; a number of at least 1 is accepted, or 0 for one scale for each row")


def _mixed(bits: float, group_size: int | None, asymmetric: bool, compensation: Mapping[str, Any]) -> Method:
    size = GROUP_SIZE if group_size is None else group_size or None
    if not 2 < bits <= 8.5:
        raise InvalidRequest(f"bits is {bits!r}; an average above 2 and at most 8.5 bits per weight is accepted, such as 4.5")
    if asymmetric:
        raise InvalidRequest("mixed chooses among symmetric schemes; leave --asymmetric out")
    return Method(IntegerScheme(4, size), "gptq", average_bits=bits, **compensation)
