"""Models as found on disks: in the hub's cache, in read-only homes, as PyTorch shards, and in formats that are refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

import labkit
from labkit.checkpoints import config_of, fetch, open_checkpoint
from labkit.errors import CheckpointError, InvalidRequest, NotAvailable
from tests.checkpoints.forms import same, write_source
from tests.checkpoints.hub import COMMIT, WEIGHTS, write_model


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a small model, with the same names as in gpt-j-6b's repository."""
    folder = tmp_path_factory.mktemp("files")
    write_model(folder)
    return folder


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """An offline machine: the folders for labkit's home and the hub's cache, which do not exist yet."""
    home, cache = tmp_path / "no" / "home", tmp_path / "hf" / "hub"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("LABKIT_HOME", str(home))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    return home, cache


def assert_opens(name: str, folder: Path) -> None:
    checkpoint = open_checkpoint(name)
    assert checkpoint.path == folder
    assert checkpoint.config == config_of(name)
    assert checkpoint.config.num_layers == 1
    assert len(checkpoint.tokenizer().encode("In the beginning")) >= 3
    assert checkpoint.read("lm_head.weight", dtype=torch.float32).std() > 0.01


def in_cache(files: Path, cache: Path, repository: str, branch: str | None, leave_out: tuple[str, ...] = ()) -> Path:
    """Store files as the hub's client does: blobs, and a snapshot folder of links to the blobs."""
    top = cache / f"models--{repository.replace('/', '--')}"
    snapshot = top / "snapshots" / COMMIT
    (top / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(files.iterdir())):
        (snapshot / path.name).symlink_to(f"../../blobs/{number:040d}")
        if path.name not in leave_out:
            shutil.copy(path, top / "blobs" / f"{number:040d}")
    if branch:
        (top / "refs").mkdir()
        (top / "refs" / branch).write_text(COMMIT)
    return snapshot


@contextmanager
def only_read(folder: Path) -> Iterator[None]:
    """Make the folder read-only. The user root can still write into it, so the tests below check which files were written."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        yield
    finally:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)


@pytest.mark.parametrize("branch", ["float16", "main", None])
def test_a_copy_in_the_hubs_cache_is_found(files: Path, places: tuple[Path, Path], branch: str | None) -> None:
    home, cache = places
    snapshot = in_cache(files, cache, "EleutherAI/gpt-j-6b", branch)
    for name in ("gpt-j-6b", "EleutherAI/gpt-j-6b"):
        assert_opens(name, snapshot)
    assert not home.parent.exists(), "nothing is written for a model that is only read"


def test_the_command_finds_it_by_the_hubs_own_variables(files: Path, places: tuple[Path, Path]) -> None:
    home, cache = places
    snapshot = in_cache(files, cache, "EleutherAI/gpt-j-6b", "main")
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_CACHE"}
    command = [sys.executable, "-m", "labkit", "fetch", "gpt-j-6b", "--json"]
    done = subprocess.run(command, env=environment | {"HF_HOME": str(cache.parent)}, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["path"] == str(snapshot)
    assert answer["sha256"] == hashlib.sha256((files / WEIGHTS).read_bytes()).hexdigest()
    assert not home.parent.exists()


@pytest.mark.parametrize("lost", [WEIGHTS, "config.json", "tokenizer.json"])
def test_a_copy_that_is_not_whole_is_not_taken(files: Path, places: tuple[Path, Path], lost: str) -> None:
    in_cache(files, places[1], "EleutherAI/gpt-j-6b", "float16", leave_out=(lost,))
    with pytest.raises(NotAvailable, match=r"is not on this disk, in \S+ or in the hub's cache, and HF_HUB_OFFLINE forbids"):
        open_checkpoint("gpt-j-6b")
    with pytest.raises(InvalidRequest, match="there is no model 'EleutherAI/gpt-j-6b'"):
        open_checkpoint("EleutherAI/gpt-j-6b")


@pytest.mark.parametrize("marked", [True, False])
def test_a_whole_model_in_a_home_that_is_only_read(files: Path, places: tuple[Path, Path], marked: bool) -> None:
    folder = places[0] / "models" / "gpt-j-6b"
    shutil.copytree(files, folder)
    if marked:
        (folder / "fetched.json").write_text(json.dumps({path.name: path.stat().st_size for path in files.iterdir()}))
    before = sorted(path.name for path in places[0].rglob("*"))
    with only_read(places[0]):
        assert_opens("gpt-j-6b", folder)
        assert fetch("gpt-j-6b").path == folder
    assert sorted(path.name for path in places[0].rglob("*")) == before, "no lock, no mark, nothing was written"


def shards_of_pytorch(folder: Path, names: tuple[str, ...] = ("a.bin", "b.bin", "c.bin")) -> Path:
    """Rewrite a directory of safetensors as PyTorch shards, like those of MLPerf's GPT-J. Return the index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    where = {name: names[number % len(names)] for number, name in enumerate(weights)}
    where["transformer.h.0.attn.bias"] = names[0]
    weights["transformer.h.0.attn.bias"] = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    for file in names:
        torch.save({name: weights[name] for name, there in where.items() if there == file}, folder / file)
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return index


