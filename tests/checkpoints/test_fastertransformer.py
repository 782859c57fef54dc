"""FasterTransformer's format: conversion in both directions is exact for every number of ranks. Each defect gives an error that
names it.
"""

from __future__ import annotations

import configparser
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import labkit
from labkit.checkpoints import convert, open_checkpoint
from labkit.checkpoints.tensor_file import TensorFile
from labkit.errors import CheckpointError, InvalidRequest
from tests.checkpoints.forms import CONFIG, files_of, load_all, same, write_source
from tests.models import random_prompts

HEADS = (1, 2, 4)
KINDS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@pytest.fixture(autouse=True)
def do_not_wait_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the wait for the disk after each of hundreds of small files; the tests of the conversion cover crashes."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_source(tmp_path / "source", 1)
    return tmp_path / "source"


@pytest.mark.parametrize("size", HEADS)
def test_files_are_those_of_the_original_converter(tmp_path: Path, size: int) -> None:
    """Here numpy makes each array in the published layout, without labkit's own writer."""
    weights = {name: tensor.numpy() for name, tensor in write_source(tmp_path / "source", 2).items()}
    done = convert(tmp_path / "source", tmp_path / "ft", "fastertransformer", tensor_parallel=size)
    assert done.path == tmp_path / "ft" / f"{size}-gpu"
    expected: dict[str, Any] = {
        "model.wte": weights["transformer.wte.weight"],
        "model.final_layernorm.weight": weights["transformer.ln_f.weight"],
        "model.final_layernorm.bias": weights["transformer.ln_f.bias"],
        "model.lm_head.weight": weights["lm_head.weight"],
        "model.lm_head.bias": weights["lm_head.bias"],
    }
    for layer in range(CONFIG.num_layers):
        ours = {name.split(".", 3)[3]: value for name, value in weights.items() if name.startswith(f"transformer.h.{layer}.")}
        theirs = f"model.layers.{layer}."
        expected[f"{theirs}input_layernorm.weight"] = ours["ln_1.weight"]
        expected[f"{theirs}input_layernorm.bias"] = ours["ln_1.bias"]
        expected[f"{theirs}mlp.dense_4h_to_h.bias"] = ours["mlp.fc_out.bias"]
        qkv = np.stack([ours[f"attn.{which}_proj.weight"] for which in "qkv"]).transpose(2, 0, 1)
        for name, array, axis in (
            ("attention.query_key_value.weight", qkv, -1),
            ("attention.dense.weight", ours["attn.out_proj.weight"].T, 0),
            ("mlp.dense_h_to_4h.weight", ours["mlp.fc_in.weight"].T, -1),
            ("mlp.dense_h_to_4h.bias", ours["mlp.fc_in.bias"], -1),
            ("mlp.dense_4h_to_h.weight", ours["mlp.fc_out.weight"].T, 0),
        ):
            for rank, part in enumerate(np.split(array, size, axis=axis)):
                expected[f"{theirs}{name}.{rank}"] = part
    found = files_of(done.path)
    assert len(expected) == CONFIG.num_layers * (3 + 5 * size) + 5
    assert set(found) == {f"{name}.bin" for name in expected} | {"config.ini"}
    for name, array in expected.items():
        assert found[f"{name}.bin"] == np.ascontiguousarray(array, dtype="<f4").tobytes(), name
    assert (done.files, done.bytes) == (len(found), sum(map(len, found.values())))

    ini = configparser.ConfigParser()
    ini.read(done.path / "config.ini")
    assert dict(ini["gptj"]) == {
        "model_name": "gptj",
        "head_num": "4",
        "size_per_head": "12",
        "inter_size": "88",
        "num_layer": "4",
        "rotary_embedding": "6",
        "vocab_size": "211",
        "start_id": "3",
        "end_id": "7",
        "weight_data_type": "fp32",
    }


