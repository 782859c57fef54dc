"""`labkit.load`: what it refuses before it reads weights, and the defaults of its arguments."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

import labkit
from labkit.checkpoints import config_of, open_checkpoint
from labkit.checkpoints.tensor_file import TensorFile
from labkit.config import GPT_J_6B
from labkit.engine import loader
from labkit.errors import InsufficientResources, InvalidRequest, NotAvailable
from labkit.native.packed_weight import PackedWeight
from tests.checkpoints.hub import TINY, serve
from tests.models import random_peer

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> int:
    """A machine with one megabyte of free memory."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**6))
    return 10**6


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*arguments: Any) -> Any:
        raise AssertionError("weights were read")

    monkeypatch.setattr(TensorFile, "read", read)
    monkeypatch.setattr("labkit.checkpoints.directory.sha256_of", read)


def test_a_directory_too_large_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = random_peer("head of 256", 1)
    peer.save_pretrained(tmp_path)
    (tmp_path / "SHA256SUMS").write_text("0" * 64 + "  model.safetensors\n")
    forbid_reading(monkeypatch)
    needed = int(peer.num_parameters() * 4 * loader.HEADROOM)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=needed - 1))
    with pytest.raises(InsufficientResources, match=r"needs 0\.0 GB on cpu in fp32, .* smaller precision"):
        labkit.load(tmp_path, device="cpu")
    with pytest.raises(AssertionError, match="weights were read"):
        labkit.load(tmp_path, device="cpu", dtype="fp16")  # the weights are half as large in fp16


def test_a_draft_too_large_is_refused_before_the_model_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    config, cpu = config_of("gptj-tiny"), torch.device("cpu")
    needed = loader._needed_bytes(config, cpu, "fp32")
    monkeypatch.setattr(loader, "free_bytes", lambda device: 2 * needed - 1)
    monkeypatch.setattr(loader, "read_model", lambda *given: pytest.fail("weights were read"))
    with pytest.raises(InsufficientResources, match=r"gptj-tiny needs .* are free beside the model that it drafts for"):
        labkit.load("gptj-tiny", device="cpu", dtype="fp32", draft="gptj-tiny")


@pytest.mark.parametrize("name", [None, 5, ""])
def test_what_is_no_name_is_refused(name: Any) -> None:
    for opened in (config_of, open_checkpoint):
        with pytest.raises(InvalidRequest, match=f"name is {name!r}; a model's name, a directory or a config.json is accepted"):
            opened(name)


@pytest.mark.parametrize("name", ["gptj-tiny", "gpt-j-6b-synthetic", "gpt-j-405m-synthetic", "config"])
def test_a_named_model_too_large_is_refused(
    name: str, little_memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_reading(monkeypatch)
    if name == "config":
        name = str(tmp_path / "config.json")
        Path(name).write_text(json.dumps(GPT_J_6B.to_dict()))
    with pytest.raises(InsufficientResources, match=f"{name} needs .* GB on cpu in bf16"):
        labkit.load(name, device="cpu", dtype="bf16")


def test_a_download_too_large_for_the_memory_is_not_begun(
    little_memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve({}) as hub:
        monkeypatch.setenv("LABKIT_HOME", str(tmp_path))
        monkeypatch.setenv("LABKIT_HUB_ENDPOINT", hub.endpoint)
        with pytest.raises(InsufficientResources, match=r"gpt-j-6b needs 25\.4 GB on cpu in fp32"):
            labkit.load("gpt-j-6b", device="cpu")
        assert hub.requests == []


@NO_GPU
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_a_gpu_that_is_not_there(device: str) -> None:
    with pytest.raises(NotAvailable, match=f"device {device} was asked for, but this machine has 0 usable GPUs"):
        labkit.load("gptj-tiny", device=device)


@pytest.mark.parametrize("device", ["mps", "gpu", "cuda:x", "tpu:0"])
def test_a_device_that_is_none(device: str) -> None:
    with pytest.raises(InvalidRequest, match=f"device is '{device}'"):
        labkit.load("gptj-tiny", device=device)


@pytest.mark.parametrize("precision", ["int2", "float32", torch.int8, 16])
def test_a_precision_that_is_none(precision: Any) -> None:
    with pytest.raises(
        InvalidRequest, match=r"precision is .*; fp32, bf16, fp16, sparse24, sparse24_int8, int8, w8a8, int4 or fp8 is accepted"
    ):
        labkit.load("gptj-tiny", device="cpu", dtype=precision)


def test_the_default_dtype_is_the_devices() -> None:
    assert labkit.load("gptj-tiny", device="cpu").dtype == torch.float32
    chosen = labkit.load("gptj-tiny")
    assert chosen.dtype == (torch.float16 if torch.cuda.is_available() else torch.float32)
    assert chosen.device.type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("asked", "dtype"),
    [("fp16", torch.float16), ("bf16", torch.bfloat16), (torch.float64, torch.float64), ("fp32", torch.float32)],
)
def test_the_weights_are_in_the_dtype_asked_for(asked: Any, dtype: torch.dtype) -> None:
    engine = labkit.load("gptj-tiny", device="cpu", dtype=asked)
    assert engine.dtype == dtype
    matrices = [engine.model.lm_head.weight, engine.model.layers[0].qkv.weight]
    dense = [matrix.dense if isinstance(matrix, PackedWeight) else matrix for matrix in matrices]
    weights = [engine.model.wte, engine.model.ln_f_weight, *dense]
    assert all(weight.dtype == dtype and weight.std() > 0 for weight in weights)


def test_a_path_may_be_written_in_any_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = labkit.load("gptj-tiny", device="cpu").logits([5, 9])
    assert expected.std() > 0.1
    monkeypatch.chdir(TINY.parent)
    monkeypatch.setenv("HOME", str(TINY.parent))
    for path in (TINY, str(TINY), Path("gptj-tiny"), "./gptj-tiny/", os.path.join("~", "gptj-tiny")):
        assert torch.equal(labkit.load(path, device="cpu").logits([5, 9]), expected)


def test_the_engine_has_the_directorys_tokenizer() -> None:
    engine = labkit.load(TINY, device="cpu")
    assert engine.tokenizer is not None
    assert engine.tokenizer.decode(engine.tokenizer.encode("Call me Ishmael.")) == "Call me Ishmael."


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="not measured here: no GPU")
def test_weights_on_a_gpu_equal_those_on_the_cpu() -> None:
    on_gpu, on_cpu = labkit.load("gptj-tiny", device="cuda", dtype="fp16"), labkit.load("gptj-tiny", device="cpu", dtype="fp16")
    assert on_gpu.device.type == "cuda"
    assert torch.equal(on_gpu.model.lm_head.weight.cpu(), on_cpu.model.lm_head.weight)
    assert on_cpu.model.lm_head.weight.std() > 0
