"""2:4 sparse directories: stored forms, the engine's results, recovery, options, and permuted channels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import labkit
from labkit.checkpoints import open_checkpoint
from labkit.checkpoints.integer_weight import IntegerWeight
from labkit.checkpoints.quantized_directory import QuantizedDirectoryCheckpoint
from labkit.checkpoints.safetensors_file import SafetensorsFile
from labkit.checkpoints.safetensors_writer import write_safetensors
from labkit.checkpoints.sparse_matrix import pack_mask, unpack_mask
from labkit.compress import CalibrationText, compress, recipe_named
from labkit.compress.dense_model import DenseModel
from labkit.compress.recovery import RecoveryOptions, RecoveryState, recover
from labkit.compress.two_four import is_two_four, magnitude_scores, two_four_mask
from labkit.errors import CheckpointError, InvalidRequest
from labkit.parallel import Layout, load_parallel
from labkit.weight_formats import Sparse24Weight
from tests.compress.directories import dense_directory

PROMPT = "In the beginning of the year"
FEW: dict[str, Any] = {
    "calibration": CalibrationText("text", CalibrationText.read().text[:12000]),
    "windows": 6,
    "window": 128,
}
FORMS = {"2:4-magnitude": "sparse24", "2:4-sparsegpt+int8": "sparse24_int8", "2:4-wanda+int4": "int4"}
MODULE = "transformer.h.1.mlp.fc_out"


@pytest.fixture(scope="module")
def made(short: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model, compressed by several methods."""
    folder, found = tmp_path_factory.mktemp("sparse"), {}
    for name in FORMS:
        found[name] = folder / name.replace(":", "")
        compress(short, found[name], recipe_named(name), **FEW)
    return found


def logits(model: Path | str, **options: Any) -> torch.Tensor:
    with labkit.load(model, device="cpu", **options) as engine:
        assert engine.tokenizer is not None
        return engine.logits(engine.tokenizer.encode(PROMPT)).float()


def opened(path: Path) -> QuantizedDirectoryCheckpoint:
    checkpoint = open_checkpoint(path)
    assert isinstance(checkpoint, QuantizedDirectoryCheckpoint)
    return checkpoint


def test_bitmasks_are_those_of_compressed_tensors() -> None:
    """Bit b of byte k is column 8 k + b, as numpy.packbits(bitorder="little") makes them."""
    import numpy

    mask = torch.rand(5, 20, generator=torch.Generator().manual_seed(0)) > 0.5
    packed = pack_mask(mask)
    assert packed.tolist() == numpy.packbits(mask.numpy(), axis=-1, bitorder="little").tolist()
    assert torch.equal(unpack_mask(packed, 20), mask)


def test_magnitude_keeps_the_largest_and_nothing_else(made: dict[str, Path], short: Path) -> None:
    """The directory holds exactly the masked weights, in half as many numbers; its dense tensors are unchanged."""
    dense, found = open_checkpoint(short), opened(made["2:4-magnitude"])
    weight = dense.read(f"{MODULE}.weight")
    expected = weight * two_four_mask(magnitude_scores(weight.float()))
    assert torch.equal(found.read(f"{MODULE}.weight"), expected)
    assert torch.equal(found.read(f"{MODULE}.weight", rows=slice(7, 9), columns=slice(3, 30)), expected[7:9, 3:30])
    assert torch.equal(found.read("lm_head.weight"), dense.read("lm_head.weight"))
    files = [SafetensorsFile(file) for file in sorted(made["2:4-magnitude"].glob("*.safetensors"))]
    file = next(file for file in files if f"{MODULE}.compressed" in file.names)
    assert file.entry(f"{MODULE}.compressed").shape == (256, 512)
    assert file.entry(f"{MODULE}.bitmask").shape == (256, 128)
    assert file.load(f"{MODULE}.shape").tolist() == [[256], [1024]]
    said = json.loads((made["2:4-magnitude"] / "config.json").read_text())["quantization_config"]["sparsity_config"]
    assert (said["format"], said["sparsity_structure"]) == ("sparse-24-bitmask", "2:4")


@pytest.mark.parametrize("name", FORMS)
def test_kernels_run_the_stored_numbers(made: dict[str, Path], name: str) -> None:
    checkpoint = opened(made[name])
    assert checkpoint.kernel_precision == FORMS[name]
    for module in ("attn.q_proj", "attn.out_proj", "mlp.fc_in", "mlp.fc_out"):
        weight = checkpoint.read(f"transformer.h.2.{module}.weight", dtype=torch.float32)
        assert is_two_four(weight)
        assert float((weight != 0).float().mean()) > 0.4
    dense, kernels = logits(made[name], dtype="fp32"), logits(made[name])
    assert float((kernels - dense).abs().mean()) < 0.06 * float(dense.std())


