"""The command-line options for sampling: one option for each parameter that `labkit.sampling_vocabulary` puts on the command
line.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from labkit.sampling_vocabulary import PARAMETERS, Parameter, of_kind

OPTIONS = tuple(parameter for parameter in PARAMETERS if parameter.option)
_TYPES: dict[str, Any] = {"whole number": int, "number": float, "flag": bool, "words": str, "token ids": int, "choice": str}


def with_sampling_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the parameter `**sampling` of a command with the sampling options.

    typer reads the options from the signature of the returned function. The command receives each option as an argument with
    the name of the parameter.
    """

    @functools.wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> None:
        command(*arguments, **options)

    own = inspect.signature(command, eval_str=True)
    kept = [parameter for parameter in own.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    added = [
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=_default(each), annotation=_annotation(each))
        for each in OPTIONS
    ]
    wrapped.__signature__ = own.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {each.name: each.annotation for each in (*kept, *added)}
    return wrapped


def as_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Convert the values of the command-line options to arguments of `SamplingParams`."""
    spelt = {"false": False, "true": True}
    return options | {each.name: spelt.get(options[each.name], options[each.name]) for each in of_kind("choice")}


def _default(parameter: Parameter) -> Any:
    if parameter.is_list:
        return None
    return str(parameter.default).lower() if parameter.kind == "choice" else parameter.default


def _annotation(parameter: Parameter) -> Any:
    kind: Any = _TYPES[parameter.kind]
    if parameter.is_list:
        kind = list.__class_getitem__(kind) | None
    elif parameter.may_be_none:
        kind = kind | None
    words = f"{parameter.meaning} Repeatable." if parameter.is_list else parameter.meaning
    return Annotated[kind, typer.Option(parameter.option, help=words, rich_help_panel=parameter.group)]