@pytest.mark.parametrize("size", HEADS)
@pytest.mark.parametrize("stored", KINDS)
@pytest.mark.parametrize("written", [None, "same"])
def test_there_and_back_is_bit_equal(tmp_path: Path, size: int, stored: str, written: str | None) -> None:
    weights = write_source(tmp_path / "source", 3, KINDS[stored])
    precision = stored if written else None
    convert(tmp_path / "source", tmp_path / "ft", "fastertransformer", tensor_parallel=size, precision=precision)
    checkpoint = open_checkpoint(tmp_path / "ft" / f"{size}-gpu")
    same(checkpoint, {name: tensor if written else tensor.float() for name, tensor in weights.items()})
    assert checkpoint.config == CONFIG
    convert(tmp_path / "ft", tmp_path / "back", "hf")
    back = load_all(tmp_path / "back")
    assert set(back) == set(weights)
    for name, tensor in weights.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor), name
    assert open_checkpoint(tmp_path / "back").config == CONFIG


def test_sharding_again_is_sharding_at_once(tmp_path: Path, source: Path) -> None:
    for begin, size, end in (("source", 2, "direct"), ("source", 1, "a"), ("a/1-gpu", 4, "b"), ("b", 2, "c")):
        convert(tmp_path / begin, tmp_path / end, "fastertransformer", tensor_parallel=size)
    direct, again = files_of(tmp_path / "direct" / "2-gpu"), files_of(tmp_path / "c" / "2-gpu")
    assert direct == again


@pytest.mark.parametrize(
    ("name", "rows", "columns", "files"),
    [
        ("attn.k_proj.weight", slice(12, 20), None, {"attention.query_key_value.weight.1"}),
        ("attn.k_proj.weight", slice(20, 30), slice(1, 5), {f"attention.query_key_value.weight.{rank}" for rank in (1, 2)}),
        ("mlp.fc_in.weight", slice(66, 88), None, {"mlp.dense_h_to_4h.weight.3"}),
        ("mlp.fc_out.weight", None, slice(0, 22), {"mlp.dense_4h_to_h.weight.0"}),
        ("attn.out_proj.weight", slice(0, 1), None, {f"attention.dense.weight.{rank}" for rank in range(4)}),
        ("ln_1.bias", None, None, {"input_layernorm.bias"}),
    ],
)
def test_a_read_opens_the_files_it_needs(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, name: str, rows: Any, columns: Any, files: set[str]
) -> None:
    convert(source, tmp_path / "ft", "fastertransformer", tensor_parallel=4)
    opened: list[str] = []
    asked = 0
    plain, fill = TensorFile.read, TensorFile._fill

    def read(self: TensorFile, *arguments: Any) -> None:
        opened.append(self.path.name)
        plain(self, *arguments)

    def count(self: TensorFile, descriptor: int, entry: str, target: torch.Tensor, offset: int) -> None:
        nonlocal asked
        asked += target.numel() * target.element_size()
        fill(self, descriptor, entry, target, offset)

    monkeypatch.setattr(TensorFile, "read", read)
    monkeypatch.setattr(TensorFile, "_fill", count)
    checkpoint = open_checkpoint(tmp_path / "ft")
    assert not opened
    got = checkpoint.read(f"transformer.h.2.{name}", rows=rows, columns=columns)
    assert set(opened) == {f"model.layers.2.{file}.bin" for file in files}
    assert asked == got.numel() * 4


def test_greedy_tokens_are_those_of_the_source(tmp_path: Path, source: Path) -> None:
    convert(source, tmp_path / "ft", "fastertransformer", tensor_parallel=4)
    prompts = random_prompts(CONFIG.vocab_size, [1, 9, 20], 4)
    made = []
    for path in (source, tmp_path / "ft" / "4-gpu"):
        engine = labkit.load(path, device="cpu", dtype="fp32")
        made.append([output.token_ids for output in engine.generate(prompts, labkit.SamplingParams(max_new_tokens=15))])
    assert made[0] == made[1]
    assert len({token for row in made[0] for token in row}) > 5


@pytest.mark.parametrize(
    ("size", "nearest"),
    [
        (3, "the nearest size that does is 2"),
        (8, "the nearest size that does is 4"),
    ],
)
def test_a_size_that_does_not_divide(tmp_path: Path, source: Path, size: int, nearest: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"size is {size}; it must divide the 4 heads and the inner size 88 .*{nearest}"):
        convert(source, tmp_path / "ft", "fastertransformer", tensor_parallel=size)
    assert not (tmp_path / "ft").exists()


@pytest.mark.parametrize("size", [0, -2])
def test_a_size_below_1(tmp_path: Path, source: Path, size: int) -> None:
    with pytest.raises(InvalidRequest, match=f"tensor_parallel is {size}; a whole number of at least 1 is accepted"):
        convert(source, tmp_path / "ft", "fastertransformer", tensor_parallel=size)
    assert not (tmp_path / "ft").exists()


