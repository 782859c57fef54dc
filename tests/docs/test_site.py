"""The documentation site is built from scratch without a warning, needs no other host, and gives no answers away."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from docs.site import ROOT
from docs.site.__main__ import build
from docs.site.architecture import DRAWING, GROUND, drawing, floors_of, import_graph
from docs.site.lab_page import lab_page
from docs.site.links import with_links_of_the_site
from docs.site.lists import on_page_markdown
from docs.site.mathml import on_page_content
from labkit.course.leaks.forbidden import forbidden_in
from labkit.course.leaks.leak_check import find_leaks
from labkit.grading.release import find_labs

LABS = {lab.source.stem: lab for lab in find_labs(ROOT)}


def test_the_drawing_is_that_of_the_code() -> None:
    assert DRAWING.read_text("utf-8") == drawing(), "run `python -m docs.site --drawing`"


def test_the_drawing_has_every_package_and_arrows_lead_down() -> None:
    graph = import_graph()
    packages = {path.parent.name for path in (ROOT / "labkit").glob("*/__init__.py")}
    assert set(graph) == {*packages, GROUND}
    picture = DRAWING.read_text("utf-8")
    assert not [package for package in packages if f">{package}</text>" not in picture]
    height = floors_of(graph)
    assert all(height[node] > height[other] for node, uses in graph.items() for other in uses)


def test_the_page_on_the_architecture_names_every_package() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    packages = [path.parent.name for path in (ROOT / "labkit").glob("*/__init__.py")]
    assert [package for package in packages if f"{package}/`" not in page] == []


def test_every_picture_of_a_page_stays_a_picture() -> None:
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = path.read_text("utf-8")
        assert with_links_of_the_site(text, path).count("![") == text.count("!["), path.name


def test_a_list_may_follow_a_paragraph() -> None:
    page = "Two things:\n- one,\n  and more\n- two\n\nSteps\n1. first\n\n```\ntext\n- code\n```\n"
    made = on_page_markdown(page)
    assert made == page.replace("things:\n-", "things:\n\n-").replace("Steps\n1.", "Steps\n\n1.")


def test_formulas_become_mathml() -> None:
    page = r'<p><span class="arithmatex">\(h \times i &lt; 3\)</span></p><div class="arithmatex">\[\frac{a}{b}\]</div>'
    made = on_page_content(page)
    assert "arithmatex" not in made
    assert re.search(r'<math alttext="h \\times i &lt; 3"[^>]*>', made)
    assert "<mfrac>" in made


@pytest.mark.parametrize("name", LABS)
def test_the_page_of_a_lab_has_figures_and_no_verdicts(name: str, tmp_path: Path) -> None:
    page = lab_page(LABS[name], tmp_path)
    named = re.findall(r"^!\[(.+)\]\((.+)\)$", page, re.MULTILINE)
    assert len(named) >= 3
    assert all((tmp_path / file).read_bytes().startswith(b"\x89PNG") for _, file in named)
    assert "raise NotImplementedError(" in page
    assert "labkit-verdict" not in page


def test_the_pages_of_the_labs_give_nothing_away(tmp_path: Path) -> None:
    """The pages contain nothing that `labkit release --course` refuses to give to learners."""
    archive = tmp_path / "pages.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name, lab in LABS.items():
            file.writestr(f"{name}.md", lab_page(lab, tmp_path))
    assert find_leaks(archive, forbidden_in(ROOT)) == []


_LIST = re.compile(r"<p>(?:(?!</p>).)*\n- [^\n]*", re.DOTALL)
"""A pattern for a list that Markdown made part of a paragraph."""


class Loaded(HTMLParser):
    """Finds the addresses that a page loads when it is opened, and the pictures that have no alternative text."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.without_alt: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if tag in ("script", "img", "link", "iframe", "source") and values.get("rel") not in ("canonical", "prev", "next"):
            self.addresses += [address for address in (values.get("src"), values.get("href")) if address]
        if tag == "img" and not values.get("alt"):
            self.without_alt.append(str(values.get("src")))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("docs")
    assert build(folder) == 0, "MkDocs warned of something, such as a broken link; see the output of this test"
    return folder / "site"


def pages(site: Path) -> Iterator[tuple[str, Loaded]]:
    for path in sorted(site.rglob("*.html")):
        found = Loaded()
        found.feed(path.read_text("utf-8"))
        yield path.relative_to(site).as_posix(), found


@pytest.mark.long
def test_pages_load_nothing_from_another_host(site: Path) -> None:
    loaded = {name: found.addresses for name, found in pages(site)}
    assert len(loaded) > 25
    assert all(loaded.values())
    assert not [(name, one) for name, found in loaded.items() for one in found if re.match(r"(https?:)?//", one)]
    styles = "".join(path.read_text("utf-8") for path in site.rglob("*.css"))
    assert not re.findall(r"(?:url\(|@import )['\"]?(?:https?:)?//", styles)


@pytest.mark.long
def test_every_picture_has_an_alternative_text(site: Path) -> None:
    assert {name: found.without_alt for name, found in pages(site) if found.without_alt} == {}


@pytest.mark.long
def test_no_list_is_a_part_of_a_paragraph(site: Path) -> None:
    texts = {path.name: path.read_text("utf-8") for path in site.rglob("*.html")}
    assert {name: found for name, text in texts.items() if (found := _LIST.findall(text))} == {}


@pytest.mark.long
def test_the_reference_is_made_from_docstrings(site: Path) -> None:
    page = (site / "reference" / "labkit.engine.html").read_text("utf-8")
    assert "Load a model by name, directory or" in page
    assert 'id="labkit.engine.SamplingParams"' in page
