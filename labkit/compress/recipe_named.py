"""The methods of `labkit compress` by name."""

from __future__ import annotations

from typing import Any

from labkit.compress.method import METHODS, method_named
from labkit.compress.recipe import Recipe
from labkit.compress.rounded_inputs import ROUNDED_INPUTS, rounded_inputs_named
from labkit.compress.weight_only import WeightOnly
from labkit.errors import InvalidRequest

RECIPES = (*METHODS, *ROUNDED_INPUTS)
"""The names of all methods."""
WEIGHT_ONLY_OPTIONS = frozenset({"group_size", "asymmetric", "damping", "activation_order", "steps", "bits"})
ROUNDED_INPUTS_OPTIONS = frozenset({"activations", "calibrator", "alpha", "weight_scales"})


def recipe_named(name: str, **options: Any) -> Recipe:
    """The method with this name; options that are None count as not given.

    Weight-only methods take the options of `method_named`, methods that round activations those of `rounded_inputs_named`.
    Raises `InvalidRequest` for an unknown name, for an option of another method, and for a value that is not accepted.
    """
    given = {option: value for option, value in options.items() if value is not None}
    rounds = name in ROUNDED_INPUTS
    if wrong := sorted((WEIGHT_ONLY_OPTIONS if rounds else ROUNDED_INPUTS_OPTIONS) & given.keys()):
        kind = "weights and activations" if rounds else "weights only"
        raise InvalidRequest(f"{wrong[0].replace('_', '-')} is not an option of {name}, which quantizes {kind}")
    if rounds:
        return rounded_inputs_named(name, **given)
    if name not in METHODS and f"{name}-rtn" not in METHODS:
        raise InvalidRequest(f"method is {name!r}; {', '.join(RECIPES)} are accepted (int8 means int8-rtn)")
    return WeightOnly(method_named(name, **given))
