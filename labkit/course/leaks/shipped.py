"""Goes through everything that is released: folders, archives and the archives in them."""

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
    """A file of the release: the archives around it (`inside`), its path in the innermost one, and its content."""

    inside: str
    path: PurePosixPath
    content: bytes

    @property
    def place(self) -> str:
        """Where the file is, for a person."""
        return f"{self.inside}{self.path}"


def files_in(archive: Path) -> Iterator[ShippedFile]:
    """Every file in a zip file, also those in archives in it."""
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
