"""Shared by all commands: output, errors, and the types of common options.

Progress and messages go to stderr. With `--json` the last line of stdout is one JSON object. The exit status is 0 for success,
2 for wrong use, and 1 for a failure, which is described in one sentence on stderr.
"""

from __future__ import annotations

import functools
import io
import json
import os
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from labkit.errors import InvalidRequest, LabkitError
from labkit.extras import what_is_missing

Result = TypeVar("Result")

ModelOption = Annotated[
    str,
    typer.Option("--model", help="A model's name (gptj-tiny, gpt-j-6b, gpt-j-6b-synthetic), a directory or config.json."),
]
DeviceOption = Annotated[str | None, typer.Option("--device", help="cpu or cuda[:N]; if left out, a GPU where there is one.")]
PrecisionOption = Annotated[
    str | None, typer.Option("--precision", help="fp32, bf16, fp16, int8, int4 or fp8; if left out, what suits the device.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of all random numbers.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]


def report_errors(command: Callable[..., Result]) -> Callable[..., Result]:
    """Wrap a command so that an error of labkit, or a missing package, ends it with one sentence and no traceback."""

    @functools.wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> Result:
        warnings.formatwarning = lambda message, *_: f"labkit: {message}\n"  # without the line of code
        try:
            try:
                return command(*arguments, **options)
            finally:
                sys.stdout.flush()  # if the pipe is closed, this raises here, where it is handled
        except LabkitError as error:
            print(f"labkit: {error}", file=sys.stderr)
            raise SystemExit(2 if isinstance(error, InvalidRequest) else 1) from None
        except KeyboardInterrupt:
            print("labkit: interrupted", file=sys.stderr)
            raise SystemExit(130) from None
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(1) from None
        except ModuleNotFoundError as error:
            missing = what_is_missing(error)
            if missing is None:
                raise
            print(f"labkit: {missing}", file=sys.stderr)
            raise SystemExit(1) from None
        except (OSError, MemoryError) as error:
            print(f"labkit: {type(error).__name__}: {error}", file=sys.stderr)
            raise SystemExit(1) from None

    return wrapped


def write_anything() -> None:
    """Let stdout and stderr write every character; one that the encoding lacks is written as its number, such as `\\u2014`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def names(text: str) -> tuple[str, ...]:
    """The names in an option such as `hf,openvino`, in order and without repeats."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """The numbers of an option such as `1,8`. Raises `InvalidRequest` naming the option."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InvalidRequest(f"{option} is {text!r}; whole numbers separated by commas are accepted, for example 1,8") from None


def print_json(value: dict[str, Any]) -> None:
    """Print `value` as one line of JSON. Raises ValueError for NaN and infinities."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")
    sys.stdout.flush()


def say(message: str) -> None:
    """Print a message for the person at the terminal (stderr)."""
    print(message, file=sys.stderr, flush=True)
