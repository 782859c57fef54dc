"""Directories of quantized weights from other programs: the GPTQ layout and compressed-tensors, built here tensor by tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import labkit
from labkit.checkpoints import open_checkpoint
from labkit.checkpoints.bit_packing import pack
from labkit.checkpoints.integer_weight import IntegerScheme, IntegerWeight
from labkit.checkpoints.quantized_directory import QuantizedDirectoryCheckpoint
from labkit.checkpoints.stored_matrix import PackQuantized
from labkit.checkpoints.weight_files import open_weights
from labkit.errors import CheckpointError
from tests.compress.directories import dense_directory

GROUP = 32


def gptq_directory(path: Path, *, bits: int, version: str, symmetric: bool, reordered: bool) -> tuple[Path, dict[str, Tensor]]:
    """Write a directory as AutoGPTQ does. Return it, and the dense matrices that it represents: w = scale * (q - zero)."""
    dense_directory(path)
    tensors, chooser, meant = load_file(path / "model.safetensors"), torch.Generator().manual_seed(0), {}
    for name in [name for name in tensors if name.endswith(("_proj.weight", "fc_in.weight", "fc_out.weight"))]:
        out, inner = tensors.pop(name).shape
        groups, module = inner // GROUP, name.removesuffix(".weight")
        integers = torch.randint(0, 1 << bits, (inner, out), generator=chooser)
        half = torch.full((groups, out), 1 << (bits - 1))
        zeros = half if symmetric else torch.randint(1, 1 << bits, (groups, out), generator=chooser)
        scales = (torch.rand(groups, out, generator=chooser) * 0.02 + 0.001).half()
        of_column = torch.arange(inner) // GROUP
        if reordered:
            of_column = of_column[torch.randperm(inner, generator=chooser)]
        meant[name] = (scales.float()[of_column] * (integers - zeros[of_column])).T
        tensors |= {
            f"{module}.qweight": pack(integers.T.contiguous(), bits).T.contiguous(),
            f"{module}.qzeros": pack(zeros - int(version == "gptq"), bits),
            f"{module}.scales": scales,
            f"{module}.g_idx": of_column.int(),
        }
    save_file(tensors, path / "model.safetensors")
    said: dict[str, Any] = {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "sym": symmetric, "desc_act": reordered}
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"quantization_config": said | {"checkpoint_format": version}}))
    return path, meant


@pytest.mark.parametrize(
    ("bits", "version", "symmetric", "reordered", "precision"),
    [
        (4, "gptq", True, False, "int4"),
        (4, "gptq_v2", False, False, None),
        (4, "gptq", True, True, None),
        (3, "gptq", True, False, None),
        (2, "gptq", False, True, None),
        (8, "gptq", True, False, None),
    ],
)
def test_the_gptq_layout(
    tmp_path: Path, bits: int, version: str, symmetric: bool, reordered: bool, precision: str | None
) -> None:
    path, meant = gptq_directory(tmp_path / "model", bits=bits, version=version, symmetric=symmetric, reordered=reordered)
    checkpoint = open_checkpoint(path)
    assert isinstance(checkpoint, QuantizedDirectoryCheckpoint)
    assert checkpoint.kernel_precision == precision
    for name, dense in meant.items():
        assert torch.allclose(checkpoint.read(name, dtype=torch.float32), dense, atol=1e-6)
        part = checkpoint.read(name, dtype=torch.float32, rows=slice(3, 20), columns=slice(16, 48))
        assert torch.allclose(part, dense[3:20, 16:48], atol=1e-6)
    if precision:
        with labkit.load(path, device="cpu") as engine, labkit.load(path, device="cpu", dtype="fp32") as dense_engine:
            ours, theirs = engine.logits([1, 2, 3]).float(), dense_engine.logits([1, 2, 3])
        assert float((ours - theirs).abs().mean()) < 0.05 * float(theirs.std())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_zero_points_of_the_first_version_are_converted_in_whole_words(tmp_path: Path, bits: int) -> None:
    """GPTQModel subtracts 1 from every number of an int32 word at once, so a zero point of 0 borrows from its neighbour."""
    path, _ = gptq_directory(tmp_path / "model", bits=bits, version="gptq_v2", symmetric=False, reordered=False)
    tensors, chooser = load_file(path / "model.safetensors"), torch.Generator().manual_seed(4)
    ones = sum(1 << place for place in range(0, 32, bits))
    second = {name: torch.empty_like(tensors[name]).random_(generator=chooser) for name in tensors if name.endswith("qzeros")}
    save_file(tensors | second, path / "model.safetensors")
    names = [f"{name.removesuffix('.qzeros')}.weight" for name in second]
    meant = {name: open_checkpoint(path).read(name) for name in names}
    # int32 arithmetic wraps around, as in GPTQModel
    first = {name: words - torch.tensor(ones).to(torch.int32) for name, words in second.items()}
    save_file(tensors | first, path / "model.safetensors")
    settings = (path / "config.json").read_text()
    (path / "config.json").write_text(settings.replace('"gptq_v2"', '"gptq"'))
    for name, dense in meant.items():
        assert torch.equal(open_checkpoint(path).read(name), dense)


@pytest.mark.parametrize(
    ("part", "said"),
    [("scales", "lacks .*q_proj.scales, without which"), ("qweight", "q_proj.qweight has shape")],
)
def test_a_gptq_directory_that_is_damaged(tmp_path: Path, part: str, said: str) -> None:
    path, _ = gptq_directory(tmp_path / "model", bits=4, version="gptq", symmetric=True, reordered=False)
    tensors, name = load_file(path / "model.safetensors"), f"transformer.h.0.attn.q_proj.{part}"
    tensors[name] = tensors[name][:-1].clone()
    if part == "scales":
        del tensors[name]
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"format": "naive-quantized", "config_groups": {"group_0": {}}},
            "its format is 'naive-quantized'; pack-quantized, int-quantized, float-quantized are accepted",
        ),
        ({"config_groups": {}}, "it has no config_groups"),
        (
            {"config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "float"}}}},
            "its weights are not integers; weights of type int are accepted",
        ),
        ({"config_groups": {"group_0": {"weights": {"num_bits": 99}}}}, "bits is 99; 1 to 8 bits per weight are accepted"),
        (
            {"config_groups": {"group_0": {"weights": {"num_bits": 8}, "input_activations": {"num_bits": 8}}}},
            r"it quantizes activations as well \(input_activations\)",
        ),
        (
            {"config_groups": {"group_0": {}}, "transform_config": {"config_groups": {"u": {"type": "hadamard"}}}},
            "its transform_config transforms activations",
        ),
    ],
)
def test_settings_that_are_not_read(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = dense_directory(tmp_path / "model")
    settings = {"quant_method": "compressed-tensors", "format": "pack-quantized"} | change
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    with pytest.raises(CheckpointError, match=f"has a quantization_config that labkit does not read: {said}"):
        open_checkpoint(path)


@pytest.mark.parametrize("columns", [slice(0, 64), slice(64, 128), slice(32, 96), slice(16, 48), slice(8, 128)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_part_of_the_columns_keeps_its_values(columns: slice, symmetric: bool) -> None:
    chooser = torch.Generator().manual_seed(1)
    for size in (None, 32, 64):
        scheme = IntegerScheme(4, size, symmetric)
        groups = scheme.groups(128)
        values = torch.randint(-8, 8, (5, 128), generator=chooser, dtype=torch.int8)
        scales = torch.rand(5, groups, generator=chooser).half()
        zeros = None if symmetric else torch.randint(-8, 8, (5, groups), generator=chooser, dtype=torch.int8)
        weight = IntegerWeight(scheme, values, scales, zeros)
        part = weight.part(columns)
        assert torch.equal(part.dequantize(), weight.dequantize()[:, columns])
        kernel = part.for_kernels()
        assert (kernel is not None) == (symmetric and part.scheme.group_of(part.shape[1]) % 32 == 0)
        if kernel is not None:
            assert torch.equal(kernel.dequantize(), part.dequantize())


@pytest.mark.parametrize("bits", [8, 7])
def test_eight_and_seven_bits_in_one_model_are_told_apart(tmp_path: Path, bits: int) -> None:
    """8 bits fill as many words as 7 bits with gaps."""
    numbers = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (6, 64))
    parts = {"weight_packed": pack(numbers + 2 ** (bits - 1), bits), "weight_scale": torch.rand(6, 1) + 0.5}
    save_file({f"m.{name}": tensor for name, tensor in parts.items()}, tmp_path / "model.safetensors")
    weights = open_weights(tmp_path)
    assert weights is not None
    found = PackQuantized(tmp_path, weights, "m", (6, 64), [IntegerScheme(7), IntegerScheme(8)]).integers(slice(0, 6))
    assert isinstance(found, IntegerWeight)
    assert found.scheme.bits == bits
    assert torch.equal(found.dequantize(), numbers * parts["weight_scale"])


def packed_directory(path: Path, groups: dict[str, int | None], bits: int = 4) -> Path:
    """Write a directory of symmetric integers in pack-quantized. `groups` maps the ends of modules' names to group sizes."""
    dense_directory(path)
    tensors, chooser = load_file(path / "model.safetensors"), torch.Generator().manual_seed(5)
    for name in [name for name in tensors if name.endswith(("_proj.weight", "fc_in.weight", "fc_out.weight"))]:
        (out, inner), module = tensors.pop(name).shape, name.removesuffix(".weight")
        size = next(groups[end] for end in (*groups,) if module.endswith(end))
        tensors[f"{module}.weight_packed"] = pack(torch.randint(0, 1 << bits, (out, inner), generator=chooser), bits)
        scales = torch.rand(out, inner // (size or inner), generator=chooser) * 0.02 + 0.001
        tensors[f"{module}.weight_scale"] = scales.half()
    save_file(tensors, path / "model.safetensors")
    settings = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {
            f"group_{size}": {
                "targets": [f"re:.*{end}" for end in groups if groups[end] == size],
                "weights": {"num_bits": bits, "strategy": "group" if size else "channel", "group_size": size},
            }
            for size in {*groups.values()}
        },
    }
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    return path


