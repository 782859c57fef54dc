"""W8A8 and FP8 directories: the stored numbers, the kernels that run them, several ranks, and directories that are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import labkit
from labkit.checkpoints import open_checkpoint
from labkit.checkpoints.eight_bit_matrix import EightBitMatrix
from labkit.checkpoints.eight_bit_scheme import EightBitScheme
from labkit.checkpoints.quantized_directory import QuantizedDirectoryCheckpoint
from labkit.checkpoints.weight_files import open_weights
from labkit.compress import CalibrationText, compress, recipe_named
from labkit.compress.rounded_inputs import RoundedInputs
from labkit.errors import CheckpointError, InvalidRequest
from labkit.parallel import Layout, load_parallel
from labkit.weight_formats import Fp8Weight, W8A8Weight

PROMPT = "In the beginning of the year"
TEXT = CalibrationText("text", CalibrationText.read().text[:6000])
FEW: dict[str, Any] = {"calibration": TEXT, "windows": 3, "window": 64}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "w8a8": ("w8a8", {}),
    "static": ("w8a8-smoothquant", {"activations": "static", "calibrator": "percentile"}),
    "fp8": ("fp8", {}),
    "fp8-static": ("fp8", {"activations": "static", "weight_scales": "tensor"}),
}


@pytest.fixture(scope="module")
def made(short: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model, compressed by several methods."""
    folder, found = tmp_path_factory.mktemp("compressed"), {}
    for key, (name, options) in METHODS.items():
        found[key] = folder / key
        compress(short, found[key], recipe_named(name, **options), **FEW)
    return found


def logits(model: Path | str, **options: Any) -> torch.Tensor:
    with labkit.load(model, device="cpu", **options) as engine:
        assert engine.tokenizer is not None
        return engine.logits(engine.tokenizer.encode(PROMPT)).float()


@pytest.mark.parametrize("key", METHODS)
def test_the_engine_runs_the_directory(made: dict[str, Path], short: Path, key: str) -> None:
    checkpoint = open_checkpoint(made[key])
    assert isinstance(checkpoint, QuantizedDirectoryCheckpoint)
    assert checkpoint.kernel_precision == key.removesuffix("-static").replace("static", "w8a8")
    dense, rounded, found = logits(short), logits(made[key], dtype="fp32"), logits(made[key])
    spread = float(dense.std())
    assert 0 < float((rounded - dense).abs().mean()) < 0.1 * spread
    assert float((found - rounded).abs().mean()) < (0.1 if "fp8" in key else 0.05) * spread


def test_the_files_have_the_names_of_compressed_tensors(made: dict[str, Path]) -> None:
    tensors, prefix = load_file(sorted(made["static"].glob("*.safetensors"))[0]), "transformer.h.0."
    assert tensors[f"{prefix}mlp.fc_out.weight"].dtype == torch.int8
    assert tensors[f"{prefix}mlp.fc_out.weight_scale"].shape == (256, 1)
    inputs = {name.removesuffix(".input_scale"): float(tensors[name]) for name in tensors if name.endswith("input_scale")}
    assert len(inputs) == 6
    assert len({inputs[f"{prefix}{name}"] for name in ("attn.q_proj", "attn.k_proj", "attn.v_proj", "mlp.fc_in")}) == 1
    settings = json.loads((made["static"] / "config.json").read_text())["quantization_config"]
    assert settings["format"] == "int-quantized"
    group = settings["config_groups"]["group_0"]
    assert (group["input_activations"]["strategy"], group["input_activations"]["dynamic"]) == ("tensor", False)
    assert (group["weights"]["strategy"], group["weights"]["num_bits"]) == ("channel", 8)
    assert settings["config_groups"]["group_1"]["input_activations"] is None
    dynamic = json.loads((made["fp8"] / "config.json").read_text())["quantization_config"]["config_groups"]["group_0"]
    assert (dynamic["format"], dynamic["input_activations"]["strategy"]) == ("float-quantized", "token")


def test_stored_numbers_are_the_rounded_weights(made: dict[str, Path], short: Path) -> None:
    name = "transformer.h.1.mlp.fc_in"
    dense = open_checkpoint(short).read(f"{name}.weight")
    for key, form in (("w8a8", W8A8Weight), ("fp8", Fp8Weight)):
        checkpoint = open_checkpoint(made[key])
        assert isinstance(checkpoint, QuantizedDirectoryCheckpoint)
        found, expected = checkpoint.integers(f"{name}.weight"), form.quantize(dense.float())
        assert isinstance(found, form)
        assert torch.equal(found.values.float(), expected.values.float())
        assert torch.equal(found.scales, expected.scales)
        part = checkpoint.integers(f"{name}.weight", rows=slice(8, 24), columns=slice(32, 64))
        assert part is not None
        assert torch.equal(part.dequantize(), expected.dequantize()[8:24, 32:64])


@pytest.mark.parametrize("key", ["w8a8", "static"])
def test_two_ranks(made: dict[str, Path], key: str) -> None:
    with labkit.load(made[key], device="cpu") as engine:
        one = engine.generate(PROMPT)[0].text
    with load_parallel(made[key], Layout(tensor_parallel=2)) as engine:
        two = engine.generate(PROMPT)[0].text
    assert one[:12] == two[:12]  # each rank rounds its own part of the inputs, so late tokens may differ


