"""What every command shares: where output goes, how errors end, the option types used by many commands.

Progress and messages go to stderr; with `--json` the last line of stdout is one JSON object. Exit status 0 is
success, 2 wrong use, 1 failure with one sentence on stderr.
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
DeviceOption = Annotated[str | None, typer.Option("--device", help="cpu or cuda[:N]; the best there is when left out.")]
PrecisionOption = Annotated[
    str | None, typer.Option("--precision", help="fp32, bf16, fp16, int8, int4 or fp8; what suits the device when left out.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]


def report_errors(command: Callable[..., Result]) -> Callable[..., Result]:
    """Wrap a command so that labkit's errors, and a package of an extra that is missing, end it with one sentence."""

    @functools.wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> Result:
        warnings.formatwarning = lambda message, *_: f"labkit: {message}\n"  # no line of code: it is no programmer's mistake
        try:
            try:
                return command(*arguments, **options)
            finally:
                sys.stdout.flush()  # a closed pipe shows here, where it is handled, and not at exit
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
    """Let stdout and stderr write every character: one that a terminal's encoding lacks as its number, `\\u2014` say."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def names(text: str) -> tuple[str, ...]:
    """The names of an option such as `hf,openvino`, in their order and each once."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """The numbers of an option such as `1,8`. Raises `InvalidRequest` naming the option."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InvalidRequest(f"{option} is {text!r}; whole numbers separated by commas are accepted, 1,8 say") from None


def print_json(value: dict[str, Any]) -> None:
    """Print `value` as one line of JSON; NaN and infinities are refused rather than written."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")
    sys.stdout.flush()


def say(message: str) -> None:
    """Print a message for the person at the terminal (stderr)."""
    print(message, file=sys.stderr, flush=True)