def test_shards_of_pytorch(tmp_path: Path) -> None:
    import transformers

    weights = write_source(tmp_path / "model", 3, torch.float16)
    index = shards_of_pytorch(tmp_path / "model")
    same(open_checkpoint(tmp_path / "model"), weights)
    peer = transformers.GPTJForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    engine = labkit.load(tmp_path / "model", device="cpu", dtype="fp32", num_slots=64)
    with torch.no_grad():
        assert (engine.logits([5, 9, 2]) - peer(torch.tensor([[5, 9, 2]])).logits[0]).abs().max() < 1e-4

    values = json.loads(index.read_text())
    (tmp_path / "model" / "b.bin").unlink()
    with pytest.raises(CheckpointError, match=rf"lacks b\.bin, which holds \S+ according to {index.name}"):
        open_checkpoint(tmp_path / "model")
    values["weight_map"] = {name: file.replace("b.bin", "a.bin") for name, file in values["weight_map"].items()}
    index.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=rf"a\.bin lacks \S+, which this file should hold according to {index.name}"):
        open_checkpoint(tmp_path / "model")


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    "name", ["../other/x", "/etc/passwd", "a/../../x", "..", "C:\\x", "..\\x", "a\x00b", "", 3, None, ["x"]]
)
def test_an_index_names_files_inside_of_its_directory(tmp_path: Path, kind: str, name: Any) -> None:
    write_source(tmp_path / "model", 3)
    shards_of_pytorch(tmp_path / "model").unlink()
    shutil.copytree(tmp_path / "model", tmp_path / "other")
    shutil.copy(tmp_path / "model" / "a.bin", tmp_path / "other" / "x")  # a readable file outside of the model's folder
    index = tmp_path / "model" / f"{kind}.index.json"
    index.write_text(json.dumps({"weight_map": {"transformer.wte.weight": name}}))
    with pytest.raises(CheckpointError, match=index.name) as caught:
        open_checkpoint(tmp_path / "model")
    assert "may lie outside" in str(caught.value) or "its weight_map is not a JSON object" in str(caught.value)


def test_shards_in_a_folder_below_and_links_as_the_hubs_client_makes(tmp_path: Path) -> None:
    weights = write_source(tmp_path / "cache" / "snapshots" / "model", 3)
    folder = tmp_path / "cache" / "snapshots" / "model"
    (folder / "parts").mkdir()
    shards_of_pytorch(folder, ("parts/a.bin", "b.bin"))
    (tmp_path / "cache" / "blobs").mkdir()
    for number, file in enumerate(("parts/a.bin", "b.bin", "config.json")):
        (folder / file).rename(tmp_path / "cache" / "blobs" / str(number))
        (folder / file).symlink_to(os.path.relpath(tmp_path / "cache" / "blobs" / str(number), (folder / file).parent))
    same(open_checkpoint(folder), weights)