@pytest.mark.parametrize("flaw", ["missing", "short", "empty", "long"])
@pytest.mark.parametrize("victim", ["model.layers.3.attention.query_key_value.weight.1.bin", "model.lm_head.bias.bin"])
def test_a_file_that_is_missing_or_short(tmp_path: Path, source: Path, victim: str, flaw: str) -> None:
    path = convert(source, tmp_path / "ft", "fastertransformer", tensor_parallel=2).path / victim
    size = path.stat().st_size
    if flaw == "missing":
        path.unlink()
    else:
        os.truncate(path, {"short": size - 1, "empty": 0, "long": size + 4}[flaw])
    words = {"missing": "lacks", "long": "too long"}.get(flaw, "is short")
    with pytest.raises(CheckpointError, match=re.escape(victim)) as caught:
        labkit.load(tmp_path / "ft", device="cpu")
    assert words in str(caught.value)


def test_a_file_that_vanishes_or_holds_no_number(tmp_path: Path, source: Path) -> None:
    path = convert(source, tmp_path / "ft", "fastertransformer").path
    checkpoint = open_checkpoint(path)
    (path / "model.wte.bin").unlink()
    with pytest.raises(CheckpointError, match=r"cannot read .*model\.wte\.bin"):
        checkpoint.read("transformer.wte.weight")
    values = np.fromfile(path / "model.lm_head.bias.bin", "<f4")
    values[5] = np.nan
    values.tofile(path / "model.lm_head.bias.bin")
    with pytest.raises(CheckpointError, match=r"lm_head\.bias holds 1 value that is NaN"):
        checkpoint.read("lm_head.bias")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[gptj]", "[gpt]", r"no section \[gptj\], .* sections are: gpt, labkit"),
        ("head_num = 4\n", "", "lacks head_num"),
        ("head_num = 4", "head_num = four", "four"),
        ("weight_data_type = fp32", "weight_data_type = int8", "'int8'; fp32, fp16 or bf16"),
        ("weight_data_type = fp32", "weight_data_type = fp16", "too long"),
        ("size_per_head = 12", "size_per_head = 13", "is short"),
        ("[gptj]", "gptj", "cannot read"),
    ],
)
def test_a_config_that_is_none(tmp_path: Path, source: Path, old: str, new: str, words: str) -> None:
    config = convert(source, tmp_path / "ft", "fastertransformer", tensor_parallel=2).path / "config.ini"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    with pytest.raises((CheckpointError, InvalidRequest), match=words):
        open_checkpoint(tmp_path / "ft")


def test_a_config_of_the_original_converter(tmp_path: Path, source: Path) -> None:
    """A config of the original converter has no section named labkit, and may contain the word None."""
    config = convert(source, tmp_path / "ft", "fastertransformer").path / "config.ini"
    text = config.read_text().partition("[labkit]")[0].replace("start_id = 3", "start_id = None")
    text = text.replace("weight_data_type = fp32\n", "")  # release 5.0 did not write this line
    config.write_text(text)
    for precision in ("fp16", "bf16"):  # the unknown start_id stays unknown after the next conversion
        convert(tmp_path / "ft", tmp_path / precision, "fastertransformer", tensor_parallel=2, precision=precision)
        assert open_checkpoint(tmp_path / precision).config.bos_token_id is None
        assert "start_id = -1\n" in (tmp_path / precision / "2-gpu" / "config.ini").read_text()
    found = open_checkpoint(tmp_path / "ft").config
    assert (found.context_length, found.layer_norm_epsilon, found.bos_token_id, found.eos_token_id) == (2048, 1e-5, None, 7)


def test_several_folders_in_one(tmp_path: Path, source: Path) -> None:
    for size in (1, 2):
        convert(source, tmp_path / "ft", "fastertransformer", tensor_parallel=size)
    with pytest.raises(InvalidRequest, match="1-gpu, 2-gpu"):
        open_checkpoint(tmp_path / "ft")
    (tmp_path / "ft" / "2-gpu").rename(tmp_path / "renamed")
    assert torch.equal(
        open_checkpoint(tmp_path / "renamed").read("lm_head.weight"), open_checkpoint(source).read("lm_head.weight")
    )
