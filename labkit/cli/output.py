"""Code that all commands share: output, errors, and the types of common options.

Progress and messages go to stderr. With `--json` the last line of stdout is one JSON object. The exit status is 0 for success,
2 for wrong use (wrong arguments, for example), and 1 for any other failure. One sentence on stderr describes a failure.
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
DeviceOption = Annotated[str | None, typer.Option("--device", help="cpu or cuda[:N]; if left out, a GPU if there is one.")]
PrecisionOption = Annotated[
    str | None,
    typer.Option(
        "--precision",
        help="fp32, bf16, fp16, sparse24, sparse24_int8, int8, w8a8, int4 or fp8; if left out, the best for the device.",
    ),
]
KVCacheOption = Annotated[
    str | None,
    typer.Option("--kv-cache-dtype", help="int8 or fp8: a KV cache in 8 bits, on the CPU; if left out, the model's own dtype."),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of all random numbers.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]


def report_errors(command: Callable[..., Result]) -> Callable[..., Result]:
    """Wrap a command so that an expected error ends it with one sentence and no traceback.

    Expected errors are labkit's own errors, missing packages, and errors of the operating system.
    """

    @functools.wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> Result:
        warnings.formatwarning = lambda message, *_: f"labkit: {message}\n"  # leave out the line of code that warned
        try:
            try:
                return command(*arguments, **options)
            finally:
                sys.stdout.flush()  # If the pipe is closed, flush raises here, so that the except clause below handles it.
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
    """Let stdout and stderr write every character.

    A character that the encoding cannot represent is written as an escape, such as `\\u2014`.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def names(text: str) -> tuple[str, ...]:
    """The names in the value of an option, such as `hf,openvino`, in their order and without repetitions."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """The whole numbers in the value of an option, such as `1,8`. Raises an `InvalidRequest` that names the option."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InvalidRequest(
            f"{option} is {text!r}, but the value must be whole numbers separated by commas, for example 1,8"
        ) from None


def print_json(value: dict[str, Any]) -> None:
    """Print `value` as one line of JSON. Raises ValueError if `value` contains NaN or infinity."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")
    sys.stdout.flush()


def say(message: str) -> None:
    """Print a message on stderr, for the person at the terminal."""
    print(message, file=sys.stderr, flush=True)
