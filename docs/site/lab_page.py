"""Makes a page from a lab: the learner's notebook, with those outputs of the solved notebook that do not show an answer."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from markdown.extensions.toc import slugify

from labkit.grading.release import Lab

MOST_LINES = 40
"""The most lines that the page shows of one output; the rest is cut off."""
_PRIVATE = re.compile(r"^\s*(?:check|hint|reset|solution|submit|progress_panel)\(", re.MULTILINE)
"""Finds the cells with an output that is a verdict, a hint or a solution."""
_ANCHOR = re.compile(r"\]\(#([^)]+)\)")
"""A link to a heading, in JupyterLab's form: "#The-weights"."""
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


def lab_page(lab: Lab, folder: Path) -> str:
    """The lab as Markdown. Its figures are written to `folder`.

    The page shows the output that a cell has in the solved notebook, if the cell is the same in the learner's notebook and
    shows no verdict, hint or solution. Raises `ValueError` if the two notebooks have different numbers of cells.
    """
    student, solved = (nbformat.read(path, as_version=4).cells for path in (lab.student, lab.solved))  # type: ignore[no-untyped-call]
    if len(student) != len(solved):
        raise ValueError(f"{lab.student.name}: the notebooks do not match; run `make release`")
    blocks = []
    heading = ""
    for number, (cell, run) in enumerate(zip(student, solved, strict=True)):
        if cell.cell_type == "markdown":
            heading = ([heading, *_HEADING.findall(cell.source)])[-1]
            blocks.append(_ANCHOR.sub(lambda found: f"](#{slugify(found[1].replace('-', ' '), '-')})", cell.source))
            if not number:
                blocks.append(_about(lab))
        else:
            blocks.append(f"```python\n{cell.source}\n```")
            if cell.source == run.source and not _PRIVATE.search(cell.source):
                blocks += outputs(run, folder, f"{lab.source.stem}_{number}", heading)
    return "\n\n".join(blocks) + "\n"


def _about(lab: Lab) -> str:
    return (
        f"*This page is for reading. To work on the lab, open `labs/{lab.student.name}`, for example with `make lab`. "
        "The figures and numbers below come from a run of the solved lab on one machine; yours will differ.*"
    )


def outputs(cell: Any, folder: Path, name: str, heading: str) -> Iterator[str]:
    """Yield the figures and the printed text of a cell. Widgets and error streams, such as progress bars, are left out."""
    for number, output in enumerate(cell.outputs):
        data = output.get("data", {})
        if "image/png" in data:
            file = folder / f"{name}_{number}.png"
            file.write_bytes(base64.b64decode(data["image/png"]))
            alt = output.metadata.get("image/png", {}).get("alt") or output.metadata.get("alt") or f"A figure of: {heading}"
            yield f"![{_one_line(alt)}]({file.name})"
        elif output.output_type == "stream" and output.name == "stdout":
            yield _printed(output.text)
        elif set(data) == {"text/plain"}:
            yield _printed(data["text/plain"])


def _printed(text: str) -> str:
    lines = text.rstrip().splitlines()
    cut = [*lines[:MOST_LINES], f"… ({len(lines) - MOST_LINES} more lines)"] if len(lines) > MOST_LINES else lines
    return "```{.text .output}\n" + "\n".join(cut).replace("```", "'''") + "\n```"


def _one_line(text: str) -> str:
    return re.sub(r"[\[\]]", "", " ".join(text.split()))
