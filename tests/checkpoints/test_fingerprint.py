"""The digest of a checkpoint's weights: every byte of a small model counts, and of a large model blocks of every tensor."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from labkit.checkpoints import fingerprint, open_checkpoint
from labkit.checkpoints.conversion import convert
from labkit.checkpoints.fingerprint import weights_digest
from labkit.checkpoints.tensor_file import Entry, TensorFile
from labkit.errors import CheckpointError

TINY = "gptj-tiny"


def change(file: TensorFile, entry: Entry, at: int) -> None:
    """Change the byte number `at` of a tensor in its file."""
    with file.path.open("r+b") as stream:
        stream.seek(entry.offset + at)
        (old,) = stream.read(1)
        stream.seek(entry.offset + at)
        stream.write(bytes([old ^ 1]))


@pytest.mark.parametrize("form", ["hf", "fastertransformer", "megatron"])
def test_a_change_of_any_tensor_changes_the_digest(tmp_path: Path, form: str) -> None:
    convert(TINY, tmp_path / "one", form)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    one, two = open_checkpoint(tmp_path / "one"), open_checkpoint(tmp_path / "two")
    found = {first := weights_digest(one)}
    assert weights_digest(two) == first, "the place of the files does not matter"
    for file in two.weight_files():
        for name, entry in list(file.entries.items())[::9]:
            change(file, entry, entry.byte_count // 3)
            now = weights_digest(two)
            assert now not in found, name
            found.add(now)
    assert len(found) > 5


def test_of_a_large_model_blocks_of_every_tensor_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(TINY, tmp_path / "model", "hf")
    checkpoint = open_checkpoint(tmp_path / "model")
    (file,) = checkpoint.weight_files()
    monkeypatch.setattr(fingerprint, "WHOLE_BYTES", 2**20)
    monkeypatch.setattr(fingerprint, "APART_BYTES", 2**14)
    read = [length for entry in file.entries.values() for _, length in fingerprint._blocks(entry.byte_count, False)]
    assert sum(read) < sum(entry.byte_count for entry in file.entries.values()) / 3
    found = {weights_digest(checkpoint)}
    for name, entry in file.entries.items():
        for at in {0, entry.byte_count - 1, min(entry.byte_count - 1, 2**14 + 5)}:
            change(file, entry, at)
            now = weights_digest(checkpoint)
            assert now not in found, (name, at)
            found.add(now)


def test_names_and_config_count_too() -> None:
    small, other = open_checkpoint("gpt-j-405m-synthetic"), open_checkpoint("gpt-j-6b-synthetic")
    assert not small.weight_files()
    assert weights_digest(small) != weights_digest(other)
    tiny = open_checkpoint(TINY)
    before = weights_digest(tiny)
    (file,) = tiny.weight_files()
    first, second = "transformer.h.0.attn.k_proj.weight", "transformer.h.0.attn.q_proj.weight"
    file.entries[first], file.entries[second] = file.entries[second], file.entries[first]
    assert weights_digest(tiny) != before, "the same bytes under other names"


def test_a_file_that_has_become_shorter_is_named(tmp_path: Path) -> None:
    convert(TINY, tmp_path / "model", "hf")
    checkpoint = open_checkpoint(tmp_path / "model")
    (file,) = checkpoint.weight_files()
    with file.path.open("r+b") as stream:
        stream.truncate(file.path.stat().st_size - 100)
    with pytest.raises(CheckpointError, match=r"model\.safetensors ended inside \S+: the file was cut"):
        weights_digest(checkpoint)
