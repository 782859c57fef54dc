"""Tests of the peers `llama.cpp` and `llama.cpp-q4km`.

They check the tensors in the peers' files, when a file is reused or made again, and runs of several sequences at once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from labkit.bench.engines import LabkitEngine
from labkit.bench.peers import PEERS, llama_cpp_file
from labkit.bench.peers.llama_cpp_file import bytes_read_per_step, gguf_file, is_complete
from labkit.bench.peers.llama_cpp_library import LlamaModel
from labkit.bench.peers.llama_cpp_model import half_split_rows, write_gguf
from labkit.bench.rounds import Prompts
from labkit.checkpoints import Checkpoint, open_checkpoint
from labkit.config import GPTJConfig
from labkit.errors import InsufficientResources, NotAvailable
from tests.models import random_peer
from tests.sampled import one_in

gguf = pytest.importorskip("gguf", reason="not measured here: no package gguf (labkit's extra 'llama-cpp')")

CPU = torch.device("cpu")
LENGTH, NEW = 21, 12


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return random_checkpoint("rotary below the head", tmp_path_factory.mktemp("random"))


def random_checkpoint(shape: str, folder: Path) -> Checkpoint:
    random_peer(shape, seed=5).save_pretrained(folder)
    return open_checkpoint(folder)


@pytest.fixture(scope="module")
def llama() -> Any:
    return pytest.importorskip("llama_cpp", reason="not measured here: no package llama_cpp (labkit's extra 'llama-cpp')")


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a GGUF file, as float32."""
    tensors = gguf.GGUFReader(path).tensors
    return {each.name: torch.tensor(gguf.quants.dequantize(each.data, each.tensor_type)) for each in tensors}


# The file ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("fused", [True, False])
def test_every_tensor_of_the_file_is_the_checkpoints(fused: bool, checkpoint: Checkpoint, tmp_path: Path) -> None:
    write_gguf(checkpoint, tmp_path / "f", "fp32", fused=fused)
    found, config = read(tmp_path / "f"), checkpoint.config

    def take(name: str, expected: Tensor) -> None:
        assert torch.equal(found.pop(name), expected), name

    for layer in range(config.num_layers):
        ours, theirs = f"transformer.h.{layer}.", f"blk.{layer}."
        queries, keys = (half_split_rows(checkpoint.read(f"{ours}attn.{name}_proj.weight"), config) for name in "qk")
        values = checkpoint.read(f"{ours}attn.v_proj.weight")
        if fused:
            take(f"{theirs}attn_qkv.weight", torch.cat((queries, keys, values)))
        else:
            for name, matrix in zip("qkv", (queries, keys, values), strict=True):
                take(f"{theirs}attn_{name}.weight", matrix)
        take(f"{theirs}attn_output.weight", checkpoint.read(f"{ours}attn.out_proj.weight"))
        take(f"{theirs}attn_output.bias", torch.zeros(config.hidden_size))
        pairs = {"attn_norm": "ln_1", "ffn_up": "mlp.fc_in", "ffn_down": "mlp.fc_out"}
        for (name, source), part in ((pair, part) for pair in pairs.items() for part in ("weight", "bias")):
            take(f"{theirs}{name}.{part}", checkpoint.read(f"{ours}{source}.{part}"))
    for name, source in (
        ("token_embd.weight", "transformer.wte.weight"),
        ("output_norm.weight", "transformer.ln_f.weight"),
        ("output_norm.bias", "transformer.ln_f.bias"),
        ("output.weight", "lm_head.weight"),
        ("output.bias", "lm_head.bias"),
    ):
        take(name, checkpoint.read(source))
    assert found == {}


