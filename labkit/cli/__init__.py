"""The command line. Each command has a module that contains a function of the same name.

The modules of the commands import torch and other heavy packages only inside their functions, so that `labkit --help` is fast.
"""

from __future__ import annotations

from typing import Annotated

import typer

from labkit.cli.output import report_errors, write_anything

app = typer.Typer(
    name="labkit",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

COMMANDS = (
    "doctor",
    "fetch",
    "convert",
    "compress",
    "export",
    "sensitivity",
    "generate",
    "evaluate",
    "bench",
    "plan",
    "tune",
    "serve",
    "stress",
    "check",
    "watch",
    "reset",
    "solution",
    "ladder",
    "board",
    "grade",
    "release",
    "tour",
    "lab",
)

OLD_NAMES = {"stress": "load"}
"""Former names of commands. These names still work, but `--help` does not list them."""


def _print_version(asked: bool) -> None:
    if asked:
        from labkit import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Inference of large language models, hands on: a GPT-J engine and the course around it."""


def _register() -> None:
    import importlib

    for name in COMMANDS:
        function = getattr(importlib.import_module(f"labkit.cli.{name}"), name)
        app.command(name)(report_errors(function))
        if name in OLD_NAMES:
            app.command(OLD_NAMES[name], hidden=True)(report_errors(function))


def main() -> None:
    """Run the command line of this process."""
    write_anything()
    _register()
    app(prog_name="labkit")


if __name__ == "__main__":
    main()
