"""Directories of weights: every layout gives the weights of its source, and each defect gives an error that names it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import labkit
from labkit.checkpoints import expected_shapes, open_checkpoint
from labkit.errors import CheckpointError, InvalidRequest
from tests.models import random_peer, random_prompts

SHAPE = "rotary below the head"
VOCAB = 211
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LAYOUTS = ("one file", "sharded", "pytorch")
VICTIM = "transformer.h.1.mlp.fc_out.weight"


def save(peer: Any, directory: Path, layout: str = "one file") -> Path:
    """Write a transformers model as transformers does, or as a PyTorch file."""
    if layout == "pytorch":
        peer.config.save_pretrained(directory)
        torch.save(peer.state_dict(), directory / "pytorch_model.bin")
    else:
        peer.save_pretrained(directory, max_shard_size="150KB" if layout == "sharded" else "1GB")
    return directory


def rewrite(directory: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    """Change the tensors in a directory with a single weights file."""
    path = directory / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)
    return directory


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return save(random_peer(SHAPE, 1), tmp_path / "model")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("precision", DTYPES)
def test_logits_equal_those_of_transformers(tmp_path: Path, layout: str, precision: str) -> None:
    import transformers

    directory = save(random_peer(SHAPE, 5, DTYPES[precision]), tmp_path, layout)
    files = {path.name for path in directory.iterdir()}
    assert ("model.safetensors.index.json" in files) == (layout == "sharded")
    assert ("pytorch_model.bin" in files) == (layout == "pytorch")
    if layout == "sharded":
        assert len([name for name in files if name.endswith(".safetensors")]) > 2
    assert open_checkpoint(directory).weight_dtype == DTYPES[precision]

    engine = labkit.load(directory, device="cpu", dtype="fp32")
    assert engine.tokenizer is None
    peer = transformers.GPTJForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    prompts = random_prompts(VOCAB, [1, 19, 61, 4], 5)
    width = max(map(len, prompts))
    padded = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = peer(padded, attention_mask=mask, position_ids=positions).logits
    for prompt, row in zip(prompts, expected, strict=True):
        wanted = row[width - len(prompt) :]
        assert wanted.std() > 0.1
        assert (engine.logits(prompt) - wanted).norm() / wanted.norm() < 1e-5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_tensor_and_its_slices_equal_the_source(tmp_path: Path, layout: str) -> None:
    peer = random_peer(SHAPE, 2, torch.bfloat16)
    checkpoint = open_checkpoint(save(peer, tmp_path, layout))
    weights = peer.state_dict()
    assert checkpoint.path == tmp_path
    assert set(checkpoint.tensor_names()) == set(weights)
    for name, expected in weights.items():
        assert expected.float().norm() > 0
        assert torch.equal(checkpoint.read(name), expected), name
        assert torch.equal(checkpoint.read(name, rows=slice(3, 40)), expected[3:40]), name
        assert torch.equal(checkpoint.read(name, rows=slice(-5, None), dtype=torch.float32), expected[-5:].float()), name
        if expected.dim() == 2:
            assert torch.equal(checkpoint.read(name, columns=slice(17, 60)), expected[:, 17:60]), name
            part = checkpoint.read(name, rows=slice(8, 9), columns=slice(None, -1))
            assert torch.equal(part, expected[8:9, :-1]), name
    assert checkpoint.read(VICTIM, rows=slice(7, 2)).shape == (0, 384)
    assert checkpoint.read(VICTIM, columns=slice(400, 500)).shape == (96, 0)


def test_what_cannot_be_read_is_refused(whole: Path) -> None:
    checkpoint = open_checkpoint(whole)
    for name in ("transformer.h.2.ln_1.weight", "wte", ""):
        with pytest.raises(InvalidRequest, match=f"'{name}' is not a tensor of a GPT-J with 2 layers"):
            checkpoint.read(name)
    with pytest.raises(InvalidRequest, match="has a step"):
        checkpoint.read(VICTIM, rows=slice(0, 10, 2))
    with pytest.raises(InvalidRequest, match="has a step"):
        checkpoint.read(VICTIM, columns=slice(None, None, -1))
    with pytest.raises(InvalidRequest, match=r"ln_f\.bias has one dimension"):
        checkpoint.read("transformer.ln_f.bias", columns=slice(0, 2))


def test_a_missing_weight(whole: Path) -> None:
    with pytest.raises(CheckpointError, match=f"lacks the weight {VICTIM} "):
        labkit.load(rewrite(whole, lambda weights: weights.pop(VICTIM)))


def test_a_misshapen_weight(whole: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"{VICTIM} has shape \(96, 383\), but config\.json calls for \(96, 384\)"):
        labkit.load(rewrite(whole, lambda weights: weights.update({VICTIM: weights[VICTIM][:, 1:].contiguous()})))


def test_a_weight_of_whole_numbers(whole: Path) -> None:
    with pytest.raises(CheckpointError, match=f"lacks the weight {VICTIM} .*floating point"):
        labkit.load(rewrite(whole, lambda weights: weights.update({VICTIM: weights[VICTIM].to(torch.int8)})))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("layout", ["one file", "pytorch"])
def test_a_value_that_is_no_number(tmp_path: Path, value: float, layout: str) -> None:
    peer = random_peer(SHAPE, 1)
    with torch.no_grad():
        peer.state_dict()[VICTIM][-1, -2] = value
    directory = save(peer, tmp_path, layout)
    with pytest.raises(CheckpointError, match=f"{VICTIM} holds 1 value that is NaN or infinite as torch.float32"):
        labkit.load(directory, device="cpu")
    checkpoint = open_checkpoint(directory)
    assert checkpoint.read(VICTIM, rows=slice(0, -1)).isfinite().all()
    with pytest.raises(CheckpointError, match=VICTIM):
        checkpoint.read(VICTIM, columns=slice(-2, -1))


def test_a_value_too_large_for_half_precision(whole: Path) -> None:
    rewrite(whole, lambda weights: weights["lm_head.bias"].__setitem__(7, 70_000.0))
    assert labkit.load(whole, device="cpu", dtype="fp32").logits([1]).isfinite().all()
    assert labkit.load(whole, device="cpu", dtype="bf16").logits([1]).isfinite().all()
    with pytest.raises(CheckpointError, match=r"lm_head\.bias holds 1 value that is NaN or infinite as torch.float16"):
        labkit.load(whole, device="cpu", dtype="fp16")


@pytest.mark.parametrize("where", ["empty", "length", "header", "first", "middle", "last byte"])
@pytest.mark.parametrize("layout", ["one file", "sharded"])
def test_a_short_file(tmp_path: Path, where: str, layout: str) -> None:
    directory = save(random_peer(SHAPE, 1), tmp_path, layout)
    path = max(directory.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    header, size = int.from_bytes(path.read_bytes()[:8], "little"), path.stat().st_size
    cut = {"empty": 0, "length": 5, "header": header // 2, "first": 8 + header + 1, "middle": size // 2, "last byte": size - 1}
    os.truncate(path, cut[where])
    config = labkit.GPTJConfig.from_file(directory / "config.json")
    with pytest.raises(CheckpointError) as caught:
        labkit.load(directory)
    message = str(caught.value)
    assert str(path) in message
    if where in ("first", "middle", "last byte"):
        assert any(f"is cut off: {name} ends at byte" in message for name in expected_shapes(config))
    else:
        assert "is not a safetensors file, or is cut off" in message


def test_a_file_cut_while_it_is_read(whole: Path) -> None:
    checkpoint = open_checkpoint(whole)
    os.truncate(whole / "model.safetensors", (whole / "model.safetensors").stat().st_size // 2)
    with pytest.raises(CheckpointError, match=r"ended inside (transformer|lm_head)\.\S+: the file was cut"):
        [checkpoint.read(name) for name in checkpoint.tensor_names()]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data_offsets": [0, 4]}, "needs 384 bytes, but has 4"),
        ({"data_offsets": [-384, 0]}, "has the data_offsets"),
        ({"data_offsets": "ab"}, "not a safetensors file"),
        ({"shape": None}, "not a safetensors file"),
        ({"dtype": None}, "has the dtype None; F64, F32"),
    ],
)
def test_a_header_that_does_not_agree_with_itself(whole: Path, change: dict[str, Any], words: str) -> None:
    path = whole / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["transformer.ln_f.bias"].update(change)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    with pytest.raises(CheckpointError, match=words):
        labkit.load(whole)


@pytest.mark.parametrize("header", [b"[]", b"{}", b'{"a": 1}', b"\xff\xfe", b"{"])
def test_a_header_that_is_none(whole: Path, header: bytes) -> None:
    (whole / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match=r"not a safetensors file|lacks the weight transformer\.wte\.weight"):
        labkit.load(whole)


def sharded_index(directory: Path) -> tuple[Path, dict[str, Any]]:
    path = save(random_peer(SHAPE, 1), directory, "sharded") / "model.safetensors.index.json"
    return path, json.loads(path.read_text())


def test_an_index_that_names_an_absent_shard(tmp_path: Path) -> None:
    path, index = sharded_index(tmp_path)
    lost = index["weight_map"][VICTIM]
    (tmp_path / lost).unlink()
    with pytest.raises(CheckpointError, match=rf"lacks {lost}, which holds \S+ according to {path.name}"):
        labkit.load(tmp_path)
    index["weight_map"] = {VICTIM: lost} | {name: file for name, file in index["weight_map"].items() if file != lost}
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=f"lacks {lost}, which holds {VICTIM} according to {path.name}"):
        labkit.load(tmp_path)


def test_an_index_that_names_an_absent_tensor(tmp_path: Path) -> None:
    path, index = sharded_index(tmp_path)
    index["weight_map"][VICTIM] = next(file for file in index["weight_map"].values() if file != index["weight_map"][VICTIM])
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=f"lacks {VICTIM}, which this file should hold according to {path.name}"):
        labkit.load(tmp_path)
    del index["weight_map"][VICTIM]
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=f"lacks the weight {VICTIM}"):
        labkit.load(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_an_index_that_is_none(tmp_path: Path, text: str) -> None:
    path, _ = sharded_index(tmp_path)
    path.write_text(text)
    with pytest.raises(CheckpointError, match=f"{path.name} is not a safetensors index"):
        labkit.load(tmp_path)


def test_an_index_may_name_masks_which_are_no_weights(tmp_path: Path) -> None:
    path, index = sharded_index(tmp_path)
    shard = tmp_path / index["weight_map"][VICTIM]
    mask = "transformer.h.0.attn.bias"
    save_file(load_file(shard) | {mask: torch.ones(1, 1, 4, 4, dtype=torch.bool)}, shard)
    index["weight_map"][mask] = shard.name
    path.write_text(json.dumps(index))
    assert labkit.load(tmp_path, device="cpu").logits([3, 5]).std() > 0.1


def checksums(directory: Path, form: str = "{sum}  {name}\n") -> Path:
    sums = [(hashlib.sha256(path.read_bytes()).hexdigest(), path.name) for path in sorted(directory.iterdir())]
    (directory / "SHA256SUMS").write_text("".join(form.format(sum=digest, name=name) for digest, name in sums))
    return directory / "SHA256SUMS"


@pytest.mark.parametrize("form", ["{sum}  {name}\n", "{sum} *{name}\n", "{sum}  ./{name}\r\n\n"])
def test_checksums_are_compared(whole: Path, form: str) -> None:
    checksums(whole, form)
    assert labkit.load(whole, device="cpu").logits([3, 5]).std() > 0.1
    rewrite(whole, lambda weights: weights[VICTIM].mul_(1.001))
    with pytest.raises(CheckpointError, match=r"model\.safetensors has sha256 \w{64}, but SHA256SUMS says \w{64}"):
        labkit.load(whole)
    (whole / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks model\.safetensors, which SHA256SUMS lists"):
        labkit.load(whole)


@pytest.mark.parametrize("text", ["nonsense\n", "0123  model.safetensors\n", "a" * 64 + "\n"])
def test_checksums_that_are_none(whole: Path, text: str) -> None:
    (whole / "SHA256SUMS").write_text(text)
    with pytest.raises(CheckpointError, match=r"SHA256SUMS has a line .*only lines in the format of sha256sum are accepted"):
        labkit.load(whole)


def edit_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "llama"}, "model of type 'llama'; labkit runs GPT-J"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is true; GPT-J has an untied head"),
        ({"n_embd": None}, "lacks n_embd"),
        ({"n_layer": "2"}, "num_layers is '2'"),
        ({"activation_function": "relu"}, "activation_function 'relu'"),
    ],
)
def test_a_config_that_is_no_gptj(whole: Path, changes: dict[str, Any], words: str) -> None:
    edit_config(whole, **changes)
    with pytest.raises(InvalidRequest, match=words):
        labkit.load(whole)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe\x00"])
def test_an_unreadable_config(whole: Path, content: bytes) -> None:
    (whole / "config.json").write_bytes(content)
    with pytest.raises(InvalidRequest, match=r"config\.json"):
        labkit.load(whole)


def test_no_config_and_no_weights(whole: Path) -> None:
    (whole / "model.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"holds no weights; one of the files model\.safetensors, .* and pytorch_model\.bin"
    ):
        labkit.load(whole)
    (whole / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        labkit.load(whole)


class Malice:
    """An object that creates a file when a careless reader unpickles it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_a_pickle_cannot_run_code(tmp_path: Path) -> None:
    peer = random_peer(SHAPE, 1)
    directory, mark = save(peer, tmp_path / "model", "pytorch"), tmp_path / "mark"
    file = directory / "pytorch_model.bin"
    torch.save(peer.state_dict() | {"extra": Malice(mark)}, file)
    with pytest.raises(CheckpointError, match=r"cannot read \S*pytorch_model\.bin; it must hold only tensors"):
        labkit.load(directory)
    assert not mark.exists()
    torch.load(file, weights_only=False)
    assert mark.exists(), "the file was harmless: the test would prove nothing"


