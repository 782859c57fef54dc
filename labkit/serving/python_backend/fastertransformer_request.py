"""Converts FasterTransformer's input tensors to prompts and sampling parameters, and completions to its output tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.errors import InvalidRequest
from labkit.plurals import counted
from labkit.serving.python_backend.word_lists import from_word_lists
from labkit.serving.repository.tensors import SAMPLING_INPUTS

Arrays = Mapping[str, NDArray[Any]]
"""The inputs that a request gives, by name. The first dimension of each array is the batch."""


def prompts_of(arrays: Arrays) -> list[list[int]]:
    """The prompt of each row as token ids, without padding. Raises `InvalidRequest` for wrong shapes and lengths."""
    ids, lengths = arrays["input_ids"], arrays["input_lengths"].reshape(-1)
    if ids.ndim != 2 or len(lengths) != len(ids):
        raise InvalidRequest(
            f"input_ids has shape {list(ids.shape)} and input_lengths {counted(len(lengths), 'value')}; [batch, tokens] and "
            "one length per row are accepted"
        )
    if lengths.max() > ids.shape[1]:
        raise InvalidRequest(f"input_lengths holds {lengths.max()}, but input_ids has {ids.shape[1]} columns")
    return [row[:length].tolist() for row, length in zip(ids, lengths.tolist(), strict=True)]


def sampling_of(arrays: Arrays) -> list[dict[str, Any]]:
    """The arguments of `SamplingParams` for each row, with FasterTransformer's defaults and rules.

    Decoding is greedy if top-k and top-p are both missing or 0, or if top-k is 1. The default temperature is 1, and the default
    seed and length penalty are 0. Beam search ignores top-k and top-p. Raises `InvalidRequest` for shapes and values that are
    not accepted.
    """
    rows = len(arrays["input_ids"])
    asked = arrays["request_output_len"]
    if asked.shape != (rows, 1):
        raise InvalidRequest(
            f"request_output_len has shape {list(asked.shape)} for {counted(rows, 'prompt')}; [batch, 1] is accepted"
        )
    columns = {spec.name: _column(arrays, spec.name, rows) for spec in SAMPLING_INPUTS if spec.name in arrays}
    if len(widths := set(columns.get("beam_width", ()))) > 1:
        raise InvalidRequest(
            f"beam_width holds {sorted(widths)}; all prompts of a request need the same width, so send separate requests"
        )
    return [
        _row({name: values[row] for name, values in columns.items()}, int(asked[row, 0])) | _words(arrays, row)
        for row in range(rows)
    ]


def _column(arrays: Arrays, name: str, rows: int) -> list[Any]:
    values: list[Any] = arrays[name].reshape(-1).tolist()
    if len(values) not in (1, rows):
        raise InvalidRequest(
            f"{name} has {counted(len(values), 'value')} for {counted(rows, 'prompt')}; one value or one per prompt is accepted"
        )
    return values * rows if len(values) == 1 else values


def _row(given: dict[str, Any], new_tokens: int) -> dict[str, Any]:
    """The arguments for one prompt, from FasterTransformer's names and defaults."""
    if given.pop("prompt_learning_task_name_ids", 0):
        raise InvalidRequest("prompt_learning_task_name_ids names a task, and this server has none; give 0 or leave it out")
    params: dict[str, Any] = {"max_new_tokens": new_tokens, "seed": given.get("random_seed", 0)}
    for theirs, ours in (("start_id", "start_token_id"), ("end_id", "end_token_id"), ("repetition_penalty",) * 2):
        if theirs in given:
            params[ours] = given[theirs]
    _check_numbers(given)
    if given.get("is_return_log_probs"):
        params["logprobs"] = 0
    temperature = given.get("temperature", 1.0)
    if (beams := given.get("beam_width", 1)) < 1:
        raise InvalidRequest(f"beam_width is {beams}; 1 (no beam search) or more is accepted")
    if beams != 1:
        diversity = given.get("beam_search_diversity_rate", 0.0)
        length_penalty = given.get("len_penalty", 0.0)
        return params | {
            "num_beams": beams,
            "num_samples": beams,
            "temperature": temperature,
            "length_penalty": length_penalty,
            "diversity_rate": diversity,
        }
    top_k, top_p = given.get("runtime_top_k", 0), given.get("runtime_top_p", 0.0)
    greedy = top_k == 1 or (top_k == 0 and top_p == 0)
    params |= {"temperature": 0.0 if greedy else temperature}
    if not greedy:
        params |= {"top_k": top_k, "top_p": top_p or 1.0}
    for name in ("top_p_decay", "top_p_min"):
        if name in given:
            params[name] = given[name]
    if "top_p_reset_ids" in given:
        params["top_p_reset_ids"] = [given["top_p_reset_ids"]]
    return params


def _check_numbers(given: dict[str, Any]) -> None:
    """Raise `InvalidRequest` for a meaningless number, even if beam search or greedy decoding would ignore it."""
    for name, value in given.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidRequest(f"{name} is {value}; a finite number is accepted")
    if (temperature := given.get("temperature", 1.0)) < 0:
        raise InvalidRequest(f"temperature is {temperature:g}; 0 (greedy) or above is accepted")
    if not 0 <= (top_p := given.get("runtime_top_p", 0.0)) <= 1:
        raise InvalidRequest(f"runtime_top_p is {top_p:g}; 0 (off) to 1 is accepted")


def _words(arrays: Arrays, row: int) -> dict[str, Any]:
    found = {}
    for theirs, ours in (("bad_words_list", "bad_words"), ("stop_words_list", "stop")):
        if theirs in arrays:
            lists = arrays[theirs]
            if lists.ndim == 3 and len(lists) != len(arrays["input_ids"]):
                raise InvalidRequest(
                    f"{theirs} has {counted(len(lists), 'row')} for "
                    f"{counted(len(arrays['input_ids']), 'prompt')}; one row per prompt is accepted"
                )
            found[ours] = from_word_lists(lists[row] if lists.ndim == 3 else lists, theirs)
    return found


def outputs_of(
    prompts: Sequence[Sequence[int]], completions: Sequence[Mapping[str, Any]], end_token: int
) -> dict[str, NDArray[Any]]:
    """The output tensors of a request. completions: the completions from `RemoteEngine`, the same number for each prompt.

    The end token or stop word that ended a text is part of `output_ids`, but `sequence_length` does not count it.
    """
    rows, beams = len(prompts), len(completions) // len(prompts)
    made = [completion["token_ids"] for completion in completions]
    longest = max(len(prompt) + len(made[row * beams + beam]) for row, prompt in enumerate(prompts) for beam in range(beams))
    ids = np.full((rows, beams, longest), end_token, np.uint32)
    lengths = np.zeros((rows, beams), np.uint32)
    log_probs = np.zeros((rows, beams, max(map(len, made))), np.float32)
    for row, prompt in enumerate(prompts):
        for beam in range(beams):
            completion = completions[row * beams + beam]
            tokens, scores = [*prompt, *completion["token_ids"]], completion["logprobs"]
            ids[row, beam, : len(tokens)] = tokens
            lengths[row, beam] = len(tokens) - completion["stop_tokens"]
            log_probs[row, beam, : len(scores)] = scores
    return {
        "output_ids": ids,
        "sequence_length": lengths,
        "text_length": lengths,
        "cum_log_probs": log_probs.sum(-1, dtype=np.float64).astype(np.float32),
        "output_log_probs": log_probs,
    }
