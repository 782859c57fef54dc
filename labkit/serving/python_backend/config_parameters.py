"""Reads the parameters that a model's `config.pbtxt` holds."""

from __future__ import annotations

import json


def parameter(args: dict[str, str], name: str, default: str = "") -> str:
    """One parameter as a string; `default` if the configuration does not have it. args: the argument of `initialize`."""
    parameters = json.loads(args["model_config"]).get("parameters", {})
    value: str = parameters.get(name, {}).get("string_value", default)
    return value
