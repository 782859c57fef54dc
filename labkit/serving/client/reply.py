"""The results of a client of `gptj`: a whole text, or pieces of a text. They are read from the protocol's responses."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labkit.serving.repository.tensors import GPTJ_OUTPUTS

_TYPES = {spec.name: spec.numpy_type for spec in GPTJ_OUTPUTS}


@dataclass(frozen=True)
class Ending:
    """How a text ended.

    finish_reason: "stop", "length" or "banned". stop_reason: the stop text, or the stop token as text, that ended the
    text; None if neither did. prompt_tokens, completion_tokens: the numbers of tokens in the prompt and in the new text.
    queue_seconds: how long the prompt waited in the server before the step that generated the first token.
    """

    finish_reason: str
    stop_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    queue_seconds: float


@dataclass(frozen=True)
class Piece:
    """A part of a streamed text, usually one token. `text` is empty while a character is incomplete.

    token_ids: the new tokens. logprobs: the natural logarithm of each token's probability; empty unless asked for. last: how
    the text ended; None in all pieces except the last piece.
    """

    text: str
    token_ids: list[int]
    logprobs: list[float]
    last: Ending | None = None


@dataclass(frozen=True)
class Reply:
    """A whole text, with the fields of `Piece` and `Ending`."""

    text: str
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str
    stop_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    queue_seconds: float


def reply_of(pieces: Sequence[Piece]) -> Reply:
    """Join all pieces of a text; the last piece has the ending."""
    ending = pieces[-1].last
    assert ending is not None, "the last piece has no ending"
    return Reply(
        "".join(piece.text for piece in pieces),
        [token for piece in pieces for token in piece.token_ids],
        [logprob for piece in pieces for logprob in piece.logprobs],
        **vars(ending),
    )


def piece_of(response: Any) -> Piece:
    """Read a piece from the protocol's `ModelInferResponse`."""
    found = {
        tensor.name: _values(tensor.name, raw)
        for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)
        if tensor.name in _TYPES
    }
    last = None
    if "finish_reason" in found:
        last = Ending(
            found["finish_reason"],
            found["stop_reason"] or None,
            found["prompt_tokens"][0],
            found["completion_tokens"][0],
            found["queue_seconds"][0],
        )
    return Piece(found.get("text_output", ""), found.get("token_ids", []), found.get("logprobs", []), last)


def _values(name: str, raw: bytes) -> Any:
    """Decode a tensor of one string or of numbers. A string is its length (4 bytes, little-endian) and its UTF-8 bytes."""
    if _TYPES[name] is np.object_:
        return raw[4 : 4 + struct.unpack_from("<I", raw)[0]].decode("utf-8")
    return np.frombuffer(raw, _TYPES[name]).tolist()
