"""Megatron-LM's files per rank and NeMo's files: they are converted in both directions and with every order of Q, K and V;
other models are refused.
"""

from __future__ import annotations

import argparse
import enum
import gzip
import io
import os
import random
import sys
import tarfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

import labkit
from labkit import native
from labkit.checkpoints import convert, open_checkpoint
from labkit.errors import CheckpointError
from labkit.parallel import Layout, load_parallel
from tests.checkpoints.forms import CONFIG, load_all, same, write_source
from tests.models import random_prompts

PADDED = 256
HEAD_DIM = CONFIG.head_dim


@pytest.fixture(autouse=True)
def do_not_wait_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the wait for the disk after each of hundreds of small files; the tests of the conversion cover crashes."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("megatron") / "source"
    return folder, write_source(folder, 11)


def ranks_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The content of each rank's file, as torch itself reads it."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        return {path.parent.name: torch.load(path, weights_only=True) for path in folder.rglob("*.pt")}


def change(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    """Rewrite every rank's file."""
    for path in folder.rglob("model_optim_rng.pt"):
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, weights_only=True)
        edit(content)
        torch.save(content, path)
    return folder


@pytest.mark.parametrize(("size", "stages"), [(1, 1), (2, 1), (4, 1), (1, 2), (2, 4), (4, 2)])
def test_there_and_back_is_bit_equal(tmp_path: Path, model: tuple[Path, dict[str, Tensor]], size: int, stages: int) -> None:
    source, weights = model
    done = convert(source, tmp_path / "mg", "megatron", tensor_parallel=size, pipeline_parallel=stages)
    names = {f"mp_rank_{rank:02d}" + (f"_{stage:03d}" if stages > 1 else "") for rank in range(size) for stage in range(stages)}
    assert {path.name for path in (tmp_path / "mg" / "release").iterdir()} == names
    assert (tmp_path / "mg" / "latest_checkpointed_iteration.txt").read_text() == "release"
    assert done.files == len(names) + 1
    for path in (tmp_path / "mg", tmp_path / "mg" / "release"):
        checkpoint = open_checkpoint(path)
        assert checkpoint.config == CONFIG
    same(checkpoint, weights)
    convert(tmp_path / "mg", tmp_path / "back", "hf")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in load_all(tmp_path / "back").items())


def test_the_files_hold_what_megatron_has(tmp_path: Path, model: tuple[Path, dict[str, Tensor]]) -> None:
    """The test itself builds the published layout: interleaved heads, zero padding, and pairs of matrices cut between ranks.

    The first matrix of a pair is cut by rows, the second by columns.
    """
    source, weights = model
    convert(source, tmp_path / "mg", "megatron", tensor_parallel=2, pipeline_parallel=2)
    found = ranks_of(tmp_path / "mg")
    for rank in (0, 1):
        for stage in (0, 1):
            content = found[f"mp_rank_{rank:02d}_{stage:03d}"]
            assert content["checkpoint_version"] == 3.0
            args = content["args"]
            assert (args.num_layers, args.num_attention_heads, args.padded_vocab_size) == (4, 4, PADDED)
            assert (args.tensor_model_parallel_size, args.pipeline_model_parallel_size) == (2, 2)
            language = content["model"]["language_model"]
            assert ("embedding" in language, "output_layer" in language) == (stage == 0, stage == 1)
            encoder = language["encoder"]
            for local in (0, 1):
                ours = f"transformer.h.{2 * stage + local}."
                q, k, v = (weights[f"{ours}attn.{which}_proj.weight"].view(4, HEAD_DIM, 48) for which in "qkv")
                heads = [torch.cat([q[head], k[head], v[head]]) for head in (2 * rank, 2 * rank + 1)]
                assert torch.equal(encoder[f"layers.{local}.attention.query_key_value.weight"], torch.cat(heads))
                columns = slice(24 * rank, 24 * rank + 24)
                dense = weights[f"{ours}attn.out_proj.weight"][:, columns]
                assert torch.equal(encoder[f"layers.{local}.attention.dense.weight"], dense)
                inner = slice(44 * rank, 44 * rank + 44)
                assert torch.equal(
                    encoder[f"layers.{local}.mlp.dense_h_to_4h.weight"], weights[f"{ours}mlp.fc_in.weight"][inner]
                )
                assert torch.equal(
                    encoder[f"layers.{local}.mlp.dense_4h_to_h.weight"], weights[f"{ours}mlp.fc_out.weight"][:, inner]
                )
        words = found[f"mp_rank_{rank:02d}_000"]["model"]["language_model"]["embedding"]["word_embeddings"]["weight"]
        wanted = weights["transformer.wte.weight"][128 * rank : 128 * rank + 128]
        assert torch.equal(words[: len(wanted)], wanted)
        assert words.shape == (128, 48)
        assert not words[len(wanted) :].any()