def test_a_matrix_may_be_read_in_parts(made: dict[str, Path]) -> None:
    checkpoint = opened(made["2:4-magnitude"])
    whole = checkpoint.read(f"{MODULE}.weight", dtype=torch.float32)
    part = checkpoint.integers(f"{MODULE}.weight", slice(16, 64), slice(512, 1024))
    assert isinstance(part, Sparse24Weight)
    assert torch.equal(part.dequantize(), whole[16:64, 512:])
    with pytest.raises(InvalidRequest, match="columns 4 to 1024 of a 2:4 sparse matrix cannot be taken"):
        checkpoint.integers(f"{MODULE}.weight", None, slice(4, 1024))
    integers = opened(made["2:4-wanda+int4"]).integers(f"{MODULE}.weight", None, slice(512, 1024))
    assert isinstance(integers, IntegerWeight)
    assert is_two_four(integers.dequantize())


def test_two_ranks(made: dict[str, Path]) -> None:
    with labkit.load(made["2:4-magnitude"], device="cpu") as engine:
        one = engine.generate(PROMPT)[0].text
    with load_parallel(made["2:4-magnitude"], Layout(tensor_parallel=2)) as engine:
        two = engine.generate(PROMPT)[0].text
    assert one[:20] == two[:20]  # sums are rounded in another order, so late tokens may differ


def test_files_are_smaller_by_what_the_method_says(made: dict[str, Path]) -> None:
    """The bits per weight of the blocks' matrices are counted from the files, and must be those that the method states."""
    weights = 3 * (4 * 256 * 256 + 2 * 256 * 1024)
    for name, path in made.items():
        size = 0
        for file in map(SafetensorsFile, path.glob("*.safetensors")):
            parts = ("compressed", "bitmask", "weight_packed", "weight_scale")
            names = [each for each in file.names if ".h." in each and each.rpartition(".")[2] in parts]
            size += sum(file.entry(each).byte_count for each in names)
        assert 8 * size / weights == pytest.approx(recipe_named(name).bits_per_weight(open_checkpoint(path).config))


def damaged(source: Path, target: Path, change: dict[str, Any]) -> Path:
    """Copy a directory; in the copy, one tensor of a module is changed or missing."""
    shutil.copytree(source, target)
    for path in target.glob("*.safetensors"):
        file = SafetensorsFile(path)
        names = [name for name in file.names if name.removeprefix(f"{MODULE}.") in change]
        if names:
            tensors = {name: file.load(name) for name in file.names}
            for name in names:
                made = change[name.removeprefix(f"{MODULE}.")](tensors.pop(name))
                tensors |= {} if made is None else {name: made}
            write_safetensors(path, tensors)
    return target


