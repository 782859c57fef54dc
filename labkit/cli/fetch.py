"""`labkit fetch`: make sure that a model's files are on this disk."""

from __future__ import annotations

from typing import Annotated

import typer

from labkit.cli.output import JsonOption, print_json, say


def fetch(
    name: Annotated[str, typer.Argument(help="gptj-tiny (built in) or gpt-j-6b (12 GB from the Hugging Face hub).")],
    json: JsonOption = False,
) -> None:
    """Download a model, or find it on this disk, and print its directory.

    One that the hub's own cache has (HF_HOME) is taken from there, and one in a LABKIT_HOME that is only read is as good.
    A download goes on where it stopped, is checked against the hub's SHA-256, and needs room on the disk first.

    Example: labkit fetch gpt-j-6b
    """
    from labkit.checkpoints import fetch as fetch_model

    result = fetch_model(name)
    say(f"{name}: {result.bytes / 1e6:,.1f} MB, sha256 {result.sha256}")
    if json:
        print_json({"path": str(result.path), "bytes": result.bytes, "sha256": result.sha256})
    else:
        print(result.path)
