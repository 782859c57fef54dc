"""`labkit fetch`: downloads a model, unless its files are already on this disk."""

from __future__ import annotations

from typing import Annotated

import typer

from labkit.cli.output import JsonOption, print_json, say


def fetch(
    name: Annotated[str, typer.Argument(help="gptj-tiny (built in) or gpt-j-6b (12 GB from the Hugging Face hub).")],
    json: JsonOption = False,
) -> None:
    """Download a model, or find it on this disk, and print its directory.

    A copy of the model in the cache of the Hugging Face hub (HF_HOME) or in LABKIT_HOME is used, even if the folder is
    read-only. An interrupted download continues where it stopped; the files are checked against the hub's SHA-256 sums. A
    download starts only if the disk has enough room.

    Example: labkit fetch gpt-j-6b
    """
    from labkit.checkpoints import fetch as fetch_model

    result = fetch_model(name)
    say(f"{name}: {result.bytes / 1e6:,.1f} MB, sha256 {result.sha256}")
    if json:
        print_json({"path": str(result.path), "bytes": result.bytes, "sha256": result.sha256})
    else:
        print(result.path)
