"""The tokenizer gives the ids and the text that transformers gives."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import transformers

from labkit.checkpoints import Tokenizer
from labkit.errors import CheckpointError, InvalidRequest
from tests.checkpoints.hub import TINY

RANGES = [(0x20, 0x7E), (0x20, 0x7E), (0x00, 0xFF), (0x100, 0x17F), (0x370, 0x5FF), (0x900, 0x97F), (0x2000, 0x20CF)]
RANGES += [(0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xE000, 0xFFFF), (0x1F300, 0x1FAFF), (0x10000, 0x10FFFF)]
WORDS = ["the ", " President", "don't", "\n\n", "   ", "\t", "1776", " é", "e\u0301", "👩‍👩‍👧", "\r\n", "<|endoftext|>"]


@pytest.fixture(scope="module")
def ours() -> Tokenizer:
    return Tokenizer(TINY / "tokenizer.json")


@pytest.fixture(scope="module")
def theirs() -> Any:
    return transformers.AutoTokenizer.from_pretrained(TINY)


def random_texts(count: int, seed: int) -> list[str]:
    """Characters of all of Unicode's parts, and words that a tokenizer knows, mixed."""
    rng = random.Random(seed)

    def piece() -> str:
        if rng.random() < 0.4:
            return rng.choice(WORDS)
        return "".join(chr(rng.randint(*rng.choice(RANGES))) for _ in range(rng.randint(1, 4)))

    return ["".join(piece() for _ in range(rng.randint(1, 30))) for _ in range(count)]


def test_text_to_ids_and_back_equal_transformers(ours: Tokenizer, theirs: Any) -> None:
    prose = (TINY / "held_out_sample.txt").read_text("utf-8")[:20_000]
    texts = ["", " ", *WORDS, *random_texts(400, 1), prose]
    for text in texts:
        ids = theirs(text)["input_ids"]
        assert ours.encode(text) == ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
        if "<|endoftext|>" not in text:
            assert ours.decode(ids) == text
    assert len({token for text in texts for token in ours.encode(text)}) > 500


def test_any_ids_to_text_equal_transformers(ours: Tokenizer, theirs: Any) -> None:
    rng = random.Random(2)
    for _ in range(400):
        ids = [rng.randrange(ours.vocab_size if rng.random() < 0.5 else 400) for _ in range(rng.randint(0, 20))]
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_the_bytes_of_tokens_make_the_text(ours: Tokenizer) -> None:
    for text in random_texts(200, 3):
        ids = ours.encode(text)
        assert b"".join(map(ours.token_bytes, ids)) == text.replace("<|endoftext|>", "").encode("utf-8")
    assert ours.token_bytes(ours.encode("<|endoftext|>")[0]) == b""
    assert ours.token_bytes(10**6) == b""
    assert all(ours.token_bytes(token) for token in range(1, ours.vocab_size))


def test_the_size_is_that_of_transformers(ours: Tokenizer, theirs: Any) -> None:
    assert ours.vocab_size == len(theirs) > 4000


@pytest.mark.parametrize("text", ["\ud800", "ab\udfffc", "\ude00\ud83d"])
def test_half_a_character_is_refused(ours: Tokenizer, text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"the text holds '\\u\w{4}', half a character that UTF-8 cannot write"):
        ours.encode(text)


@pytest.mark.parametrize("text", [None, 3, b"bytes", ["a"]])
def test_what_is_no_text_is_refused(ours: Tokenizer, text: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"text to tokenize is .*; a string is accepted"):
        ours.encode(text)


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff"])
def test_a_file_that_is_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"cannot read the tokenizer \S*tokenizer\.json"):
        Tokenizer(path)
