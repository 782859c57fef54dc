"""The command line: one module a command, each with a function of the command's name.

Command modules import torch and other heavy packages inside their functions only, so that `labkit --help` is quick.
"""

from __future__ import annotations

import typer

from labkit.cli.output import report_errors

app = typer.Typer(
    name="labkit",
    help="Inference of large language models, hands on: a GPT-J engine and the course around it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

COMMANDS = ("doctor", "fetch", "generate", "evaluate", "bench", "check", "release", "tour")


def _register() -> None:
    import importlib

    for name in COMMANDS:
        function = getattr(importlib.import_module(f"labkit.cli.{name}"), name)
        app.command(name)(report_errors(function))


def main() -> None:
    """Run the command line of this process."""
    _register()
    app(prog_name="labkit")


if __name__ == "__main__":
    main()
