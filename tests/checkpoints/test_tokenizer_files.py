"""A tokenizer from `vocab.json` and `merges.txt` equals transformers' GPT-2 tokenizer.

If the tokenizer does not fit its model, an error names it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

import labkit
from labkit.checkpoints import open_checkpoint
from labkit.checkpoints.tokenizer_files import find_tokenizer
from labkit.errors import CheckpointError, NotAvailable
from labkit.serving.repository.writer import ServeSettings, write_repository
from labkit.tokenizer import Tokenizer
from tests.checkpoints.hub import TINY
from tests.checkpoints.test_tokenizer import WORDS, random_texts
from tests.models import random_peer

MORE = ["<|extra|>", "<tool>", "plain"]


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """The built-in model's tokenizer as GPT-2's files, without `tokenizer.json`."""
    model = json.loads((TINY / "tokenizer.json").read_text("utf-8"))["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]), "utf-8")
    lines = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n", "utf-8")
    return tmp_path


def assert_equal_transformers(folder: Path, more: list[str]) -> Tokenizer:
    theirs = transformers.GPT2Tokenizer.from_pretrained(folder)
    ours = find_tokenizer([folder], len(theirs))
    assert ours.vocab_size == len(theirs)
    texts = [*WORDS, *random_texts(150, 3), *(f"a {word}b{word} {word}" for word in more)]
    for text in texts:
        ids = theirs(text)["input_ids"]
        assert ours.encode(text) == ids, text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True), text
    return ours


def test_plain(older: Path) -> None:
    ours = assert_equal_transformers(older, [])
    whole = Tokenizer(TINY / "tokenizer.json")
    assert [ours.encode(text) for text in WORDS] == [whole.encode(text) for text in WORDS]


def test_with_added_and_special_tokens(older: Path) -> None:
    size = len(json.loads((older / "vocab.json").read_text()))
    (older / "added_tokens.json").write_text(json.dumps({name: size + number for number, name in enumerate(MORE)}))
    special = {
        "bos_token": "<|endoftext|>",
        "eos_token": {"content": "<|endoftext|>", "lstrip": False},
        "pad_token": "<|extra|>",
    }
    (older / "special_tokens_map.json").write_text(json.dumps(special))
    ours = assert_equal_transformers(older, MORE)
    assert [ours.encode(name) for name in MORE] == [[size], [size + 1], [size + 2]]
    assert ours.decode([size, size + 1]) == "<tool>"


def test_as_newer_transformers_writes_added_tokens(older: Path) -> None:
    size = len(json.loads((older / "vocab.json").read_text()))
    rows = {size: {"content": "<tool>", "special": False}, size + 1: {"content": "<|extra|>", "special": True}}
    rows |= {0: {"content": "<|endoftext|>", "special": True}}
    plain = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    config = {"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": {key: row | plain for key, row in rows.items()}}
    (older / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": "<|endoftext|>"}))
    assert assert_equal_transformers(older, ["<tool>", "<|extra|>"]).encode("<tool>") == [size]


def test_a_directory_with_them_takes_texts_and_is_served(older: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(TINY / name, older)
    whole = Tokenizer(TINY / "tokenizer.json")
    with labkit.load(older, device="cpu", num_slots=64) as engine:
        output = engine.generate("In the beginning", labkit.SamplingParams(max_new_tokens=4))[0]
    assert whole.encode(output.prompt + output.text) == whole.encode("In the beginning") + output.token_ids
    folder = tmp_path_factory.mktemp("repository")
    assert "preprocessing" in write_repository(folder, ServeSettings(model=str(older)))
    converted = labkit.checkpoints.convert(older, tmp_path_factory.mktemp("out"), "fastertransformer").path
    for ours in (Tokenizer(folder / "preprocessing" / "1" / "tokenizer.json"), open_checkpoint(converted).tokenizer()):
        assert [ours.encode(word) for word in WORDS] == [whole.encode(word) for word in WORDS]


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("vocab.json", "{", r"cannot read .*vocab\.json"),
        ("vocab.json", '{"a": "b"}', r"cannot read the tokenizer .*vocab\.json"),
        ("merges.txt", "#version: 0.2\nno-such pair-at all\n", r"cannot read the tokenizer .*merges\.txt"),
        ("merges.txt", "#version: 0.2\nqzx qzy\n", r"cannot read the tokenizer .*vocab\.json"),
        ("added_tokens.json", "[]", r"cannot read .*added_tokens\.json"),
        ("added_tokens.json", '{"<a>": 9999}', r"'<a>' has the id 9999; the next id must be \d+"),
        ("added_tokens.json", '{"<a>": "x"}', r"'<a>' has a wrong id, 'x'"),
        ("tokenizer_config.json", '{"a": 1, "a": 2}', r"cannot read .*tokenizer_config\.json: it names 'a' twice"),
        ("tokenizer.json", '{"model": 3}', r"cannot read the tokenizer .*tokenizer\.json"),
        ("tokenizer.json", "", r"cannot read the tokenizer .*tokenizer\.json"),
    ],
)
def test_flaws_are_named(older: Path, file: str, content: str, said: str) -> None:
    (older / file).write_text(content)
    with pytest.raises(CheckpointError, match=said):
        find_tokenizer([older], 5000)


def test_neither_form(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(NotAvailable, match=r"has no tokenizer, neither tokenizer\.json nor vocab\.json with merges\.txt"):
        find_tokenizer([tmp_path], 5)


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    """A tokenizer with more tokens than the model is refused; one with far fewer gives a warning. The error and the warning
    name both sizes.
    """
    random_peer("head of 32, rotary of all", 1).save_pretrained(tmp_path)
    shutil.copy(TINY / "tokenizer.json", tmp_path)
    highest = Tokenizer(TINY / "tokenizer.json").highest_ids[1]
    with pytest.raises(CheckpointError, match=rf"token ids up to {highest}, but the model's vocabulary has 97 tokens"):
        labkit.load(tmp_path, device="cpu")
    with pytest.warns(UserWarning, match=rf"token ids up to {highest}, but the model's vocabulary has 50400 tokens"):
        find_tokenizer([tmp_path], 50400)


def test_an_added_token_beyond_the_model(older: Path) -> None:
    size = len(json.loads((older / "vocab.json").read_text()))
    (older / "added_tokens.json").write_text(json.dumps({"<pad>": size}))
    for name in ("config.json", "model.safetensors"):
        shutil.copy(TINY / name, older)
    vocab_size = open_checkpoint(older).config.vocab_size
    if vocab_size > size:
        pytest.skip("the built-in model's vocabulary is padded")
    with pytest.warns(UserWarning, match="prompts that contain an added token above that are refused"):
        engine = labkit.load(older, device="cpu", num_slots=256)
    with pytest.raises(labkit.errors.InvalidRequest, match=f"a prompt holds {size}"):
        engine.generate("a <pad>")
    assert torch.isfinite(engine.logits([5])).all()