@pytest.mark.parametrize("cut", [0, 1, 100, 0.5, -1])
def test_a_short_pytorch_file(tmp_path: Path, cut: float) -> None:
    file = save(random_peer(SHAPE, 1), tmp_path, "pytorch") / "pytorch_model.bin"
    size = file.stat().st_size
    os.truncate(file, int(cut * size) if isinstance(cut, float) else cut % size)
    with pytest.raises(CheckpointError, match=r"cannot read \S*pytorch_model\.bin"):
        labkit.load(tmp_path)


def test_flaws_of_a_pytorch_file(tmp_path: Path) -> None:
    peer = random_peer(SHAPE, 1)
    file = save(peer, tmp_path, "pytorch") / "pytorch_model.bin"
    weights = peer.state_dict()
    torch.save({name: tensor for name, tensor in weights.items() if name != VICTIM}, file)
    with pytest.raises(CheckpointError, match=f"lacks the weight {VICTIM}"):
        labkit.load(tmp_path)
    torch.save(weights | {VICTIM: weights[VICTIM][1:]}, file)
    with pytest.raises(CheckpointError, match=rf"{VICTIM} has shape \(95, 384\)"):
        labkit.load(tmp_path)
    torch.save(weights | {VICTIM: weights[VICTIM].t().contiguous().t()}, file)
    with pytest.raises(CheckpointError, match=f"{VICTIM} is not contiguous"):
        labkit.load(tmp_path)
    torch.save([1, 2], file)
    with pytest.raises(CheckpointError, match=r"cannot read \S*pytorch_model\.bin"):
        labkit.load(tmp_path)
    torch.save(weights, file, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"in the format that torch writes since version 1\.6"):
        labkit.load(tmp_path)


def test_views_of_a_shared_storage_in_a_pytorch_file(tmp_path: Path) -> None:
    peer = random_peer(SHAPE, 1)
    weights = peer.state_dict()
    both = torch.cat([weights[VICTIM], weights["transformer.h.0.mlp.fc_out.weight"]])
    views = {VICTIM: both[:96], "transformer.h.0.mlp.fc_out.weight": both[96:]}
    torch.save(weights | views, save(peer, tmp_path, "pytorch") / "pytorch_model.bin")
    checkpoint = open_checkpoint(tmp_path)
    for name in views:
        assert torch.equal(checkpoint.read(name), weights[name])
