"""Reads the config of a directory in Hugging Face's layout: `config.json`, and the end tokens in `generation_config.json`."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

from labkit.config import GPTJConfig
from labkit.errors import InvalidRequest
from labkit.json_file import read_json_object

CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("min_length", "min_new_tokens", "no_repeat_ngram_size"), (0,)),
    **dict.fromkeys(("num_beams", "num_return_sequences", "num_beam_groups"), (1,)),
    **dict.fromkeys(("top_p", "typical_p", "temperature", "length_penalty", "repetition_penalty"), (1,)),
    **dict.fromkeys(("diversity_penalty", "penalty_alpha"), (0,)),
    **dict.fromkeys(("do_sample", "early_stopping"), (False,)),
    **dict.fromkeys(("bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "sequence_bias"), ([],)),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id", "stop_strings"), ()),
    **{"top_k": (0, 50), "max_length": (20,), "max_new_tokens": ()},
}
"""Settings that `transformers` uses as defaults for generation, each with the values that have no effect."""


def read_config(folder: Path) -> GPTJConfig:
    """The config of a folder, with the end tokens of `generation_config.json` if there is such a file.

    As in `transformers`, the `eos_token_id` (one token id or a list of ids) and `bos_token_id` in this file replace the ids in
    `config.json`. If `generation_config.json` does not set one of these ids, the id in `config.json` is kept (unlike in
    `transformers`, which would then have no end token). All other settings of the file are ignored (`do_sample`, `temperature`,
    `top_k`, `top_p`, beams, penalties, lengths, banned and forced tokens). `SamplingParams` decides how tokens are chosen, and
    its defaults are the same for every model. A warning names the ignored settings that `transformers` would have used.

    Raises an `InvalidRequest` that names the file and what is wrong with it.
    """
    config = GPTJConfig.from_file(folder / CONFIG)
    path = folder / GENERATION_CONFIG
    if not path.exists():
        return config
    try:
        values = read_json_object(path)
        ends = {name: values[name] for name in ("bos_token_id", "eos_token_id") if values.get(name) is not None}
        config = dataclasses.replace(config, **ends)
    except (OSError, ValueError) as error:  # InvalidRequest is a ValueError
        raise InvalidRequest(f"cannot read {path} as a generation config: {error}") from error
    if ignored := [f"{name} {values[name]!r:.40}" for name, neutral in _NEUTRAL.items() if _differs(values.get(name), neutral)]:
        warnings.warn(
            f"{path} sets {', '.join(ignored)}; labkit only uses its end tokens; set the others with SamplingParams "
            "or the options of the command line",
            stacklevel=1,
        )
    return config


def _differs(value: Any, neutral: tuple[Any, ...]) -> bool:
    return value is not None and value not in neutral
