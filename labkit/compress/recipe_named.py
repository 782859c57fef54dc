"""Finds the methods of `labkit compress` by name."""

from __future__ import annotations

from typing import Any

from labkit.compress.method import METHODS, method_named
from labkit.compress.recipe import Recipe
from labkit.compress.rounded_inputs import ROUNDED_INPUTS, rounded_inputs_named
from labkit.compress.sparse_named import SPARSE, sparse_named
from labkit.compress.weight_only import WeightOnly
from labkit.errors import InvalidRequest

RECIPES = (*METHODS, *ROUNDED_INPUTS, *SPARSE)
"""The names of all methods."""
WEIGHT_ONLY_OPTIONS = frozenset({"group_size", "asymmetric", "damping", "activation_order", "steps", "continuations", "bits"})
ROUNDED_INPUTS_OPTIONS = frozenset({"activations", "calibrator", "alpha", "weight_scales"})
SPARSE_OPTIONS = frozenset({"group_size", "damping", "steps", "continuations", "permute"})


def recipe_named(name: str, **options: Any) -> Recipe:
    """The method with this name. An option that is None counts as not given.

    Weight-only methods take the options of `method_named`. Methods that round activations take the options of
    `rounded_inputs_named`. 2:4 sparse methods take the options of `sparse_named`. Raises `InvalidRequest` for an unknown name,
    for an option of another method, and for a value that is not accepted.
    """
    given = {option: value for option, value in options.items() if value is not None}
    accepted, kind = WEIGHT_ONLY_OPTIONS, "quantizes weights only"
    if name in ROUNDED_INPUTS:
        accepted, kind = ROUNDED_INPUTS_OPTIONS, "quantizes weights and activations"
    elif name in SPARSE:
        accepted, kind = SPARSE_OPTIONS, "prunes weights"
    elif name not in METHODS and f"{name}-rtn" not in METHODS:
        raise InvalidRequest(f"method is {name!r}; {', '.join(RECIPES)} are accepted (int8 means int8-rtn)")
    if wrong := sorted(given.keys() & (WEIGHT_ONLY_OPTIONS | ROUNDED_INPUTS_OPTIONS | SPARSE_OPTIONS) - accepted):
        raise InvalidRequest(f"{wrong[0].replace('_', '-')} is not an option of {name}, which {kind}")
    if name in ROUNDED_INPUTS:
        return rounded_inputs_named(name, **given)
    return sparse_named(name, **given) if name in SPARSE else WeightOnly(method_named(name, **given))
