"""Models in the Hugging Face hub's own cache (`HF_HUB_CACHE`, or `hub` in `HF_HOME`), found without the network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from labkit.checkpoints.weight_files import names_of_files

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def named_snapshot(name: str) -> Path | None:
    """The folder of a repository on the hub (`owner/model`) that the cache has; None for any other name."""
    return cached_snapshot(name, ("main",)) if _NAME.fullmatch(name) and ".." not in name and "--" not in name else None


def cached_snapshot(repository: str, revisions: Sequence[str]) -> Path | None:
    """The folder of a repository's files in the cache, None where no whole model is there.

    Branches are looked at in the order of `revisions`, then the other commits that the cache has. A model is whole when its
    `config.json`, its tokenizer and every weight file are there.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    cache = Path(constants.HF_HUB_CACHE)
    found = [try_to_load_from_cache(repository, "config.json", cache_dir=cache, revision=name) for name in revisions]
    folders = [Path(config).parent for config in found if isinstance(config, str)]
    snapshots = cache / f"models--{repository.replace('/', '--')}" / "snapshots"
    with suppress(OSError):  # there is none, or it is another user's
        folders += sorted(snapshots.iterdir())
    return next((folder for folder in folders if is_whole(folder)), None)


def is_whole(folder: Path) -> bool:
    """Whether a folder has a config, a tokenizer and weights, and no weight file is missing."""
    tokenizer = (folder / "tokenizer.json").exists() or all((folder / name).exists() for name in ("vocab.json", "merges.txt"))
    weights = names_of_files(folder)
    return (folder / "config.json").exists() and tokenizer and bool(weights) and all((folder / f).exists() for f in weights)
