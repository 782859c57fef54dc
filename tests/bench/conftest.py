"""Keeps models in OpenVINO's format between runs. A model is made again if the code, a package or the model has changed.

The peers usually keep files in labkit's folder; in these tests, they keep these files in a folder for the tests.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from labkit.bench import peers
from labkit.bench.peers import openvino, openvino_model
from labkit.checkpoints import Checkpoint
from labkit.home import fresh_home
from tests.kept import KEPT

FOLDER = KEPT / "openvino"
MOST = 20
"""The maximum number of models that are kept."""

PACKAGES = ("openvino", "nncf", "torch", "transformers")
WORDS = "words"
"""The name of the file that holds the text that `convert` returned."""


@pytest.fixture(scope="session", autouse=True)
def kept_openvino_models() -> Iterator[None]:
    """Make the peer `openvino` use a model from the cache if there is one.

    A test that calls `convert` itself still converts the model.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino, "convert", convert_once)
        yield


@pytest.fixture(scope="module", autouse=True)
def own_home() -> Iterator[None]:
    """Give the peers a new folder for the files that they keep, so that the tests do not change the user's files."""
    with fresh_home():
        yield


def convert_once(checkpoint: Checkpoint, folder: Path, precision: str) -> str:
    """Call `convert`, or copy the model that an earlier call of `convert` made."""
    if checkpoint.path is None:
        return openvino_model.convert(checkpoint, folder, precision)
    kept = FOLDER / key_of(checkpoint, checkpoint.path, precision)
    if not kept.exists():
        words = openvino_model.convert(checkpoint, folder, precision)
        (folder / WORDS).write_text(words, "utf-8")
        keep(folder, kept)
    else:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
    words = (folder / WORDS).read_text("utf-8")
    (folder / WORDS).unlink()
    return words


def keep(folder: Path, kept: Path) -> None:
    """Copy a model into the cache, completely or not at all.

    If the cache then holds too many models, delete the oldest models.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=FOLDER, prefix="part-"))
    shutil.copytree(folder, part, dirs_exist_ok=True)
    try:
        part.rename(kept)
    except OSError:  # another process was faster
        shutil.rmtree(part)
    oldest = sorted(FOLDER.iterdir(), key=lambda path: path.stat().st_mtime)[:-MOST]
    for path in oldest:
        shutil.rmtree(path, ignore_errors=True)


def key_of(checkpoint: Checkpoint, place: Path, precision: str) -> str:
    """Return a name that changes when the model, the precision, a package or the code of the peers changes."""
    found = hashlib.sha256(f"{precision} {checkpoint.config} {checkpoint.weight_dtype} {openvino_model.LARGE}".encode())
    for package in PACKAGES:
        try:
            found.update(f"{package} {version(package)}".encode())
        except PackageNotFoundError:
            found.update(package.encode())
    for path in sorted([*Path(peers.__file__).parent.glob("*.py"), *filter(Path.is_file, place.iterdir())]):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()[:32]
