"""Writes the manifest of a course folder, and its zip file. Equal folders give equal files."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
_TIME = (1980, 1, 1, 0, 0, 0)
"""The modification time of every entry in the zip file. It is fixed, so that equal folders give equal files."""


def write_manifest(folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Write `about` and the SHA-256 of each file in the folder to its manifest, and return the content of the manifest."""
    files = {path.relative_to(folder).as_posix(): _digest(path) for path in _files(folder)}
    found = about | {"files": files}
    (folder / MANIFEST).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return found


def is_course_folder(folder: Path) -> bool:
    """Whether a folder has a manifest that labkit wrote."""
    try:
        return "labkit" in json.loads((folder / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def zip_folder(folder: Path, archive: Path) -> None:
    """Write a folder, with its own name as the first part of each path, to a zip file. Executable files stay executable."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        for path in _files(folder):
            entry = zipfile.ZipInfo(f"{folder.name}/{path.relative_to(folder).as_posix()}", _TIME)
            entry.external_attr = (0o100000 | (path.stat().st_mode & 0o777)) << 16
            entry.compress_type = zipfile.ZIP_STORED if path.suffix == ".whl" else zipfile.ZIP_DEFLATED
            out.writestr(entry, path.read_bytes())


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
