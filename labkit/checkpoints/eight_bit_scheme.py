"""The formats "int-quantized" and "float-quantized" of compressed-tensors: 8-bit weights and optionally 8-bit inputs (W8A8).

The settings have the names of https://github.com/vllm-project/compressed-tensors: a config group has `targets`, `weights` and
`input_activations`; the weights and the input activations have `num_bits`, `type`, `strategy`, `symmetric` and `dynamic`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

INT_QUANTIZED, FLOAT_QUANTIZED = "int-quantized", "float-quantized"
FORMS = {INT_QUANTIZED: "int", FLOAT_QUANTIZED: "float"}
"""Maps each format to the `type` of its numbers."""


@dataclass(frozen=True)
class EightBitScheme:
    """How one config group stores its matrices.

    `number` is "int" or "float" (FP8). `per_row` is True if each output row has a scale, and False if the whole matrix has one
    scale. `inputs` is "token" if each token's inputs are rounded with a scale computed at run time, "tensor" if they are
    rounded with one stored scale, and None if inputs are not rounded. `targets` name the modules of the group: by exact names,
    endings of names, class names, or regular expressions after "re:".
    """

    number: str
    per_row: bool
    inputs: str | None
    targets: tuple[str, ...] = ()

    def __str__(self) -> str:
        kind = {"int": "int8", "float": "fp8"}[self.number]
        scales = "a scale for each row" if self.per_row else "one scale"
        found = {
            None: "",
            "token": ", inputs rounded with a scale for each token",
            "tensor": ", inputs rounded with a stored scale",
        }
        return f"{kind} with {scales}{found[self.inputs]}"

    def holds(self, module: str) -> bool:
        """Whether a module, such as transformer.h.0.mlp.fc_in, belongs to the group."""
        return any(_matches(target, module) for target in self.targets)


def _matches(target: str, module: str) -> bool:
    if target.startswith("re:"):
        return re.match(target.removeprefix("re:"), module) is not None
    return target in ("Linear", module) or module.endswith(f".{target}")


def scheme_of_group(group: Mapping[str, Any], form: str) -> EightBitScheme:
    """The scheme of an entry of `config_groups` in one of `FORMS`. Raises `ValueError` if labkit cannot read the entry."""
    weights = _settings(group.get("weights"), "weights", FORMS[form])
    if weights.get("strategy") not in ("channel", "tensor"):
        raise ValueError(f"the strategy of its weights is {weights.get('strategy')!r:.80}; channel and tensor are accepted")
    if group.get("output_activations") is not None:
        raise ValueError("it quantizes the outputs of layers (output_activations); only weights and inputs can be quantized")
    targets = group.get("targets")
    if not isinstance(targets, list) or not all(isinstance(each, str) for each in targets):
        raise ValueError("the targets of a config group are not a list of names")
    return EightBitScheme(FORMS[form], weights["strategy"] == "channel", _inputs(group, form), tuple(targets))


def _inputs(group: Mapping[str, Any], form: str) -> str | None:
    if group.get("input_activations") is None:
        return None
    found = _settings(group["input_activations"], "input_activations", FORMS[form])
    strategy, dynamic = found.get("strategy"), bool(found.get("dynamic", False))
    if (strategy, dynamic) not in (("token", True), ("tensor", False)):
        kind = "dynamic" if dynamic else "static"
        raise ValueError(f"its inputs are {kind} with strategy {strategy!r:.80}; dynamic token and static tensor are accepted")
    return str(strategy)


def _settings(values: Any, name: str, number: str) -> dict[str, Any]:
    if not isinstance(values, dict) or values.get("num_bits") != 8 or values.get("type", "int") != number:
        raise ValueError(f"its {name} are not 8 bits of type {number}")
    if not values.get("symmetric", True):
        raise ValueError(f"its {name} have zero points; 8-bit numbers must be symmetric")
    return values


def scheme_for(schemes: Iterable[EightBitScheme], module: str) -> EightBitScheme | None:
    """The first scheme whose group contains the module."""
    return next((scheme for scheme in schemes if scheme.holds(module)), None)