def test_different_groups_in_q_k_and_v_are_dequantized(tmp_path: Path) -> None:
    path = packed_directory(tmp_path / "model", {"q_proj": 32, "": None})
    with (
        pytest.warns(UserWarning, match="no kernels for the weights of .* dequantized to bf16"),
        labkit.load(path, device="cpu") as engine,
    ):
        found = engine.logits([1, 2, 3]).float()
    with labkit.load(path, device="cpu", dtype="fp32") as engine:
        expected = engine.logits([1, 2, 3])
    assert float((found - expected).abs().mean()) < 0.05 * float(expected.std())


def test_different_groups_outside_of_q_k_and_v_run_in_kernels(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(packed_directory(tmp_path / "model", {"fc_in": 64, "fc_out": None, "": 32}))
    assert isinstance(checkpoint, QuantizedDirectoryCheckpoint)
    assert checkpoint.kernel_precision == "int4"


def test_reordered_inputs_of_compressed_tensors(tmp_path: Path) -> None:
    """With actorder "group", `weight_g_idx` names the group of each column."""
    path, name = packed_directory(tmp_path / "model", {"": 32}), "transformer.h.1.attn.k_proj"
    before = open_checkpoint(path)
    assert isinstance(before, QuantizedDirectoryCheckpoint)
    stored = before.integers(f"{name}.weight")
    assert isinstance(stored, IntegerWeight)
    assert before.kernel_precision == "int4"
    tensors, of_column = load_file(path / "model.safetensors"), torch.arange(64).flip(0) // 32
    save_file(tensors | {f"{name}.weight_g_idx": of_column.int()}, path / "model.safetensors")
    found = open_checkpoint(path)
    assert isinstance(found, QuantizedDirectoryCheckpoint)
    assert found.kernel_precision is None
    expected = stored.values.float() * stored.scales.float()[:, of_column]
    assert torch.equal(found.read(f"{name}.weight", dtype=torch.float32), expected)
    for wrong, said in ((of_column[1:], r"k_proj.weight_g_idx has shape \(63,\)"), (of_column + 1, "groups outside 0 to 1")):
        save_file(tensors | {f"{name}.weight_g_idx": wrong.int().clone()}, path / "model.safetensors")
        with pytest.raises(CheckpointError, match=said):
            open_checkpoint(path)
    save_file(tensors | {f"{name}.weight_g_idx": torch.full((64,), -1, dtype=torch.int32)}, path / "model.safetensors")
    found = open_checkpoint(path)
    assert isinstance(found, QuantizedDirectoryCheckpoint)
    assert found.kernel_precision == "int4"


def test_the_scales_of_a_kv_cache_are_ignored_with_a_warning(tmp_path: Path) -> None:
    path = packed_directory(tmp_path / "model", {"": 32})
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] |= {"kv_cache_scheme": {"num_bits": 8}, "transform_config": {"config_groups": {}}}
    (path / "config.json").write_text(json.dumps(config))
    scales = {f"transformer.h.0.attn.{each}_scale": torch.ones(1) for each in "kv"}
    save_file(load_file(path / "model.safetensors") | scales, path / "model.safetensors")
    with pytest.warns(UserWarning, match="has a kv_cache_scheme, which is ignored") as found:
        open_checkpoint(path)
    assert len(found) == 1


