"""Finds the 2:4 sparse methods of `labkit compress` by name."""

from __future__ import annotations

from labkit.checkpoints.integer_weight import IntegerScheme
from labkit.compress.gptq import DAMPING
from labkit.compress.method import GROUP_SIZE
from labkit.compress.recovery import RecoveryOptions
from labkit.compress.sparse import MASKS, Sparse
from labkit.errors import InvalidRequest

SPARSE = tuple(
    f"2:4-{mask}{recovered}{integers}"
    for mask in MASKS
    for recovered in ("", "-recovered")
    for integers in ("", "+int8", "+int4")
)
"""The names of the methods."""


def sparse_named(
    name: str,
    *,
    group_size: int | None = None,
    damping: float | None = None,
    steps: int | None = None,
    continuations: int | None = None,
    permute: bool = False,
) -> Sparse:
    """The method with this name, one of `SPARSE`. Raises `InvalidRequest` for options that the method does not have.

    group_size, for int4: how many neighbours in a row, kept or pruned, share a scale. The default is 64, and 0 means the whole
    row. int8 has a scale for each row. steps: the number of training steps of the recovery. continuations: how
    many times the dense model continues each window, to make more text for the recovery. permute: whether to search an order
    of the channels first.
    """
    rest, _, integers = name.partition("+")
    mask, _, recovered = rest.removeprefix("2:4-").partition("-")
    if group_size is not None and integers != "int4":
        raise InvalidRequest(f"group size is {group_size}, but method {name} has no groups; only 2:4-...+int4 has groups")
    if damping is not None and mask != "sparsegpt":
        raise InvalidRequest(f"damping is {damping}, but method {name} inverts no Hessian; 2:4-sparsegpt has damping")
    if damping is not None and not 0 < damping < 10:
        raise InvalidRequest(f"damping is {damping!r}; a number above 0 and below 10 is accepted, such as {DAMPING}")
    asked = {option: value for option, value in (("steps", steps), ("continuations", continuations)) if value is not None}
    for option, value in asked.items():
        if not recovered:
            raise InvalidRequest(f"{option} is {value}, but method {name} trains nothing; {rest}-recovered has {option}")
    scheme = {
        "": None,
        "int8": IntegerScheme(8),
        "int4": IntegerScheme(4, GROUP_SIZE if group_size is None else group_size or None),
    }[integers]
    training = RecoveryOptions(**asked) if recovered else None
    return Sparse(mask, scheme, training, permute, DAMPING if damping is None else damping)