def test_rotating_halves_of_the_reordered_rows_gives_gptjs_scores() -> None:
    """Rotating the halves of the reordered rows must give the same attention scores as GPT-J's rotation of neighbours."""
    config = GPTJConfig(hidden_size=24, num_layers=1, num_heads=2, rotary_dim=6, context_length=8, vocab_size=10)
    torch.manual_seed(3)
    queries, keys = torch.randn(2, 24, 24, dtype=torch.float64)
    hidden = torch.randn(5, 24, dtype=torch.float64)
    angles = torch.arange(5)[:, None, None] * 10000 ** (-torch.arange(0, 6, 2, dtype=torch.float64) / 6)
    sin, cos = angles.sin(), angles.cos()  # [position, 1, pair]

    def scores(first: Tensor, second: Tensor, pairs: bool) -> Tensor:
        turned = []
        for matrix in (first, second):
            heads = (hidden @ matrix.T).unflatten(-1, (2, 12))
            a, b = (heads[..., 0:6:2], heads[..., 1:6:2]) if pairs else (heads[..., 0:3], heads[..., 3:6])
            turned.append(torch.cat((a * cos - b * sin, b * cos + a * sin, heads[..., 6:]), -1))
        return torch.einsum("ihd,jhd->hij", *turned)

    reordered = [half_split_rows(matrix, config) for matrix in (queries, keys)]
    assert torch.allclose(scores(*reordered, pairs=False), scores(queries, keys, pairs=True))
    assert not torch.allclose(scores(queries, keys, pairs=False), scores(queries, keys, pairs=True))


