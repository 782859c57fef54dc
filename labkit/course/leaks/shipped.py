"""Goes through every file of a release, including files in archives inside archives."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ARCHIVES = (".zip", ".whl")
UNREAD = {".so": "machine code", ".safetensors": "weights", ".png": "a picture"}
"""Files of these kinds are not searched, because no text of an answer can get into them by mistake."""


@dataclass(frozen=True)
class ShippedFile:
    """A file of the release: the archives that contain it (`inside`), its path in the innermost archive, and its content."""

    inside: str
    path: PurePosixPath
    content: bytes

    @property
    def place(self) -> str:
        """Where the file is, in words for a person."""
        return f"{self.inside}{self.path}"


def files_in(archive: Path) -> Iterator[ShippedFile]:
    """Yield every file in a zip file, including the files in archives inside it."""
    yield from _files(f"{archive.name} > ", archive.read_bytes())


def _files(inside: str, content: bytes) -> Iterator[ShippedFile]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            if name.endswith("/"):
                continue
            found = ShippedFile(inside, PurePosixPath(name), archive.read(name))
            if found.path.suffix in ARCHIVES:
                yield from _files(f"{found.place} > ", found.content)
            else:
                yield found
