"""Reads the tokenizer of a directory: `tokenizer.json`, or GPT-2's older files `vocab.json` and `merges.txt`."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labkit.errors import CheckpointError, NotAvailable
from labkit.json_file import MOST_INDEX_BYTES, read_json_object
from labkit.tokenizer import Tokenizer

TOKENIZER, VOCAB, MERGES = "tokenizer.json", "vocab.json", "merges.txt"
ADDED, SPECIAL = "added_tokens.json", "special_tokens_map.json"
END_OF_TEXT = "<|endoftext|>"
"""The special token of GPT-2's tokenizer, used if no file names special tokens."""
MOST_PADDING = 1024
"""A model's vocabulary is often padded, for example to a multiple of 128 per rank.

If more entries than this are unused, they are too many to be padding: the tokenizer probably belongs to another model.
"""


def find_tokenizer(folders: Sequence[Path], vocab_size: int) -> Tokenizer:
    """The tokenizer in the first folder that has a tokenizer, for a model of `vocab_size` tokens.

    Raises `NotAvailable` if no folder has a tokenizer. Raises a `CheckpointError` that names the file if the tokenizer cannot
    be read or has more tokens than the model.
    """
    for folder in folders:
        if (folder / TOKENIZER).exists():
            tokenizer = Tokenizer(folder / TOKENIZER)
        elif (folder / VOCAB).exists() and (folder / MERGES).exists():
            tokenizer = Tokenizer(folder / VOCAB, _from_vocabulary(folder))
        else:
            continue
        _check_size(tokenizer, vocab_size)
        return tokenizer
    raise NotAvailable(
        f"{folders[0]} has no tokenizer, neither {TOKENIZER} nor {VOCAB} with {MERGES}; give prompts as token ids, or copy "
        "these files there"
    )


def _check_size(tokenizer: Tokenizer, vocab_size: int) -> None:
    plain, highest = tokenizer.highest_ids
    sizes = f"the tokenizer {tokenizer.path} has token ids up to {highest}, but the model's vocabulary has {vocab_size} tokens"
    if plain >= vocab_size:
        raise CheckpointError(f"{sizes} (vocab_size in config.json); give the tokenizer that belongs to the model")
    if highest >= vocab_size:
        warnings.warn(f"{sizes}: prompts that contain an added token above that are refused", stacklevel=1)
    elif vocab_size - highest > MOST_PADDING:
        warnings.warn(f"{sizes}: token ids without an entry have no text; is this the tokenizer of the model?", stacklevel=1)


def _from_vocabulary(folder: Path) -> str:
    """Build the text of a `tokenizer.json` that gives the same tokens as transformers' GPT-2 class with the older files."""
    from tokenizers import models

    settings, special, vocab = (_read(folder / name) for name in ("tokenizer_config.json", SPECIAL, VOCAB))
    try:
        if not vocab or any(type(token) is not int or token < 0 for token in vocab.values()):
            raise ValueError("its vocabulary is not a JSON object with a token id for each token")
        merges = models.BPE.read_file(str(folder / VOCAB), str(folder / MERGES))[1]
    except Exception as error:  # the library raises a plain Exception
        raise CheckpointError(f"cannot read the tokenizer {folder / VOCAB} with {MERGES}: {error}") from error
    byte_level = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": _added_tokens(folder, vocab, settings, special),
            "pre_tokenizer": byte_level | {"add_prefix_space": settings.get("add_prefix_space") is True},
            "decoder": byte_level | {"add_prefix_space": True},
            "model": {"type": "BPE", "vocab": vocab, "merges": [list(pair) for pair in merges]},
        }
    )


def _added_tokens(folder: Path, vocab: dict[str, int], *settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The added tokens in the form of `tokenizer.json`, ordered by id.

    Added tokens are the special tokens and the tokens that were added after the vocabulary was trained. A tokenizer looks for
    these tokens in a text before it does anything else.
    """
    special = [value for part in settings for name, value in part.items() if name.endswith("_token")]
    special += [value for part in settings for value in _list(part.get("additional_special_tokens"))]
    names = {value.get("content") if isinstance(value, dict) else value for value in special}
    found = {name for name in names if isinstance(name, str)} or {END_OF_TEXT}
    ids = {name: vocab[name] for name in found if name in vocab}
    ids |= _read(folder / ADDED)
    for token, row in _dict(settings[0].get("added_tokens_decoder")).items():
        if isinstance(row, dict) and isinstance(name := row.get("content"), str) and token.isdecimal():
            ids[name] = int(token)
            found |= {name} if row.get("special") is True else set()
    _check_ids(folder, vocab, ids)
    for name in sorted(found - ids.keys()):
        ids[name] = 1 + max([*vocab.values(), *ids.values()])
    rules = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    rows = [{"id": token, "content": name, "special": name in found, **rules} for name, token in ids.items()]
    return sorted(rows, key=lambda row: int(row["id"]))


def _check_ids(folder: Path, vocab: dict[str, int], ids: dict[str, Any]) -> None:
    """Raise `CheckpointError` unless each added token has its id in the vocabulary, or the next free id."""
    if wrong := [name for name, token in ids.items() if type(token) is not int or vocab.get(name, token) != token]:
        raise CheckpointError(f"{folder}: the added token {wrong[0]!r:.80} has a wrong id, {ids[wrong[0]]!r:.40}")
    expected = itertools.count(1 + max(vocab.values()))
    for name in sorted(ids.keys() - vocab.keys(), key=lambda name: int(ids[name])):
        if ids[name] != (follows := next(expected)):
            raise CheckpointError(
                f"{folder}: the added token {name!r:.80} has the id {ids[name]}; the next id must be {follows}"
            )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _read(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty object if there is no such file."""
    if not path.exists():
        return {}
    try:
        return read_json_object(path, MOST_INDEX_BYTES)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