ONE = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"a": ONE, "b": ONE}, "a and b overlap"),
        ({"a": ONE, "b": ONE | {"data_offsets": [12, 28]}}, "a and b overlap"),
        ({"a": ONE, "b": ONE | {"data_offsets": [64, 80]}}, r"is cut off: b ends at byte \d+, but the file ends at byte \d+"),
        ({"a": ONE | {"dtype": "I32", "data_offsets": [60, 76]}}, r"is cut off: a ends at byte"),
        ({"a": ONE | {"dtype": "F33"}}, "a has the dtype 'F33'; F64, F32"),
        ({"a": ONE | {"dtype": ["F32"]}}, r"a has the dtype \['F32'\]"),
        ({"a": ONE | {"shape": [-2, -2]}}, r"a has the shape \[-2, -2\]; a list of whole numbers"),
        ({"a": ONE | {"shape": [2.0, 2]}}, "a has the shape"),
        ({"a": ONE | {"shape": [True, 4]}}, "a has the shape"),
        ({"a": ONE | {"shape": "22"}}, "a has the shape"),
        ({"a": ONE | {"shape": [2**62, 2**62]}}, r"needs \d+ bytes, but has 16"),
        ({"a": ONE | {"shape": [2**70]}}, "a has the shape"),
        ({"a": ONE | {"data_offsets": ["0", "16"]}}, "a has the data_offsets"),
        ({"a": ONE | {"data_offsets": [0, 8, 16]}}, "a has the data_offsets"),
        ({"a": ONE | {"data_offsets": [16, 0]}}, "needs 16 bytes, but has -16"),
        ({"a": {"dtype": "F32"}}, "a is not described by dtype, shape and data_offsets"),
        ({"a": []}, "a is not described"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": 1, "a": 2}', "it names 'a' twice"),
    ],
)
def test_headers_that_lie(tmp_path: Path, rows: Any, said: str) -> None:
    write_source(tmp_path / "model", 3)
    text = rows if isinstance(rows, bytes) else json.dumps(rows).encode()
    (tmp_path / "model" / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(32))
    with pytest.raises(CheckpointError, match=said) as caught:
        open_checkpoint(tmp_path / "model")
    assert "model.safetensors" in str(caught.value)


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**63, 2**64 - 1])
def test_a_header_that_is_longer_than_its_file(tmp_path: Path, length: int) -> None:
    write_source(tmp_path / "model", 3)
    (tmp_path / "model" / "model.safetensors").write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match=f"the header should have {length} bytes, but the file has 10"):
        open_checkpoint(tmp_path / "model")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"quant_method": "gptq"}, "GPTQ"),
        ({"quant_method": "awq", "bits": 4}, "AWQ"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "fp8"}, "8-bit floating-point"),
        ({"quant_method": "aqlm"}, "'aqlm'"),
        ({}, "a form without a name"),
        ("gptq", "GPTQ"),
    ],
)
def test_quantized_weights_are_named_by_their_config(tmp_path: Path, settings: Any, named: str) -> None:
    write_source(tmp_path / "model", 3)
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": settings}))
    with pytest.raises(
        CheckpointError, match=f"quantized by {named} .*which labkit does not read; .* choose dtype int8 or int4"
    ):
        open_checkpoint(tmp_path / "model")


@pytest.mark.parametrize(
    ("file", "tensor", "named"),
    [
        ("quantize_config.json", "", "GPTQ"),
        ("quant_config.json", "", "AWQ"),
        ("", "attn.q_proj.qweight", "GPTQ or AWQ"),
        ("", "attn.q_proj.g_idx", "GPTQ"),
        ("", "attn.q_proj.weight.absmax", "bitsandbytes"),
        ("", "attn.q_proj.SCB", "bitsandbytes"),
        ("", "attn.q_proj.weight_packed", "compressed-tensors"),
    ],
)
def test_quantized_weights_are_named_by_their_files(tmp_path: Path, file: str, tensor: str, named: str) -> None:
    write_source(tmp_path / "model", 3)
    if file:
        (tmp_path / "model" / file).write_text("{}")
    else:
        path = tmp_path / "model" / "model.safetensors"
        weights = load_file(path)
        del weights["transformer.h.0.attn.q_proj.weight"]
        save_file(weights | {f"transformer.h.0.{tensor}": torch.ones(3, dtype=torch.int32)}, path)
    with pytest.raises(CheckpointError, match=named):
        open_checkpoint(tmp_path / "model")


@pytest.mark.parametrize(
    ("file", "named"), [("m.Q4_0.gguf", "GGUF"), ("flax_model.msgpack", "Flax"), ("tf_model.h5", "TensorFlow")]
)
def test_files_of_other_programs_are_named(tmp_path: Path, file: str, named: str) -> None:
    write_source(tmp_path / "model", 3)
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "model" / file)
    with pytest.raises(CheckpointError, match=f"is a {named} .*file, which labkit does not read; "):
        open_checkpoint(tmp_path / "model")
    (tmp_path / "model" / "config.json").unlink()
    for path in (tmp_path / "model", tmp_path / "model" / file):
        with pytest.raises(CheckpointError, match=f"is a {named} .*file, which labkit does not read; "):
            labkit.load(path, device="cpu")


def test_a_file_of_weights_in_place_of_its_directory(tmp_path: Path) -> None:
    write_source(tmp_path / "model", 3)
    with pytest.raises(InvalidRequest, match=r"model\.safetensors is a file that labkit does not read; give a directory"):
        labkit.load(tmp_path / "model" / "model.safetensors", device="cpu")