@pytest.mark.parametrize(
    ("name", "part", "change", "words"),
    [
        ("2:4-magnitude", "bitmask", lambda each: each | 1, "does not keep two of every four"),
        (
            "2:4-magnitude",
            "bitmask",
            lambda each: each[:, :5].contiguous(),
            r"bitmask has shape .* uint8 of shape \[256, 128\]",
        ),
        ("2:4-magnitude", "compressed", lambda each: each[:, :-1].contiguous(), r"floating point of shape \[256, 512\]"),
        ("2:4-magnitude", "shape", lambda each: each + 1, r"shape says \(257, 1025\), but config.json calls for \(256, 1024\)"),
        ("2:4-sparsegpt+int8", "weight_scale", lambda each: each[:3].contiguous(), r"floating point of shape \[256, 1\]"),
        ("2:4-wanda+int4", "weight_packed", lambda each: each[:, 1:].contiguous(), r"int32 of shape \[256, 64\]"),
    ],
)
def test_damaged_files(made: dict[str, Path], tmp_path: Path, name: str, part: str, change: Any, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(damaged(made[name], tmp_path / "copy", {part: change})).read(f"{MODULE}.weight")


def test_permuted_channels_keep_more_and_compute_the_same(tmp_path: Path) -> None:
    source = dense_directory(tmp_path / "dense", torch.float32)
    losses = {}
    dense = DenseModel(open_checkpoint(source))
    ids = [(5 * each) % 97 for each in range(24)]
    for name, permute in (("plain", None), ("permuted", True)):
        compress(source, tmp_path / name, recipe_named("2:4-magnitude", permute=permute))
        found = DenseModel(open_checkpoint(tmp_path / name))
        losses[name] = float((found.logits(ids) - dense.logits(ids)).square().mean())
    assert losses["permuted"] != losses["plain"]
    assert losses["permuted"] < 1.2 * losses["plain"]
    assert (tmp_path / "permuted" / "permutations.json").is_file()


IDS = [[(5 * each + shift) % 97 for each in range(24)] for shift in range(5)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DenseModel:
    return DenseModel(open_checkpoint(dense_directory(tmp_path_factory.mktemp("dense") / "model")))


def start_of(model: DenseModel) -> RecoveryState:
    names = [name for name in model.tensors if ".h." in name]
    masks = {name: two_four_mask(model.tensors[name].abs()) for name in names if model.tensors[name].dim() == 2}
    return RecoveryState.start({name: model.tensors[name] * masks.get(name, torch.ones(())) for name in names}, masks)


def divergence(model: DenseModel, tensors: dict[str, torch.Tensor]) -> float:
    total = 0.0
    for ids in IDS:
        with torch.no_grad():
            teacher, student = (torch.log_softmax(model.logits(ids, each), -1) for each in (None, tensors))
        total += float((teacher.exp() * (teacher - student)).sum(-1).mean()) / len(IDS)
    return total


def test_recovery_keeps_the_mask_and_comes_closer(model: DenseModel, tmp_path: Path) -> None:
    told: list[str] = []
    options = RecoveryOptions(steps=40, rate=2e-3)
    state = recover(model, start_of(model), IDS, options, 0, tmp_path / "state", lambda done, total, name: told.append(name))
    assert divergence(model, state.tensors) < 0.6 * divergence(model, start_of(model).tensors)
    for name, mask in state.masks.items():
        assert not bool(state.tensors[name].detach()[~mask].any())
        assert not torch.equal(state.tensors[name], start_of(model).tensors[name])
    assert told[0] == "recovery step 1"
    assert "divergence 0." in told[-1]
    assert told[-1].endswith("left")


def test_a_killed_recovery_goes_on_to_the_same_result(model: DenseModel, tmp_path: Path) -> None:
    options, begun = RecoveryOptions(steps=36, rate=2e-3), []
    whole = recover(model, start_of(model), IDS, options, 0, tmp_path / "whole", lambda done, total, name: None)

    def stop(done: int, total: int, name: str) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recover(model, start_of(model), IDS, options, 0, tmp_path / "state", stop)
    again = recover(model, None, IDS, options, 0, tmp_path / "state", lambda done, total, name: begun.append(done))
    assert begun[0] == 16  # the last step after which the state was saved
    for name, tensor in whole.tensors.items():
        assert torch.equal(tensor, again.tensors[name])


def test_a_recovered_directory(short: Path, tmp_path: Path) -> None:
    recipe = recipe_named("2:4-wanda-recovered+int8", steps=2, continuations=1)
    compress(short, tmp_path / "model", recipe, **FEW | {"windows": 2})
    found = opened(tmp_path / "model")
    weight = found.read(f"{MODULE}.weight", dtype=torch.float32)
    assert is_two_four(weight)
    assert not {"training.safetensors", "written.json"} & {path.name for path in (tmp_path / "model").iterdir()}
    training = json.loads((tmp_path / "model" / "compression.json").read_text())["training"]
    assert (training["steps"], training["continuations"]) == (2, 1)
    norm = "transformer.h.1.ln_1.weight"
    assert not torch.equal(found.read(norm), open_checkpoint(short).read(norm))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("2:4-obs", {}, "2:4-wanda"),
        ("2:4-wanda", {"damping": 0.1}, "2:4-sparsegpt has damping"),
        ("2:4-sparsegpt", {"damping": 0.0}, "a number above 0"),
        ("2:4-sparsegpt", {"steps": 5}, "2:4-sparsegpt-recovered has steps"),
        ("2:4-sparsegpt", {"continuations": 4}, "2:4-sparsegpt-recovered has continuations"),
        ("2:4-wanda-recovered", {"continuations": -1}, "continuations is -1; a whole number of at least 0"),
        ("int4-gptq", {"continuations": 1}, "method int4-gptq trains nothing; intN-qat has continuations"),
        ("2:4-wanda+int8", {"group_size": 64}, r"only 2:4-\.\.\.\+int4 has groups"),
        ("2:4-wanda", {"alpha": 0.5}, "alpha is not an option of 2:4-wanda, which prunes weights"),
        ("int8", {"permute": True}, "permute is not an option of int8, which quantizes weights only"),
        ("2:4-wanda-recovered", {"steps": -1}, "steps of the recovery is -1"),
    ],
)
def test_options_that_are_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        recipe_named(name, **options)
