"""`labkit.compress`: the engine runs its directories with the stored numbers, also after an interruption and on two ranks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import labkit
from labkit.checkpoints import open_checkpoint
from labkit.checkpoints.conversion import convert
from labkit.checkpoints.quantized_directory import QuantizedDirectoryCheckpoint
from labkit.checkpoints.safetensors_file import SafetensorsFile
from labkit.compress import CalibrationText, compress, method_named
from labkit.errors import CheckpointError, InvalidRequest
from labkit.parallel import Layout, load_parallel

PROMPT = "In the beginning of the year"
TEXT = CalibrationText("text", CalibrationText.read().text[:6000])
FEW: dict[str, Any] = {"calibration": TEXT, "windows": 3, "window": 64}


@pytest.fixture(scope="module")
def made(short: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model, compressed by several methods."""
    folder, found = tmp_path_factory.mktemp("compressed"), {}
    for name, options in {
        "int8": {},
        "int4-rtn": {"asymmetric": True},
        "int4-awq": {},
        "int4-gptq": {},
        "int3-rtn": {"group_size": 32},
    }.items():
        found[name] = folder / name
        compress(short, found[name], method_named(name, **options), **FEW)
    return found


def logits(model: Path | str, **options: Any) -> torch.Tensor:
    with labkit.load(model, device="cpu", **options) as engine:
        assert engine.tokenizer is not None
        return engine.logits(engine.tokenizer.encode(PROMPT)).float()


@pytest.mark.parametrize("name", ["int8", "int4-awq", "int4-gptq"])
def test_kernels_run_the_stored_numbers(made: dict[str, Path], short: Path, name: str) -> None:
    checkpoint = open_checkpoint(made[name])
    assert isinstance(checkpoint, QuantizedDirectoryCheckpoint)
    assert checkpoint.kernel_precision == name[:4]
    dense = logits(made[name], dtype="fp32")
    kernels = logits(made[name])
    spread = float(dense.std())
    assert float((kernels - dense).abs().mean()) < 0.06 * spread  # activations are rounded to 8 bits, the cache to bf16
    if name != "int8":  # quantizing the dequantized values again would give results that are further away
        again = logits(short, dtype="int4")
        assert float((again - dense).abs().mean()) > 2 * float((kernels - dense).abs().mean())


@pytest.mark.parametrize(("name", "words"), [("int3-rtn", "int3 in groups of 32"), ("int4-rtn", "with zero points")])
def test_a_format_without_kernels_is_dequantized_and_a_warning_says_so(made: dict[str, Path], name: str, words: str) -> None:
    with pytest.warns(UserWarning, match=f"no kernels for the weights of .*{words}.* dequantized to bf16"):
        found = logits(made[name])
    dense = logits(made[name], dtype="fp32")
    assert float((found - dense).abs().mean()) < 0.05 * float(dense.std())


def test_stored_integers_are_not_quantized_again(made: dict[str, Path]) -> None:
    said = "precision int8 was asked for, but .* is quantized already .*; int4 or one of fp32"
    with pytest.raises(InvalidRequest, match=said):
        labkit.load(made["int4-gptq"], device="cpu", dtype="int8")
    with pytest.raises(InvalidRequest, match="is already quantized; give the model with dense weights"):
        compress(made["int8"], made["int8"].with_name("again"), method_named("int8"))


def test_two_ranks(made: dict[str, Path]) -> None:
    with labkit.load(made["int4-gptq"], device="cpu") as engine:
        one = engine.generate(PROMPT)[0].text
    with load_parallel(made["int4-gptq"], Layout(tensor_parallel=2)) as engine:
        two = engine.generate(PROMPT)[0].text
    assert one[:20] == two[:20]  # sums are rounded in another order, so late tokens may differ


def test_an_interrupted_call_goes_on(made: dict[str, Path], short: Path, tmp_path: Path) -> None:
    target, seen = tmp_path / "model", []

    def stop_at(done: int, total: int, name: str) -> None:
        seen.append(name)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(short, target, method_named("int4-gptq"), progress=stop_at, **FEW)
    assert not target.exists()
    parts = sorted(path.name for path in tmp_path.glob(".model.compressing/*.safetensors"))
    assert len(parts) == 2
    names: list[str] = []
    compress(short, target, method_named("int4-gptq"), progress=lambda done, total, name: names.append(name), **FEW)
    assert [name.endswith("already finished") for name in names[:4]] == [True, True, False, False]
    for file in sorted(made["int4-gptq"].glob("*.safetensors")):
        assert (target / file.name).read_bytes() == file.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_other_settings_start_again(short: Path, tmp_path: Path) -> None:
    target = tmp_path / "model"

    def stop(done: int, total: int, name: str) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(short, target, method_named("int8"), progress=stop)
    names: list[str] = []
    compress(short, target, method_named("int4-rtn"), progress=lambda done, total, name: names.append(name))
    assert not [name for name in names if "already" in name]
    assert open_checkpoint(target).path == target


