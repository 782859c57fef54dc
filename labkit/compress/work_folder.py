"""The folder in which a compressed model is written, layer by layer. The complete folder is renamed to the target.

The folder is beside the target and is kept if the work is stopped. The next call with the same settings continues after the
finished layers; a call with other settings starts again. One call at a time can use the folder: it holds a lock on the folder,
which the system releases when the process ends.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from labkit.checkpoints.safetensors_writer import write_safetensors
from labkit.errors import CheckpointError, InvalidRequest
from labkit.home import write_atomically
from labkit.json_file import read_json_object

SETTINGS = "compression.json"
"""The file that says how the model was compressed. It is part of the finished folder."""
TRAINING = "training.safetensors"
"""The file with the state of a training; it is not part of the finished folder."""
WRITTEN = "written.json"
"""The file with the text that the teacher wrote; it is not part of the finished folder."""


class WorkFolder:
    """A folder with a file for each part of a model.

    `settings` are all settings that change the result, as JSON values. After `open`, call `close`.
    """

    def __init__(self, target: Path, settings: Mapping[str, Any]) -> None:
        self.target, self.settings = target, dict(settings)
        self.path = target.absolute().with_name(f".{target.name}.compressing")
        self._lock: int | None = None

    def open(self) -> int:
        """Create the folder, or reuse the folder of an earlier call. Returns the number of parts in the folder.

        Raises `InvalidRequest` if the target exists, or if another call that has not ended uses the folder. Systems and disks
        that cannot lock a folder (Windows, some network disks) do not notice another call.
        """
        self._check_target()
        self._acquire()
        try:
            self._check_target()  # another call may have written it since the check above
        except InvalidRequest:
            self.close()
            raise
        if self._settings() != self.settings:
            for path in self.path.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        write_atomically(self.path / SETTINGS, json.dumps(self.settings, indent=2) + "\n")
        return len(list(self.path.glob("*.safetensors")))

    def has(self, name: str) -> bool:
        """Whether a part is finished."""
        return (self.path / name).is_file()

    def write(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write a part. It counts as finished only when its file is complete."""
        write_safetensors(self.path / name, tensors)

    def finish(self) -> None:
        """Rename the complete folder to the target. Raises `CheckpointError` if it cannot be renamed."""
        for unfinished in (TRAINING, WRITTEN):
            (self.path / unfinished).unlink(missing_ok=True)
        for path in (*self.path.iterdir(), self.path):
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        try:
            os.replace(self.path, self.target)
        except OSError as error:
            raise CheckpointError(f"{self.path} is complete, but cannot be renamed to {self.target}: {error}") from error

    def close(self) -> None:
        """Remove the folder if it contains no part and no state, and let other calls use it."""
        if self.path.is_dir() and self._is_own() and all(path.name == SETTINGS for path in self.path.iterdir()):
            shutil.rmtree(self.path, ignore_errors=True)
        self._release()

    def _check_target(self) -> None:
        if self.target.is_symlink() or (self.target.exists() and not (self.target.is_dir() and not any(self.target.iterdir()))):
            raise InvalidRequest(f"{self.target} exists; give another target, because nothing is overwritten")

    def _acquire(self) -> None:
        """Create the folder if it is missing, and lock it if the system can."""
        while True:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.path)
            if self._is_own():
                return
            self._release()  # the call that held the lock has just renamed or removed the folder

    def _is_own(self) -> bool:
        """Whether the folder at `path` is the one that this object locked, or that it uses without a lock."""
        try:
            return self._lock is None or os.path.samestat(os.fstat(self._lock), self.path.stat())
        except FileNotFoundError:
            return False

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None

    def _settings(self) -> dict[str, Any] | None:
        try:
            return read_json_object(self.path / SETTINGS)
        except (OSError, ValueError):
            return None


def _locked(folder: Path) -> int | None:
    """A file descriptor that holds a lock on a folder until it is closed; None where the system cannot lock a folder.

    Raises `InvalidRequest` if another descriptor holds the lock.
    """
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise InvalidRequest(
                f"another call is writing to {folder}; wait until it has ended, or give another target"
            ) from None
        return None
    return descriptor