def test_greedy_tokens_are_those_of_the_source(tmp_path: Path, model: tuple[Path, dict[str, Tensor]]) -> None:
    source, _ = model
    convert(source, tmp_path / "mg", "megatron", tensor_parallel=2, pipeline_parallel=2)
    half_split(tmp_path / "mg", 2)
    prompts = random_prompts(CONFIG.vocab_size, [2, 11, 20], 4)
    made = []
    for path in (source, tmp_path / "mg"):
        engine = labkit.load(path, device="cpu", dtype="fp32")
        made.append([output.token_ids for output in engine.generate(prompts, labkit.SamplingParams(max_new_tokens=15))])
    assert made[0] == made[1]
    assert len({token for row in made[0] for token in row}) > 5


def half_split(folder: Path, size: int) -> Path:
    """Store rotary pairs as Megatron does by default: first the first elements of all pairs, then the second elements."""

    def edit(content: dict[str, Any]) -> None:
        content["args"].rotary_interleaved = False
        for name, tensor in content["model"]["language_model"]["encoder"].items():
            if name.endswith("query_key_value.weight"):
                heads = tensor.view(4 // size, 3, HEAD_DIM, 48).clone()
                rotary = heads[:, :2, : CONFIG.rotary_dim]
                heads[:, :2, : CONFIG.rotary_dim] = torch.cat([rotary[:, :, 0::2], rotary[:, :, 1::2]], dim=2)
                tensor.copy_(heads.view_as(tensor))

    return change(folder, edit)


@pytest.mark.parametrize("version", [0, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("size", [1, 2])
def test_every_order_of_query_key_value(
    tmp_path: Path, model: tuple[Path, dict[str, Tensor]], version: float, size: int
) -> None:
    source, weights = model
    convert(source, tmp_path / "mg", "megatron", tensor_parallel=size)

    def edit(content: dict[str, Any]) -> None:
        content["checkpoint_version"] = version
        if version == 0:
            content.pop("checkpoint_version")
        language = content["model"]["language_model"]
        encoder = language.pop("encoder")
        language["encoder" if version >= 2 else "transformer"] = encoder
        order = {0: (1, 0, 2, 3), 1.0: (0, 2, 1, 3)}.get(version, (0, 1, 2, 3))
        for name, tensor in encoder.items():
            if name.endswith("query_key_value.weight"):
                heads = tensor.view(4 // size, 3, HEAD_DIM, 48)
                encoder[name] = heads.permute(order).reshape(tensor.shape).contiguous()

    same(open_checkpoint(change(tmp_path / "mg", edit)), weights)


def test_rotary_halves_become_pairs(tmp_path: Path, model: tuple[Path, dict[str, Tensor]]) -> None:
    source, weights = model
    convert(source, tmp_path / "mg", "megatron", tensor_parallel=4)
    same(open_checkpoint(half_split(tmp_path / "mg", 4)), weights)


def test_what_training_leaves_in_a_checkpoint_is_no_hindrance(
    tmp_path: Path, model: tuple[Path, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint has random states, an optimizer, an iteration's folder, zero biases in attention, no bias in the head,
    and the name `self_attention`.
    """
    source, weights = model
    convert(source, tmp_path / "mg", "megatron", tensor_parallel=2)
    enums = types.ModuleType("megatron.core.enums")
    enums.ModelType = enum.Enum("ModelType", "encoder_or_decoder", module="megatron.core.enums")  # type: ignore[attr-defined]
    for name in ("megatron", "megatron.core", "megatron.core.enums"):
        monkeypatch.setitem(sys.modules, name, enums)

    def edit(content: dict[str, Any]) -> None:
        content["rng_state"] = [{"random_rng_state": random.getstate(), "np_rng_state": np.random.get_state()}]
        content["optimizer"] = {"state": {0: {"exp_avg": torch.randn(5), "step": torch.tensor(3)}}}
        content["args"].params_dtype = torch.bfloat16
        content["args"].model_type = enums.ModelType.encoder_or_decoder
        content["model"]["language_model"]["encoder"]["layers.0.self_attention.core_attention._extra_state"] = io.BytesIO(b"x")
        encoder = content["model"]["language_model"]["encoder"]
        for name in list(encoder):
            encoder[name.replace("attention.", "self_attention.")] = encoder.pop(name)
        encoder["layers.0.self_attention.query_key_value.bias"] = torch.zeros(72)
        encoder["layers.0.self_attention.dense.bias"] = torch.zeros(48)
        del content["model"]["language_model"]["output_layer"]["bias"]

    change(tmp_path / "mg", edit)
    for name in ("megatron", "megatron.core", "megatron.core.enums"):
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "mg" / "release").rename(tmp_path / "mg" / "iter_0001200")
    (tmp_path / "mg" / "latest_checkpointed_iteration.txt").write_text("1200\n")
    same(open_checkpoint(tmp_path / "mg"), {name: tensor for name, tensor in weights.items() if name != "lm_head.bias"})
    assert torch.equal(open_checkpoint(tmp_path / "mg").read("lm_head.bias"), torch.zeros(211))


def test_names_of_megatron_core(tmp_path: Path, model: tuple[Path, dict[str, Tensor]]) -> None:
    source, weights = model
    convert(source, tmp_path / "mg", "megatron", tensor_parallel=2)

    def edit(content: dict[str, Any]) -> None:
        language = content["model"].pop("language_model")
        renamed = {
            "attention.query_key_value.": "self_attention.linear_qkv.",
            "attention.dense.": "self_attention.linear_proj.",
            "mlp.dense_h_to_4h.": "mlp.linear_fc1.",
            "mlp.dense_4h_to_h.": "mlp.linear_fc2.",
            "input_layernorm.": "self_attention.linear_qkv.layer_norm_",
        }
        for name, tensor in language["encoder"].items():
            for old, new in renamed.items():
                name = name.replace(old, new)
            content["model"][f"decoder.{name}"] = tensor
        content["model"]["embedding.word_embeddings.weight"] = language["embedding"]["word_embeddings"]["weight"]
        content["model"] |= {f"output_layer.{part}": tensor for part, tensor in language["output_layer"].items()}
        content["model"]["decoder.layers.0.mlp.linear_fc1._extra_state"] = torch.zeros(3)

    same(open_checkpoint(change(tmp_path / "mg", edit)), weights)


# Other models and flaws -------------------------------------------------------------------------------------------------
def usual(content: dict[str, Any]) -> None:
    """Turn the checkpoint into Megatron's usual GPT."""
    language = content["model"]["language_model"]
    language["embedding"]["position_embeddings"] = {"weight": torch.randn(37, 48)}
    del language["output_layer"]
    for layer in range(4):
        language["encoder"][f"layers.{layer}.post_attention_layernorm.weight"] = torch.ones(48)
        language["encoder"][f"layers.{layer}.attention.query_key_value.bias"] = torch.randn(144)
    args = content["args"]
    args.gpt_j_residual, args.gpt_j_tied = False, False


def set_args(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: vars(content["args"]).update(values)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (usual, ["learned positions", "tied head", "second layer norm", "sequential residual", "biases in attention"]),
        (set_args(gpt_j_residual=False), ["sequential residual"]),
        (set_args(gpt_j_tied=False), ["sequential residual"]),
        (lambda content: content["model"]["language_model"].pop("output_layer"), ["tied head"]),
        (
            lambda content: content["model"]["language_model"]["embedding"].update(
                position_embeddings={"weight": torch.ones(37, 48)}
            ),
            ["learned positions"],
        ),
        (
            set_args(position_embedding_type="learned_absolute", use_rotary_position_embeddings=False),
            ["not rotary", "learned_absolute"],
        ),
        (
            lambda content: content["model"]["language_model"]["encoder"].update(
                {"layers.3.attention.dense.bias": torch.tensor([0.0] * 47 + [0.5])}
            ),
            ["biases in attention (attention.dense.bias)"],
        ),
        (set_args(swiglu=True), ["swiglu"]),
        (set_args(openai_gelu=False, bias_gelu_fusion=False), ["error function"]),
        (set_args(normalization="RMSNorm"), ["RMSNorm"]),
        (set_args(group_query_attention=True, num_query_groups=2), ["grouped queries"]),
        (set_args(num_experts=8), ["experts"]),
        (set_args(rotary_base=500000), ["500000"]),
    ],
)
def test_a_model_that_is_no_gpt_j(
    tmp_path: Path, model: tuple[Path, dict[str, Tensor]], edit: Callable[[dict[str, Any]], Any], words: list[str]
) -> None:
    convert(model[0], tmp_path / "mg", "megatron")
    change(tmp_path / "mg", edit)
    with pytest.raises(CheckpointError, match="is a GPT, but not a GPT-J") as caught:
        open_checkpoint(tmp_path / "mg")
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda content: content.pop("args"), "has no 'args'"),
        (lambda content: content.pop("model"), "has no key 'model'"),
        (lambda content: content.update(model0=content.pop("model")), "interleaved pipeline"),
        (set_args(num_layers=6), "has 4 layers in its files, but its settings say 6"),
        (set_args(hidden_size=None), "lacks the settings hidden_size"),
        (set_args(rotary_percent="half"), "is not a number"),
        (lambda content: content.update(args="none"), "args is a str"),
        (set_args(ffn_hidden_size=96), r"dense_h_to_4h.weight has shape \(44, 48\), but the settings require \(48, 48\)"),
        (set_args(vocab_size=999), "vocab_size is 999, but its embeddings have 256 rows"),
        (set_args(tensor_model_parallel_size=4), "files of 2 tensor ranks, but its settings say 4"),
        (
            lambda content: content["model"]["language_model"]["encoder"].pop("layers.2.mlp.dense_4h_to_h.weight"),
            r"mp_rank_00.* lacks the weight layers\.2\.mlp\.dense_4h_to_h\.weight",
        ),
        (lambda content: content.update(checkpoint_version="new"), "checkpoint_version is 'new'"),
    ],
)
def test_a_flaw(
    tmp_path: Path, model: tuple[Path, dict[str, Tensor]], edit: Callable[[dict[str, Any]], Any], words: str
) -> None:
    convert(model[0], tmp_path / "mg", "megatron", tensor_parallel=2)
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(change(tmp_path / "mg", edit))


def test_files_that_are_not_there_or_not_whole(tmp_path: Path, model: tuple[Path, dict[str, Tensor]]) -> None:
    path = convert(model[0], tmp_path / "mg", "megatron", tensor_parallel=2, pipeline_parallel=2).path
    victim = path / "release" / "mp_rank_01_001" / "model_optim_rng.pt"
    whole = victim.read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 1):
        os.truncate(victim, size)
        with pytest.raises(CheckpointError, match=r"mp_rank_01_001.*(cut off|cannot read)"):
            open_checkpoint(path)
        victim.write_bytes(whole)
    victim.unlink()
    with pytest.raises(CheckpointError, match=r"mp_rank_01_001 lacks model_optim_rng\.pt"):
        open_checkpoint(path)
    victim.parent.rmdir()
    with pytest.raises(CheckpointError, match="lacks tensor rank 1 of pipeline rank 1"):
        open_checkpoint(path)
    for word, words in (("7", "lacks the folder iter_0000007"), ("../../etc", "the number of an iteration or 'release'")):
        (path / "latest_checkpointed_iteration.txt").write_text(word)
        with pytest.raises(CheckpointError, match=words):
            open_checkpoint(path)


def test_a_weight_that_is_no_number(tmp_path: Path, model: tuple[Path, dict[str, Tensor]]) -> None:
    path = convert(model[0], tmp_path / "mg", "megatron").path

    def edit(content: dict[str, Any]) -> None:
        content["model"]["language_model"]["encoder"]["final_layernorm.bias"][3] = float("inf")

    with pytest.raises(CheckpointError, match=r"ln_f\.bias holds 1 value that is NaN or infinite"):
        open_checkpoint(change(path, edit)).read("transformer.ln_f.bias")


# NeMo -------------------------------------------------------------------------------------------------------------------
def write_nemo(tmp_path: Path, source: Path, size: int, stages: int = 1, *, packed: str = "", **config: Any) -> Path:
    """Write a NeMo checkpoint: a folder, a tar file or a compressed tar file."""
    convert(source, tmp_path / "mg", "megatron", tensor_parallel=size, pipeline_parallel=stages)
    folder = tmp_path / "nemo"
    folder.mkdir()
    for name, content in ranks_of(tmp_path / "mg").items():
        language = content["model"]["language_model"]
        flat = {f"model.language_model.encoder.{key}": tensor for key, tensor in language["encoder"].items()}
        flat = {key.replace(".attention.", ".self_attention."): tensor for key, tensor in flat.items()}
        for part in ("embedding", "output_layer"):
            for key, value in language.get(part, {}).items():
                inner = value if isinstance(value, dict) else {None: value}
                flat |= {
                    f"model.language_model.{part}.{key}" + (f".{last}" if last else ""): found for last, found in inner.items()
                }
        rank, _, stage = name.removeprefix("mp_rank_").partition("_")
        where = folder if size * stages == 1 else folder / (f"tp_rank_{rank}_pp_rank_{stage}" if stage else f"mp_rank_{rank}")
        where.mkdir(exist_ok=True)
        torch.save(flat, where / "model_weights.ckpt")
    values = {
        "num_layers": 4,
        "hidden_size": 48,
        "ffn_hidden_size": 88,
        "num_attention_heads": 4,
        "encoder_seq_length": 37,
        "max_position_embeddings": "${.encoder_seq_length}",
        "layernorm_epsilon": "3e-5",
        "position_embedding_type": "rope",
        "rotary_percentage": 0.5,
        "rotary_interleaved": True,
        "share_embeddings_and_output_weights": False,
        "normalization": "layernorm",
        "activation": "gelu",
        "bias_activation_fusion": True,
        "gpt_j_residual": True,
        "gpt_j_tied": True,
        "vocab_size": 211,
        "bos_token_id": 3,
        "eos_token_id": 7,
        "tensor_model_parallel_size": size,
        "pipeline_model_parallel_size": stages,
    }
    (folder / "model_config.yaml").write_text(yaml.safe_dump(values | config))
    if not packed:
        return folder
    path = tmp_path / "model.nemo"
    with tarfile.open(path, packed) as archive:
        archive.add(folder, arcname=".")
    return path


@pytest.mark.parametrize(("size", "stages"), [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("packed", ["", "w", "w:gz"])
def test_nemo(tmp_path: Path, model: tuple[Path, dict[str, Tensor]], size: int, stages: int, packed: str) -> None:
    source, weights = model
    path = write_nemo(tmp_path, source, size, stages, packed=packed)
    assert labkit.load(path, device="cpu", dtype="fp32").logits([1, 2, 3]).isfinite().all()
    checkpoint = open_checkpoint(path)
    assert checkpoint.config == CONFIG
    same(checkpoint, weights)
    convert(path, tmp_path / "back", "hf")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in load_all(tmp_path / "back").items())


@pytest.mark.skipif(not native.available(), reason=f"not measured here: {native.why_not()}")
def test_a_nemo_file_on_two_ranks(tmp_path: Path, model: tuple[Path, dict[str, Tensor]]) -> None:
    path = write_nemo(tmp_path, model[0], 1, packed="w")
    prompt = random_prompts(CONFIG.vocab_size, [7], seed=1)[0]
    expected = labkit.load(path, device="cpu", dtype="fp32").logits(prompt)
    with load_parallel(path, Layout(2, 1), dtype="fp32") as engine:
        assert torch.allclose(engine.logits(prompt), expected, rtol=1e-4, atol=1e-5)


def test_a_nemo_that_is_no_gpt_j(tmp_path: Path, model: tuple[Path, dict[str, Tensor]]) -> None:
    path = write_nemo(tmp_path, model[0], 1, packed="w", gpt_j_residual=False, position_embedding_type="learned_absolute")
    with pytest.raises(CheckpointError, match=r"not rotary .*sequential residual"):
        open_checkpoint(path)


@pytest.mark.parametrize("packed", ["w", "w:gz"])
def test_a_nemo_that_is_cut_off(tmp_path: Path, model: tuple[Path, dict[str, Tensor]], packed: str) -> None:
    path = write_nemo(tmp_path, model[0], 1, packed=packed)
    for size in (0, 700, path.stat().st_size // 2):
        os.truncate(path, size)
        with pytest.raises(CheckpointError, match=r"model\.nemo"):
            open_checkpoint(path)


# Hostile files ----------------------------------------------------------------------------------------------------------
class Bomb:
    """An object that runs a command when a careless reader unpickles it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.mark}'",)


class Evaluated(Bomb):
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"open({str(self.mark)!r}, 'w')",)


@pytest.mark.parametrize("bomb", [Bomb, Evaluated])
def test_a_megatron_file_that_wants_to_run_code(tmp_path: Path, model: tuple[Path, dict[str, Tensor]], bomb: Any) -> None:
    path, mark = convert(model[0], tmp_path / "mg", "megatron").path, tmp_path / "ran"
    change(path, lambda content: content.update(optimizer=bomb(mark)))
    with pytest.raises(CheckpointError, match=r"uses (\w+\.)?(system|eval), which .* could run code; no code was run"):
        labkit.load(path)
    assert not mark.exists()
    torch.load(path / "release" / "mp_rank_00" / "model_optim_rng.pt", weights_only=False)  # the file is a real danger
    assert mark.exists()


@pytest.mark.parametrize("packed", ["", "w", "w:gz"])
def test_a_nemo_file_that_wants_to_run_code(tmp_path: Path, model: tuple[Path, dict[str, Tensor]], packed: str) -> None:
    folder, mark = write_nemo(tmp_path, model[0], 1), tmp_path / "ran"
    torch.save({"state_dict": Bomb(mark)}, folder / "model_weights.ckpt")
    path = folder
    if packed:
        path = tmp_path / "model.nemo"
        with tarfile.open(path, packed) as archive:
            archive.add(folder, arcname=".")
    with pytest.raises(CheckpointError, match=r"system, which .* could run code; no code was run"):
        labkit.load(path)
    assert not mark.exists()


def test_a_nemo_configuration_that_wants_to_run_code(tmp_path: Path, model: tuple[Path, dict[str, Tensor]]) -> None:
    folder, mark = write_nemo(tmp_path, model[0], 1), tmp_path / "ran"
    (folder / "model_config.yaml").write_text(f"!!python/object/apply:os.system ['touch {mark}']")
    with pytest.raises(CheckpointError, match=r"cannot read model_config\.yaml as plain YAML"):
        open_checkpoint(folder)
    assert not mark.exists()
    yaml.unsafe_load((folder / "model_config.yaml").read_text())  # the file is a real danger
    assert mark.exists()


@pytest.mark.parametrize("packed", ["w", "w:gz"])
@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("/tmp/absolute", tarfile.REGTYPE, "would be unpacked outside its folder"),
        ("../outside", tarfile.REGTYPE, "would be unpacked outside its folder"),
        ("inner/../../outside", tarfile.REGTYPE, "would be unpacked outside its folder"),
        ("model_weights.ckpt", tarfile.SYMTYPE, "a link or a device"),
        ("other", tarfile.LNKTYPE, "a link or a device"),
        ("device", tarfile.CHRTYPE, "a link or a device"),
    ],
)
def test_tar_members_that_escape(tmp_path: Path, packed: str, name: str, kind: bytes, words: str) -> None:
    path = tmp_path / "in" / "model.nemo"
    path.parent.mkdir()
    content = b"num_layers: 1"
    with tarfile.open(path, packed) as archive:
        good = tarfile.TarInfo("model_config.yaml")
        good.size = len(content)
        archive.addfile(good, io.BytesIO(content))
        bad = tarfile.TarInfo(name)
        bad.type, bad.linkname = kind, "/etc/passwd"
        if kind == tarfile.REGTYPE:
            bad.size = len(content)
        archive.addfile(bad, io.BytesIO(content))
    with pytest.raises(CheckpointError, match=words) as caught:
        open_checkpoint(path)
    assert repr(name) in str(caught.value)
    assert {found.name for found in tmp_path.rglob("*")} == {"in", "model.nemo"}


def test_a_nemo_of_neither_kind(tmp_path: Path) -> None:
    for number, content in enumerate((b"", b"no tar at all" * 100, gzip.compress(b"no tar at all" * 100))):
        path = tmp_path / f"{number}.nemo"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"{number}\.nemo"):
            open_checkpoint(path)
