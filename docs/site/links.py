"""Changes the links of a Markdown file of the repository to links between the pages of the site."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from docs.site import ROOT

PICTURES = (".png", ".svg")
"""The endings of the names of pictures in `docs/`."""

_LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)")
_FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)


def with_links_of_the_site(text: str, path: Path) -> str:
    """Return the text of a Markdown file, with its links changed to pages of the site.

    A link to a file of the repository that is not part of the site is replaced by the file's path. Raises `ValueError` for a
    link to a file that does not exist.
    """
    parts = _FENCE.split(text)
    return "".join(part if part.startswith("```") else _LINK.sub(lambda found: _changed(found, path), part) for part in parts)


def _changed(found: re.Match[str], path: Path) -> str:
    target, _, anchor = found["target"].partition("#")
    if not target or "://" in target:
        return found[0]
    file = Path(os.path.normpath(path.parent / target))
    if not file.exists():
        raise ValueError(f"{path.relative_to(ROOT)} has a link to {target}, which does not exist")
    place = page_of(file.relative_to(ROOT).as_posix())
    if place is None:
        name = f"`{file.relative_to(ROOT).as_posix()}`"
        return name if found["text"].strip("`") in target else f"{found['text']} ({name})"
    here = page_of(path.relative_to(ROOT).as_posix()) or "index.md"
    relative = os.path.relpath(place, PurePosixPath(here).parent)
    return f"{found['image']}[{found['text']}]({relative}{'#' + anchor if anchor else ''})"


def page_of(path: str) -> str | None:
    """The page of the site, or the picture, that is made from a file of the repository; None if the file is not used."""
    if path == "README.md":
        return "index.md"
    folder, _, name = path.rpartition("/")
    if folder == "docs" and name.endswith((".md", *PICTURES)):
        return name
    if folder == "labs" and name.endswith(".ipynb"):
        return f"labs/{name.removesuffix('.ipynb')}.md"
    return name if path == "labs/screenshot.png" else None
