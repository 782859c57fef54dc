"""Finds models in the Hugging Face hub's own cache (`HF_HUB_CACHE`, or `hub` in `HF_HOME`) without using the network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from labkit.checkpoints.weight_files import names_of_files

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def named_snapshot(name: str) -> Path | None:
    """The folder of a repository (`owner/model`) in the cache.

    Returns None if the repository is not in the cache, or if the name does not have the form `owner/model`.
    """
    return cached_snapshot(name, ("main",)) if _NAME.fullmatch(name) and ".." not in name and "--" not in name else None


def cached_snapshot(repository: str, revisions: Sequence[str]) -> Path | None:
    """The folder in the cache that holds a repository's files, or None if the cache holds no complete model.

    The branches in `revisions` are tried in order, then all other commits in the cache. A model is complete if it has a
    `config.json`, a tokenizer and every weight file.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    cache = Path(constants.HF_HUB_CACHE)
    found = [try_to_load_from_cache(repository, "config.json", cache_dir=cache, revision=name) for name in revisions]
    folders = [Path(config).parent for config in found if isinstance(config, str)]
    snapshots = cache / f"models--{repository.replace('/', '--')}" / "snapshots"
    with suppress(OSError):  # the folder does not exist, or belongs to another user
        folders += sorted(snapshots.iterdir())
    return next((folder for folder in folders if is_whole(folder)), None)


def is_whole(folder: Path) -> bool:
    """Whether a folder has a config, a tokenizer and every weight file."""
    tokenizer = (folder / "tokenizer.json").exists() or all((folder / name).exists() for name in ("vocab.json", "merges.txt"))
    weights = names_of_files(folder)
    return (folder / "config.json").exists() and tokenizer and bool(weights) and all((folder / f).exists() for f in weights)
