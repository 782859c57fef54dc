"""Conversion: any source can be converted to Hugging Face's format, and a target appears completely or not at all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from labkit.checkpoints import Checkpoint, convert, open_checkpoint
from labkit.config import GPTJConfig
from labkit.errors import CheckpointError, InsufficientResources, InvalidRequest
from tests.checkpoints.forms import CONFIG, files_of, load_all, same, write_source

TINY = "gptj-tiny"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_source(tmp_path / "source", 1, torch.float16)
    return tmp_path / "source"


@pytest.mark.parametrize("limit", [10**9, 30_000, 1])
def test_huggingface_form_is_loaded_by_transformers(tmp_path: Path, limit: int) -> None:
    weights = write_source(tmp_path / "source", 2, torch.bfloat16)
    done = convert(tmp_path / "source", tmp_path / "hf", "hf", shard_bytes=limit)
    files = files_of(tmp_path / "hf")
    shards = [name for name in files if name.endswith(".safetensors")]
    assert ("model.safetensors.index.json" in files) == (limit < 10**9)
    assert (len(shards) == 1) == (limit == 10**9)
    assert (len(shards) == len(weights)) == (limit == 1)
    if limit == 30_000:
        biggest = max(tensor.numel() * 2 for tensor in weights.values())
        assert all(len(files[name]) < 30_000 + biggest // 2 + 4096 for name in shards)
    assert (done.files, done.bytes) == (len(files), sum(map(len, files.values())))
    peer = transformers.GPTJForCausalLM.from_pretrained(tmp_path / "hf", dtype="auto")
    assert peer.dtype == torch.bfloat16
    found = peer.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())
    assert peer.config.layer_norm_epsilon == CONFIG.layer_norm_epsilon
    same(open_checkpoint(tmp_path / "hf"), weights)


def test_each_tensor_keeps_its_dtype_and_a_precision_changes_all(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    weights = write_source(tmp_path / "source", 3)
    mixed = {name: tensor if tensor.dim() == 1 else tensor.half() for name, tensor in weights.items()}
    save_file(mixed, tmp_path / "source" / "model.safetensors")
    convert(tmp_path / "source", tmp_path / "kept", "hf")
    convert(tmp_path / "source", tmp_path / "half", "hf", precision="bf16")
    convert(tmp_path / "source", tmp_path / "ranks", "megatron", tensor_parallel=2)
    convert(tmp_path / "ranks", tmp_path / "back", "hf")
    for kept in (load_all(tmp_path / "kept"), load_all(tmp_path / "back")):
        assert all(kept[name].dtype == tensor.dtype and torch.equal(kept[name], tensor) for name, tensor in mixed.items())
    half = load_all(tmp_path / "half")
    assert all(torch.equal(half[name], tensor.bfloat16()) for name, tensor in mixed.items())
    weights["lm_head.bias"][5] = 1e6
    save_file(weights, tmp_path / "source" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lm_head\.bias holds 1 value that is NaN or infinite as torch.float16"):
        convert(tmp_path / "source", tmp_path / "never", "hf", precision="fp16")
    assert not (tmp_path / "never").exists()


def test_synthetic_weights_and_a_seed(tmp_path: Path) -> None:
    (tmp_path / "shape.json").write_text(json.dumps(CONFIG.to_dict()))
    for seed in (4, 5):
        convert(tmp_path / "shape.json", tmp_path / str(seed), "hf", seed=seed)
    four, five = (load_all(tmp_path / str(seed)) for seed in (4, 5))
    assert not torch.equal(four["lm_head.weight"], five["lm_head.weight"])
    same(open_checkpoint(tmp_path / "shape.json", seed=4), four)


@pytest.mark.parametrize("form", ["fastertransformer", "megatron"])
def test_a_tokenizer_goes_along(tmp_path: Path, form: str) -> None:
    convert(TINY, tmp_path / "there", form, tensor_parallel=2)
    convert(tmp_path / "there", tmp_path / "back", "hf")
    text = "It was the best of times"
    assert open_checkpoint(tmp_path / "there").tokenizer().encode(text) == open_checkpoint(TINY).tokenizer().encode(text)
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(files_of(tmp_path / "back"))
    assert open_checkpoint(tmp_path / "back").config == open_checkpoint(TINY).config


# The target -------------------------------------------------------------------------------------------------------------
class Interrupted(Checkpoint):
    """A source that fails at its last tensor."""

    def __init__(self, source: Checkpoint, error: BaseException) -> None:
        self.source, self.error = source, error
        self.name, self.config, self.path, self.weight_dtype = source.name, source.config, source.path, source.weight_dtype

    def _stored_dtype(self, name: str) -> torch.dtype:
        return self.source.stored_dtype(name)

    def _read(self, name: str, rows: slice, columns: slice | None, target: torch.Tensor) -> None:
        if name == "lm_head.bias":
            raise self.error
        self.source._read(name, rows, columns, target)

    def tokenizer(self) -> Any:
        return self.source.tokenizer()


@pytest.mark.parametrize("form", ["hf", "fastertransformer", "megatron"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), CheckpointError("cut"), OSError(28, "No space left on device")])
def test_an_interrupted_conversion_leaves_nothing(
    tmp_path: Path, source: Path, form: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(TINY, tmp_path / "old", form)
    before = files_of(tmp_path / "old")
    monkeypatch.setattr(
        "labkit.checkpoints.conversion.open_checkpoint", lambda name, seed: Interrupted(open_checkpoint(name), error)
    )
    for target, force in (("new", False), ("old", True)):
        with pytest.raises(type(error)):
            convert(source, tmp_path / target, form, force=force)
    assert files_of(tmp_path / "old") == before
    assert {path.name for path in tmp_path.iterdir()} == {"source", "old"}


@pytest.mark.parametrize("form", ["hf", "fastertransformer", "megatron"])
def test_a_killed_conversion_leaves_nothing_that_opens(tmp_path: Path, source: Path, form: str) -> None:
    script = (
        "import sys, time\n"
        "from labkit.checkpoints import convert\n"
        "def wait(done, total, name):\n"
        "    if done == total - 1:\n        print('late', flush=True); time.sleep(100)\n"
        "convert(*sys.argv[1:4], tensor_parallel=int(sys.argv[4]), progress=wait)\n"
    )
    arguments = [str(source), str(tmp_path / "out"), form, "1" if form == "hf" else "2"]
    process = subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "late\n"
    process.kill()
    process.communicate()
    left = [path for path in tmp_path.rglob("*") if path.is_dir() and source not in [path, *path.parents]]
    assert [path for path in left if ".part-" in path.name]
    for path in [*left, tmp_path / "out"]:
        with pytest.raises((CheckpointError, InvalidRequest)):
            open_checkpoint(path)
    convert(source, tmp_path / "out", form)  # leftover files do not disturb a new conversion


@pytest.mark.parametrize("form", ["hf", "fastertransformer", "megatron"])
def test_a_target_is_overwritten_by_force_only(tmp_path: Path, source: Path, form: str) -> None:
    done = convert(TINY, tmp_path / "out", form)
    before = files_of(done.path)
    with pytest.raises(InvalidRequest, match=r"exists; .* --force"):
        convert(source, tmp_path / "out", form)
    assert files_of(done.path) == before
    convert(source, tmp_path / "out", form, force=True)
    assert open_checkpoint(done.path).config == CONFIG
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert not [name for name in names if ".part-" in name or ".old-" in name]


def test_force_replaces_checkpoints_only(tmp_path: Path, source: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    with pytest.raises(InvalidRequest, match=r"thesis\.tex, which belongs to no checkpoint"):
        convert(source, home, "hf", force=True)
    shutil.copytree(source, home / "model")
    with pytest.raises(InvalidRequest, match="belongs to no checkpoint"):
        convert(source, home, "hf", force=True)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.json").write_text("{}")
    with pytest.raises(InvalidRequest, match="holds no weights"):
        convert(source, tmp_path / "notes", "hf", force=True)
    with pytest.raises(InvalidRequest, match=r"would replace the source"):
        convert(source, source, "hf", force=True)
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(source)
    for name in ("file", "link"):
        with pytest.raises(InvalidRequest, match="is not a folder"):
            convert(source, tmp_path / name, "hf", force=True)
    (tmp_path / "empty").mkdir()
    convert(source, tmp_path / "empty", "hf")
    assert (home / "thesis.tex").read_text() == "years of work"


def test_a_disk_without_room(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labkit.checkpoints.output.shutil.disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 1000))
    with pytest.raises(InsufficientResources, match=r"needs 0\.00 GB of disk"):
        convert(source, tmp_path / "out", "hf")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("form", "options", "words"),
    [
        ("gguf", {}, "'gguf'; hf, fastertransformer or megatron"),
        ("hf", {"precision": "int8"}, "'int8'; checkpoints are written in fp32, fp16 or bf16"),
        ("hf", {"tensor_parallel": 2}, "files in format hf are not split"),
        ("fastertransformer", {"pipeline_parallel": 2}, "do not depend on it"),
        ("megatron", {"pipeline_parallel": 3}, "must divide the 4 layers of this model; the nearest size that does is 2"),
        ("megatron", {"tensor_parallel": 5}, "size is 5; it must divide the 4 heads .*; the nearest size that does is 4"),
        ("megatron", {"tensor_parallel": "2"}, "tensor_parallel is '2'; a whole number of at least 1"),
        ("hf", {"shard_bytes": "5GB"}, "shard_bytes is '5GB'; a whole number of at least 1"),
        ("hf", {"shard_bytes": -1}, "shard_bytes is -1"),
    ],
)
def test_requests_that_are_refused(tmp_path: Path, source: Path, form: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        convert(source, tmp_path / "out", form, **options)
    assert {path.name for path in tmp_path.iterdir()} == {"source"}


def test_writing_holds_about_one_tensor(tmp_path: Path) -> None:
    """The peak memory of a process that converts is much smaller than the model."""
    config = GPTJConfig(
        hidden_size=512, num_layers=10, num_heads=8, rotary_dim=64, context_length=64, vocab_size=1000, intermediate_size=2048
    )
    (tmp_path / "small.json").write_text(json.dumps(CONFIG.to_dict()))
    (tmp_path / "shape.json").write_text(json.dumps(config.to_dict()))
    convert(tmp_path / "shape.json", tmp_path / "source", "hf")
    script = (
        "import resource, sys\n"
        "from labkit.checkpoints import convert\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "convert('small.json', 'small', 'fastertransformer')\n"
        "before = peak()\n"
        "convert('source', 'ft', 'fastertransformer', tensor_parallel=2)\n"
        "convert('ft', 'hf', 'hf', precision='fp32')\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert config.parameter_count * 4 > 100e6
    assert int(done.stdout) < 40e6  # the largest tensor has 4 MB, a fused tensor of one rank has 1.5 MB
