"""The tokenizer returns the same ids and the same text as transformers."""

from __future__ import annotations

import json
import random
import shutil
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
    """A mixture of characters from all parts of Unicode and of words that a tokenizer knows."""
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
    with pytest.raises(InvalidRequest, match=r"the text holds '\\u\w{4}', half a character, which UTF-8 cannot encode"):
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


# What else a tokenizer.json can hold -------------------------------------------------------------------------------------
END = "<|endoftext|>"
FIXED = {"strategy": {"Fixed": 8}, "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": END}
BEGINNING = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": END, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {END: {"id": END, "ids": [0], "tokens": [END]}},
}
ADDED = {"id": 8192, "content": "foo", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
SAID = ["In the beginning God created", "In", f"  Hello{END}  World ", "É cafe\u0301 ABC.", "a foo b  foo  bfoob", ""]


def variant(folder: Path, changes: dict[str, Any]) -> Path:
    """The tokenizer of `gptj-tiny`, with some parts of its file changed."""
    content = json.loads((TINY / "tokenizer.json").read_text("utf-8"))
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(content[key], dict) and "type" not in value:
            content[key] |= value
        elif isinstance(value, list):
            content[key] += value
        else:
            content[key] = value
    for name in ("config.json", "tokenizer_config.json"):
        shutil.copyfile(TINY / name, folder / name)
    (folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}, "padding": FIXED},
        {"padding": FIXED | {"strategy": "BatchLongest", "pad_to_multiple_of": 4}},
        {"post_processor": BEGINNING},
        {"normalizer": {"type": "NFC"}},
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": {"add_prefix_space": True}},
        *({"added_tokens": [ADDED | {"special": special}]} for special in (False, True)),
        *(
            {"added_tokens": [ADDED | {"special": False, key: True}]}
            for key in ("lstrip", "rstrip", "single_word", "normalized")
        ),
    ],
    ids=lambda changes: json.dumps(changes)[:60],
)
def test_variants_of_the_file_equal_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = variant(tmp_path, changes)
    ours, theirs = Tokenizer(folder / "tokenizer.json"), transformers.AutoTokenizer.from_pretrained(folder)
    for text in SAID:
        ids = theirs(text)["input_ids"]
        assert ours.encode(text) == ids
        assert ours.encode(text, whole=False) == theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_what_a_saved_tokenizer_was_last_called_with_changes_nothing(tmp_path: Path, ours: Tokenizer) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(TINY)
    theirs.pad_token = theirs.eos_token
    theirs("In", truncation=True, max_length=8, padding="max_length")
    theirs.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    assert content["padding"] is not None
    assert content["truncation"] is not None
    saved = Tokenizer(tmp_path / "tokenizer.json")
    for text in SAID:
        assert saved.encode(text) == ours.encode(text)


def test_dropout_of_a_training_run_is_off(tmp_path: Path, ours: Tokenizer) -> None:
    saved = Tokenizer(variant(tmp_path, {"model": {"dropout": 0.5}}) / "tokenizer.json")
    for text in SAID * 3:
        assert saved.encode(text) == ours.encode(text)


def test_the_names_of_special_tokens(tmp_path: Path, ours: Tokenizer) -> None:
    assert ours.special_tokens == {0: END}
    changes = {"added_tokens": [ADDED | {"special": True}, ADDED | {"id": 8193, "content": "bar", "special": False}]}
    assert Tokenizer(variant(tmp_path, changes) / "tokenizer.json").special_tokens == {0: END, 8192: "foo"}
