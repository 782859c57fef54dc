"""Gathers the pages of the site: the README, the pages in `docs/`, the labs, and the reference of labkit's packages."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from docs.site import ROOT
from docs.site.lab_page import lab_page
from docs.site.links import PICTURES, with_links_of_the_site
from docs.site.reference import packages, reference_page
from labkit.grading.release import Lab, find_labs

SECTIONS: dict[str, list[str]] = {
    "Learner": ["learner.md"],
    "Instructor": ["instructor.md", "course_session.md", "release_course.md", "gradebook.md"],
    "Engineer": [
        "engineer.md",
        "library.md",
        "commands.md",
        "sampling_parameters.md",
        "compression.md",
        "distillation.md",
        "graphs.md",
        "planning.md",
        "million_requests.md",
        "benchmarks.md",
    ],
    "Operator": ["operator.md", "SECURITY.md"],
    "Author": ["new_lab.md", "CONTRIBUTING.md"],
    "Architecture": ["architecture.md", "cpu_kernels.md", "CHANGELOG.md"],
}
"""The pages in `docs/` for each kind of reader, in the order of the navigation."""


def write_pages(folder: Path) -> list[dict[str, Any]]:
    """Write all pages to a folder, and return MkDocs' navigation. Raises `ValueError` for a page that no section names."""
    (folder / "labs").mkdir(parents=True)
    (folder / "reference").mkdir()
    _copy_pages(folder)
    labs = find_labs(ROOT)
    for lab in labs:
        (folder / "labs" / f"{lab.source.stem}.md").write_text(lab_page(lab, folder / "labs"), "utf-8")
    for name in packages():
        (folder / "reference" / f"{name}.md").write_text(reference_page(name), "utf-8")
    return navigation(labs)


def navigation(labs: list[Lab]) -> list[dict[str, Any]]:
    """The navigation: the README, the labs, and a section for each kind of reader."""
    nav: list[dict[str, Any]] = [{"Home": "index.md"}, {"Labs": [f"labs/{lab.source.stem}.md" for lab in labs]}]
    for title, names in SECTIONS.items():
        nav.append({title: list(names)})
    reference = [{name: f"reference/{name}.md"} for name in packages()]
    next(section for section in nav if "Engineer" in section)["Engineer"].append({"Reference": reference})
    return nav


def _copy_pages(folder: Path) -> None:
    known = {name for names in SECTIONS.values() for name in names}
    there = {path.name for path in (ROOT / "docs").glob("*.md")}
    if known != there:
        raise ValueError(f"docs/ and SECTIONS in docs/site/pages.py differ: {', '.join(sorted(known ^ there))}")
    for path in (ROOT / "README.md", *(ROOT / "docs" / name for name in sorted(known))):
        place = folder / ("index.md" if path.name == "README.md" else path.name)
        place.write_text(with_links_of_the_site(path.read_text("utf-8"), path), "utf-8")
    pictures = [path for path in (ROOT / "docs").iterdir() if path.name.endswith(PICTURES)]
    for picture in (*pictures, ROOT / "labs" / "screenshot.png"):
        shutil.copy(picture, folder)
    shutil.copy(Path(__file__).with_name("style.css"), folder)