def test_without_the_native_library_torch_computes_the_same(made: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = logits(made["static"])
    monkeypatch.setattr("labkit.native.available", lambda: False)
    monkeypatch.setattr("labkit.native.warn_once", lambda: None)
    found = logits(made["static"])
    assert float((found - expected).abs().mean()) < 0.05 * float(expected.std())  # torch computes in bfloat16 between layers


def changed(source: Path, target: Path, change: str) -> Path:
    """A copy of a directory, damaged in its first file or in its settings."""
    shutil.copytree(source, target)
    path, name = sorted(target.glob("*.safetensors"))[0], "transformer.h.0.attn.k_proj"
    tensors, config = load_file(path), json.loads((target / "config.json").read_text())
    if change == "missing":
        del tensors[f"{name}.input_scale"]
        index = json.loads((target / "model.safetensors.index.json").read_text())
        del index["weight_map"][f"{name}.input_scale"]
        (target / "model.safetensors.index.json").write_text(json.dumps(index))
    elif change == "zero":
        tensors[f"{name}.input_scale"] *= 0
    elif change == "other":
        tensors[f"{name}.input_scale"] *= 2
    elif change == "shape":
        tensors[f"{name}.weight_scale"] = tensors[f"{name}.weight_scale"][:-1].clone()
    else:
        config["quantization_config"]["config_groups"]["group_0"]["input_activations"] |= {"strategy": "group"}
    save_file(tensors, path)
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("missing", r"lacks transformer.h.0.attn.k_proj.input_scale, but config.json says that inputs are static"),
        ("zero", r"k_proj.input_scale is 0.0; a number above 0 is needed"),
        ("shape", r"k_proj.weight_scale has shape \(255, 1\) and float32, but floating point of shape \[256, 1\] is needed"),
        ("strategy", "inputs are static with strategy 'group'; dynamic token and static tensor are accepted"),
    ],
)
def test_a_damaged_directory(made: dict[str, Path], tmp_path: Path, change: str, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        labkit.load(changed(made["static"], tmp_path / "model", change), device="cpu")


def test_matrices_that_disagree_on_their_inputs_are_dequantized(made: dict[str, Path], tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="no kernels for the weights of .* dequantized to bf16"):
        logits(changed(made["static"], tmp_path / "model", "other"))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("w8a8", {"group_size": 64}, "group-size is not an option of w8a8"),
        ("int4-gptq", {"activations": "static"}, "activations is not an option of int4-gptq, which quantizes weights only"),
        ("w8a8", {"alpha": 0.5}, "method w8a8 does no smoothing; only w8a8-smoothquant has alpha"),
        ("w8a8", {"calibrator": "mse"}, "calibrator is 'mse', but activations are dynamic"),
        ("fp8", {"activations": "static", "calibrator": "entropy"}, "calibrator is 'entropy', which counts .* int8; for fp8"),
        ("w8a8", {"activations": "both"}, "activations is 'both'; dynamic and static are accepted"),
        ("w8a8-smoothquant", {"alpha": 3.0}, "alpha is 3.0; a number from 0"),
        ("w4a4", {}, "method is 'w4a4'; int8-rtn, .*w8a8-smoothquant, fp8"),
    ],
)
def test_options_that_are_refused(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        recipe_named(name, **options)


def test_mse_rounds_as_the_method_does() -> None:
    """One large input is worth keeping in FP8, whose steps grow with the numbers, and not worth keeping in int8."""
    x = torch.randn(1000, 200, generator=torch.Generator().manual_seed(3))
    x[0, 0] = 80.0
    kept: dict[str, float] = {}
    for name, most in (("w8a8", 127), ("fp8", 448), ("fp8_e5m2", 57344)):
        recipe = recipe_named(name, activations="static", calibrator="mse")
        assert isinstance(recipe, RoundedInputs)
        kept[name] = recipe._scale("a layer", lambda: [x]) * most
    assert kept["w8a8"] < 60
    assert min(kept["fp8"], kept["fp8_e5m2"]) > 75


@pytest.mark.parametrize(("dtype", "bad"), [(torch.float8_e5m2, torch.inf), (torch.float8_e4m3fn, torch.nan)])
def test_numbers_of_fp8_that_are_not_finite(tmp_path: Path, dtype: torch.dtype, bad: float) -> None:
    weight = torch.ones(4, 8)
    weight[2, 3] = bad
    save_file({"m.weight": weight.to(dtype), "m.weight_scale": torch.ones(4, 1)}, tmp_path / "model.safetensors")
    weights = open_weights(tmp_path)
    assert weights is not None
    matrix = EightBitMatrix(tmp_path, weights, "m", (4, 8), EightBitScheme("float", True, "token"))
    with pytest.raises(CheckpointError, match=r"m.weight holds values that are NaN or infinite"):
        matrix.integers(slice(0, 4))


def test_transformers_computes_the_same(made: dict[str, Path]) -> None:
    pytest.importorskip("compressed_tensors", reason="not measured here: compressed-tensors is not installed")
    transformers = pytest.importorskip("transformers")
    for key in ("w8a8", "static"):
        peer = transformers.AutoModelForCausalLM.from_pretrained(made[key], dtype=torch.float32)
        with labkit.load(made[key], device="cpu") as engine, torch.no_grad():
            assert engine.tokenizer is not None
            ids = engine.tokenizer.encode(PROMPT)
            found, expected = engine.logits(ids).float(), peer(torch.tensor([ids])).logits[0]
            assert float((found - expected).abs().mean()) < 0.05 * float(expected.std())