def test_an_older_directory_of_autogptq(tmp_path: Path) -> None:
    """The settings are in quantize_config.json, and the name of the weights file contains them too."""
    path, meant = gptq_directory(tmp_path / "model", bits=4, version="gptq", symmetric=True, reordered=True)
    config = json.loads((path / "config.json").read_text())
    settings = config.pop("quantization_config")
    (path / "config.json").write_text(json.dumps(config))
    older = {name: settings[name] for name in ("bits", "group_size", "sym", "desc_act")}
    (path / "quantize_config.json").write_text(json.dumps(older))
    (path / "model.safetensors").rename(path / "gptq_model-4bit-32g.safetensors")
    for name, dense in meant.items():
        assert torch.allclose(open_checkpoint(path).read(name, dtype=torch.float32), dense, atol=1e-6)
    for change, said in (
        ({"checkpoint_format": "marlin"}, r"quantize_config.json has settings .* checkpoint_format is 'marlin'"),
        ({"is_marlin_format": True}, "its is_marlin_format is true"),
        ({"quant_method": "awq"}, r"quantized by AWQ \(there is a quantize_config.json\)"),
    ):
        (path / "quantize_config.json").write_text(json.dumps(older | change))
        with pytest.raises(CheckpointError, match=said):
            open_checkpoint(path)
    (path / "quantize_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"there is a quantize_config.json without a number of bits"):
        open_checkpoint(path)


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "adapter_model.safetensors"])
def test_a_part_of_the_weights_is_not_taken_for_all_of_them(tmp_path: Path, name: str) -> None:
    path = dense_directory(tmp_path / "model")
    (path / "model.safetensors").rename(path / name)
    with pytest.raises(CheckpointError, match="holds no weights"):
        open_checkpoint(path)
    (path / name).rename(path / "gptj.safetensors")
    assert open_checkpoint(path).read("lm_head.bias").shape == (97,)
    (path / "other.safetensors").write_bytes((path / "gptj.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="holds no weights"):
        open_checkpoint(path)