def test_another_source_of_the_same_name_and_norms_starts_again(tmp_path: Path) -> None:
    """Only a matrix of the first block differs, and the folder's name is the same."""
    source, target = tmp_path / "source", tmp_path / "model"
    convert("gptj-tiny", source, "hf")

    def stop(done: int, total: int, name: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(source, target, method_named("int8"), progress=stop)
    parts = [path.read_bytes() for path in sorted(tmp_path.glob(".model.compressing/*.safetensors"))]
    assert len(parts) == 3
    file = SafetensorsFile(source / "model.safetensors")
    place = file.entries["transformer.h.0.mlp.fc_in.weight"]
    with file.path.open("r+b") as stream:
        stream.seek(place.offset)
        values = bytearray(stream.read(place.byte_count))
        values[::2] = values[::2][::-1]  # other numbers; the high bytes stay, so all of them are finite
        stream.seek(place.offset)
        stream.write(values)
    names: list[str] = []
    compress(source, target, method_named("int8"), progress=lambda done, total, name: names.append(name))
    assert not [name for name in names if "already" in name]
    compress(source, tmp_path / "whole", method_named("int8"))
    for path in sorted((tmp_path / "whole").glob("*.safetensors")):
        assert (target / path.name).read_bytes() == path.read_bytes()
    assert (target / "model-00001-of-00009.safetensors").read_bytes() != parts[0]


def test_nothing_is_left_of_a_refused_call(made: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for target, method, said in (
        ("there", method_named("int8"), "exists; give another target"),
        ("new", method_named("int4-rtn", group_size=48), "group size 48 does not divide the 256 inputs"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            compress("gptj-tiny", tmp_path / target, method)
    with pytest.raises(InvalidRequest, match="is empty"):
        compress("gptj-tiny", tmp_path / "new", method_named("int4-gptq"), calibration=CalibrationText("none", ""))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["int5", "int4-obq", "gptq", ""])
def test_methods_that_do_not_exist(name: str) -> None:
    with pytest.raises(InvalidRequest, match="int4-awq"):
        method_named(name)


@pytest.mark.parametrize("name", ["int4-rtn", "int8-mse", "int3-awq", "int1"])
@pytest.mark.parametrize("option", [{"damping": 0.02}, {"activation_order": False}])
def test_options_of_gptq_need_a_method_that_uses_gptq(name: str, option: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"(damping|activation-order) is .*, but method .* does not use GPTQ; intN-gptq"):
        method_named(name, **option)
    for accepted, more in (("int4-gptq", {}), ("int4-qat", {}), ("mixed", {"bits": 4.5})):
        found = method_named(accepted, **option, **more)
        assert [getattr(found, name) for name in option] == list(option.values())


def broken(source: Path, target: Path, change: str) -> Path:
    """Copy a compressed directory. In the copy's first file, a tensor is missing or has a wrong shape or wrong values."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target)
    path = sorted(target.glob("*.safetensors"))[0]
    tensors, name = load_file(path), "transformer.h.0.mlp.fc_out.weight_scale"
    if change == "missing":
        del tensors[name]
        index = json.loads((target / "model.safetensors.index.json").read_text())
        del index["weight_map"][name]
        (target / "model.safetensors.index.json").write_text(json.dumps(index))
    elif change == "shape":
        tensors[name] = tensors[name][:, :1].contiguous()
    elif change == "nan":
        tensors[name][5] = torch.nan
    else:
        tensors["transformer.h.0.mlp.fc_out.weight_packed"] = tensors["transformer.h.0.mlp.fc_out.weight_packed"][:-1].clone()
    save_file(tensors, path)
    return target


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("missing", "lacks transformer.h.0.mlp.fc_out.weight_scale, without which"),
        ("shape", r"fc_out.weight_scale has shape \(256, 1\) and float16, but floating point of shape \[256, 16\] is needed"),
        ("packed", r"fc_out.weight_packed has shape \(255, 128\) and int32, but int32 of shape"),
        ("nan", "fc_out.weight_scale holds values that are NaN or infinite"),
    ],
)
def test_a_damaged_directory(made: dict[str, Path], tmp_path: Path, change: str, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        labkit.load(broken(made["int4-gptq"], tmp_path / "model", change), device="cpu")


def test_the_files_have_the_names_and_sizes_of_compressed_tensors(made: dict[str, Path]) -> None:
    file = SafetensorsFile(sorted(made["int3-rtn"].glob("*.safetensors"))[0])
    prefix = "transformer.h.0.mlp.fc_out."
    assert file.entry(f"{prefix}weight_packed").shape == (256, 1024 * 3 // 32)
    assert file.entry(f"{prefix}weight_scale").shape == (256, 1024 // 32)
    assert file.load(f"{prefix}weight_shape").tolist() == [256, 1024]
    settings = json.loads((made["int3-rtn"] / "config.json").read_text())["quantization_config"]
    assert settings["config_groups"]["group_0"]["weights"]["num_bits"] == 3
    assert settings["config_groups"]["group_1"]["targets"] == ["lm_head"]


def test_transformers_computes_the_same(made: dict[str, Path]) -> None:
    pytest.importorskip("compressed_tensors", reason="not measured here: compressed-tensors is not installed")
    transformers = pytest.importorskip("transformers")
    for name in ("int8", "int4-gptq", "int3-rtn"):
        peer = transformers.AutoModelForCausalLM.from_pretrained(made[name], dtype=torch.float32)
        with labkit.load(made[name], device="cpu", dtype="fp32") as engine, torch.no_grad():
            assert engine.tokenizer is not None
            ids = engine.tokenizer.encode(PROMPT)
            assert torch.allclose(engine.logits(ids).float(), peer(torch.tensor([ids])).logits[0], atol=2e-3)