@pytest.mark.parametrize(("precision", "error"), [("bf16", 2**-8), ("fp16", 2**-11), ("int8", 1 / 220), ("int4", 1 / 7)])
def test_lower_precisions_round_matrices_by_little_and_vectors_not_at_all(
    precision: str, error: float, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    for name in ("fp32", precision):
        write_gguf(checkpoint, tmp_path / name, name)
    exact, rounded = read(tmp_path / "fp32"), read(tmp_path / precision)
    for name, values in exact.items():
        if values.dim() == 1:
            assert torch.equal(rounded[name], values)
        else:
            groups = values.unflatten(-1, (-1, 32))
            largest = groups.abs().amax(-1, keepdim=True)
            assert ((rounded[name].unflatten(-1, (-1, 32)) - groups).abs() <= error * largest).all()
            assert not torch.equal(rounded[name], values)


def test_int4_keeps_head_and_embedding_in_8_bits(checkpoint: Checkpoint, tmp_path: Path) -> None:
    write_gguf(checkpoint, tmp_path / "f", "int4")
    kinds = {each.name: each.tensor_type.name for each in gguf.GGUFReader(tmp_path / "f").tensors}
    assert {kinds.pop("output.weight"), kinds.pop("token_embd.weight")} == {"Q8_0"}
    assert set(kinds.values()) == {"F32", "Q4_0"}


def test_the_bytes_of_a_step_are_all_weights_with_one_row_of_the_embedding(checkpoint: Checkpoint, tmp_path: Path) -> None:
    write_gguf(checkpoint, tmp_path / "f", "fp32")
    config = checkpoint.config
    zeros = config.num_layers * config.hidden_size  # the biases of attn_output: Phi-2 has them, GPT-J does not
    read_once = config.parameter_count + zeros - (config.vocab_size - 1) * config.hidden_size
    assert bytes_read_per_step(tmp_path / "f") == 4 * read_once


def test_rows_that_do_not_fit_the_blocks_are_refused(tmp_path: Path) -> None:
    odd = random_checkpoint("one head of 80", tmp_path / "model")
    with pytest.raises(NotAvailable, match=r"rows of 80 values; llama.cpp's Q8_0 needs a multiple of 32"):
        write_gguf(odd, tmp_path / "f", "int8")


# Kept files --------------------------------------------------------------------------------------------------------------
def test_a_kept_file_is_used_again_and_made_again_if_it_was_truncated(checkpoint: Checkpoint, llama: Any) -> None:
    path = gguf_file(checkpoint, "fp32")
    made, size = path.stat().st_mtime_ns, path.stat().st_size
    assert gguf_file(checkpoint, "fp32") == path
    assert path.stat().st_mtime_ns == made
    whole = path.read_bytes()
    for left in (size - 1000, size // 2, 200, 3, 0):
        os.truncate(path, left)
        assert not is_complete(path)
        assert gguf_file(checkpoint, "fp32") == path
        assert path.read_bytes() == whole
    assert list(path.parent.glob("part-*")) == []


def test_what_a_killed_process_left_is_removed_and_what_others_write_is_not(checkpoint: Checkpoint, llama: Any) -> None:
    path = gguf_file(checkpoint, "fp32")
    ended = subprocess.Popen(["true"])
    ended.wait()
    left, busy = path.parent / f"part-{ended.pid}-abc", path.parent / f"part-{os.getpid()}-abc"
    left.mkdir()
    busy.mkdir()
    path.unlink()
    gguf_file(checkpoint, "fp32")
    assert not left.exists()
    busy.rmdir()


def test_another_model_has_another_file(checkpoint: Checkpoint, llama: Any, tmp_path: Path) -> None:
    copy = tmp_path / Path(checkpoint.name).name
    shutil.copytree(checkpoint.name, copy)
    kept = gguf_file(checkpoint, "fp32")
    weights = copy / "model.safetensors"
    os.utime(weights, ns=(1, 1))
    assert gguf_file(open_checkpoint(copy), "fp32") != kept
    first, second = (gguf_file(open_checkpoint(copy / "config.json", seed=seed), "int8") for seed in (0, 1))
    assert first != second


def test_a_full_disk_is_named_with_the_variable_that_moves_the_files(
    checkpoint: Checkpoint, llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 10, 10))  # type: ignore[attr-defined]
    monkeypatch.setattr(llama_cpp_file, "LAYOUT", "another, so that no file is there")
    with pytest.raises(InsufficientResources, match=r"GB of disk.* LABKIT_HOME"):
        gguf_file(checkpoint, "bf16")


# Runs --------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", one_in(2, ["rotary below the head", "head of 32, rotary of all", "head of 256"]))
@pytest.mark.usefixtures("llama")
def test_greedy_tokens_are_labkits_at_batch_1_3_and_8(shape: str, tmp_path: Path) -> None:
    model = random_checkpoint(shape, tmp_path)
    engine, labkit = PEERS["llama.cpp"](model, CPU, "fp32"), LabkitEngine(model, CPU, "fp32")
    for number, batch in enumerate((1, 3, 8, 8, 1)):
        prompts = Prompts(model.config, batch, LENGTH, seed=7)[number]
        ours = labkit.prefill(prompts, NEW)
        first = engine.prefill(prompts, NEW)
        assert torch.equal(first, ours)
        assert torch.equal(engine.decode(first, NEW - 1), labkit.decode(ours, NEW - 1))


@pytest.mark.usefixtures("llama")
def test_q4_k_m_comes_from_llama_cpps_quantizer(tmp_path: Path) -> None:
    model = random_checkpoint("head of 256", tmp_path)
    engine = PEERS["llama.cpp-q4km"](model, CPU, "int4")
    kinds = {each.tensor_type.name for each in gguf.GGUFReader(gguf_file(model, "Q4_K_M")).tensors}
    assert kinds == {"F32", "Q4_K", "Q6_K"}
    assert "Q4_K_M" in engine.detail
    assert "MB of weights per token" in engine.detail
    prompts = Prompts(model.config, 8, LENGTH, seed=3)[0]
    first, exact = engine.prefill(prompts, NEW), LabkitEngine(model, CPU, "fp32").prefill(prompts, NEW)
    assert float((first == exact).double().mean()) >= 0.35
    assert engine.decode(first, NEW - 1).shape == (8, NEW - 1)


@pytest.mark.usefixtures("llama")
def test_what_llama_cpp_refuses_is_said_with_its_reason(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"no GGUF")
    with pytest.raises(NotAvailable, match=r"llama.cpp could not load .*magic"):
        LlamaModel(tmp_path / "f", 1, "F32")
    engine = PEERS["llama.cpp"](checkpoint, CPU, "fp32")
    with pytest.raises(NotAvailable, match=r"batch is 257; llama.cpp runs at most 256 sequences at once"):
        engine.prefill(torch.zeros(257, 1, dtype=torch.long), 2)


@pytest.mark.usefixtures("llama")
def test_precisions_and_devices_that_it_lacks_are_refused() -> None:
    with pytest.raises(NotAvailable, match=r"llama.cpp runs fp32, bf16, fp16, int8, int4 on cpu, not fp8"):
        PEERS["llama.cpp"].require(CPU, "fp8")
    with pytest.raises(NotAvailable, match=r"llama.cpp-q4km runs int4 on cpu, not int8"):
        PEERS["llama.cpp-q4km"].require(CPU, "int8")
    with pytest.raises(NotAvailable, match=r"llama.cpp does not run on cuda"):
        PEERS["llama.cpp"].require(torch.device("cuda"), "fp16")
