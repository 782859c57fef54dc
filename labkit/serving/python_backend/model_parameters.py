"""The parameters that a `config.pbtxt` gives a model."""

from __future__ import annotations

import json


def parameter(args: dict[str, str], name: str, default: str = "") -> str:
    """A parameter's `string_value` by its key, from the arguments of `initialize`; `default` where it is not given."""
    parameters = json.loads(args["model_config"]).get("parameters", {})
    value: str = parameters.get(name, {}).get("string_value", default)
    return value
