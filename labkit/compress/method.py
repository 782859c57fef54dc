"""The methods of `labkit compress`, by name: how many bits, and how the integers are found."""

from __future__ import annotations

from dataclasses import dataclass, field

from labkit.checkpoints.integer_weight import IntegerScheme
from labkit.compress.binary import STORED_BITS
from labkit.compress.gptq import DAMPING
from labkit.compress.qat import QatOptions
from labkit.compress.scales import check_group_size
from labkit.config import GPTJConfig
from labkit.errors import InvalidRequest

ALGORITHMS = ("rtn", "mse", "awq", "gptq", "qat")
BINARY = "int1-rtn"
"""The method that keeps only signs (`labkit.compress.binary`)."""
BITS = (8, 4, 3, 2)
GROUP_SIZE = 64
"""The default group size below 8 bits."""
METHODS = (*(f"int{bits}-{algorithm}" for bits in BITS for algorithm in ALGORITHMS), BINARY)
"""The names of all methods. `int8` is short for `int8-rtn`."""
HEAD = IntegerScheme(8)
"""How the head is stored, whatever the method: a rounding error of the head directly changes which token is chosen."""


@dataclass(frozen=True)
class Method:
    """How a model is compressed.

    `scheme` is the form of the blocks' matrices in the files. `algorithm` is rtn, mse, awq, gptq, qat or signs. `damping` and
    `activation_order` are GPTQ's (`GptqOptions`); `training` is that of qat.
    """

    scheme: IntegerScheme
    algorithm: str
    damping: float = DAMPING
    activation_order: bool = True
    training: QatOptions = field(default_factory=QatOptions)

    @property
    def name(self) -> str:
        """The name of the method, such as int4-gptq."""
        if self.algorithm == "signs":
            return BINARY
        return f"int{self.scheme.bits}-{self.algorithm}"

    @property
    def calibrated(self) -> bool:
        """Whether the method needs calibration text."""
        return self.algorithm in ("awq", "gptq", "qat")

    def bits_per_weight(self, config: GPTJConfig) -> float:
        """Bits per weight of the blocks' matrices, with their scales and zero points."""
        hidden, inner = config.hidden_size, config.intermediate_size
        from_hidden, from_inner = 4 * hidden * hidden + inner * hidden, hidden * inner  # the weights of the matrices
        bits = from_hidden * self.scheme.bits_per_weight(hidden) + from_inner * self.scheme.bits_per_weight(inner)
        return bits / (from_hidden + from_inner)

    def check(self, config: GPTJConfig) -> None:
        """Raise `InvalidRequest` if the groups do not divide the rows of a matrix."""
        for name, inputs in (("attention and fc_in", config.hidden_size), ("fc_out", config.intermediate_size)):
            check_group_size(self.scheme, inputs, name)


def method_named(
    name: str,
    *,
    group_size: int | None = None,
    asymmetric: bool = False,
    damping: float = DAMPING,
    activation_order: bool = True,
    steps: int | None = None,
) -> Method:
    """The method with this name. Raises `InvalidRequest` for a name or a value that is not accepted.

    group_size: neighbours that share a scale; 0 means one scale for each row; None means a scale for each row in 8 bits and
    for qat, and otherwise groups of 64. steps: of the training of qat.
    """
    full = f"{name}-rtn" if name in {f"int{bits}" for bits in (*BITS, 1)} else name
    if full not in METHODS:
        raise InvalidRequest(f"method is {name!r}; {', '.join(METHODS)} are accepted (int8 means int8-rtn)")
    if not 0 < damping < 10:
        raise InvalidRequest(f"damping is {damping!r}; a number above 0 and below 10 is accepted, such as {DAMPING}")
    bits, _, algorithm = full.removeprefix("int").partition("-")
    if group_size is not None and group_size < 0:
        raise InvalidRequest(f"group size is {group_size}; a number of at least 1 is accepted, or 0 for one scale for each row")
    size = (None if bits == "8" or algorithm == "qat" else GROUP_SIZE) if group_size is None else group_size or None
    if full == BINARY:
        if asymmetric:
            raise InvalidRequest("int1-rtn stores signs, which have no zero point; leave --asymmetric out")
        return Method(IntegerScheme(STORED_BITS, size), "signs")
    if algorithm == "qat" and asymmetric:
        raise InvalidRequest("qat learns scales and no zero points; leave --asymmetric out")
    training = QatOptions() if steps is None else QatOptions(steps=steps)
    return Method(IntegerScheme(int(bits), size, not asymmetric), algorithm, damping, activation_order, training)
