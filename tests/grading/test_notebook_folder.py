"""The files beside a notebook, which a learner's code may read."""

from __future__ import annotations

from pathlib import Path

from labkit.grading.notebook_folder import copy_files


def test_links_are_not_copied(tmp_path: Path) -> None:
    """A link could lead to any file of the person who runs the check."""
    own = tmp_path / "own"
    own.mkdir()
    (tmp_path / "private.txt").write_text("private")
    (own / "data.txt").write_text("data")
    (own / "link.txt").symlink_to(tmp_path / "private.txt")
    (own / "near.txt").symlink_to(own / "data.txt")
    copy_files(own, tmp_path / "files")
    assert [path.name for path in (tmp_path / "files").iterdir()] == ["data.txt"]
