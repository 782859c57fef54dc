"""Canvas and Moodle can read the CSV files, no spreadsheet runs a text in them as a formula, and the pages say everything in
words.
"""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from labkit.gradebook.book import Attempt, Item
from labkit.gradebook.class_page import class_page
from labkit.gradebook.collect import Note
from labkit.gradebook.csv_files import defused, write_csv, write_items, write_lab
from labkit.gradebook.feedback_page import feedback_page
from labkit.gradebook.lms_files import write_canvas, write_moodle
from labkit.gradebook.names import page_name
from labkit.gradebook.policy import Policy
from labkit.gradebook.report import Report
from labkit.gradebook.scores import VERDICTS, lab_score

NASTY = '<img src="http://x.test/?a" onerror=alert(1)>&\u202e'
DETAILS = (
    "case: the hidden input\nyour answer: tensor of shape (2, 3), float32\n"
    "largest error 1, first at index (0, 1): got 1, expected 2; below: # wrong, . right, + some wrong and some right\n"
    "#.+\n..#\nnote: a note"
)


def report(*learners: str, track: str = "full") -> Report:
    """A class in which every learner has one failed item, with a hostile message and a map, and two passed items."""
    items = {
        "lab00.weight_gib": Item("lab00.weight_gib", "0.2 Weights", "failed", 0, 10, NASTY, DETAILS),
        "lab00.kv_cache_bytes": Item("lab00.kv_cache_bytes", "0.3 Cache", "passed", 10, 10, "right", ""),
        "lab00.parameter_count": Item("lab00.parameter_count", "0.1 Count", "passed", 10, 10, "right", ""),
    }
    time = datetime(2026, 10, 5, tzinfo=UTC)
    attempts = [Attempt(learner, "00", 1, NASTY, "a", time, "file time", items) for learner in learners]
    scores = tuple(lab_score(learner, lab, attempts, Policy(track=track)) for learner in learners for lab in ("00", "01"))
    return Report(learners, ("00", "01"), scores, (Note(learners[0], NASTY, NASTY), Note("", "", NASTY)), track)


def rows_of(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1"])
def test_a_formula_is_a_text(text: str, tmp_path: Path) -> None:
    assert defused(text) == f"'{text}"
    write_csv(tmp_path / "a.csv", [text], [[text, -1.5, 'quote " and, comma\nline']])
    header, row = rows_of(tmp_path / "a.csv")
    for cell in (header[0], row[0]):
        assert cell.strip()[0] not in "=+-@＝"
    assert row[1:] == ["-1.5", 'quote " and, comma line']


def test_a_lab_has_a_row_for_each_learner(tmp_path: Path) -> None:
    write_lab(tmp_path / "lab.csv", report("ada", "-bert"), "00")
    header, ada, bert = rows_of(tmp_path / "lab.csv")
    row = dict(zip(header, ada, strict=True))
    assert (row["score"], row["score out of"], row["points"], row["out of"]) == ("20", "65", "20", "65")
    assert (row["core points"], row["core out of"]) == ("10", "55")
    assert (row["0.3 kv_cache_bytes"], row["0.2 weight_gib"]) == ("10", "0")
    assert row["submitted (UTC)"] == "2026-10-05 00:00:00"
    assert bert[0] == "'-bert"


def test_canvas(tmp_path: Path) -> None:
    """The columns and the row of possible points have the form that Canvas's importer expects."""
    write_canvas(tmp_path / "canvas.csv", report("ada", "Points Possible"))
    header, points, ada, odd = rows_of(tmp_path / "canvas.csv")
    assert header[:5] == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section"]
    assert header[5:] == ["Lab 00 Class environment", "Lab 01 Hugging Face baseline"]
    assert points == ["Points Possible", "", "", "", "", "65", "85"]
    assert ada == ["ada", "", "", "ada", "", "20", "0"]
    assert odd[:4] == ["", "", "", "Points Possible"]


def test_moodle(tmp_path: Path) -> None:
    write_moodle(tmp_path / "moodle.csv", report("ada"))
    header, ada = rows_of(tmp_path / "moodle.csv")
    assert header[:3] == ["Username", "Lab 00 Class environment", "Feedback: Lab 00 Class environment"]
    assert ada[:2] == ["ada", "20"]
    assert ada[2].startswith("20 of 65 points; core path: 10 of 55 points. ")
    assert "0.2 Weights: failed" in ada[2]
    assert ada[4] == "No notebook of this lab was submitted, or it could not be read."


def test_on_the_core_track_every_file_counts_the_core_path_and_shows_all_points(tmp_path: Path) -> None:
    found = report("ada", track="core")
    write_lab(tmp_path / "lab.csv", found, "00")
    row = dict(zip(*rows_of(tmp_path / "lab.csv"), strict=True))
    assert [row[name] for name in ("score", "score out of", "points", "out of", "core points", "core out of")] == [
        *("10", "55", "20", "65", "10", "55"),
    ]
    write_items(tmp_path / "items.csv", found)
    header, *rows = rows_of(tmp_path / "items.csv")
    tracks = {row["exercise"]: row["track"] for row in (dict(zip(header, cells, strict=True)) for cells in rows)}
    assert (tracks["lab00.parameter_count"], tracks["lab00.weight_gib"]) == ("extra", "core")
    write_canvas(tmp_path / "canvas.csv", found)
    assert [row[5:] for row in rows_of(tmp_path / "canvas.csv")][1:] == [["55", "60"], ["10", "0"]]
    write_moodle(tmp_path / "moodle.csv", found)
    assert "Only the core path counts: 10 points of extras do not." in rows_of(tmp_path / "moodle.csv")[1][2]
    learner, everybody = Reader(feedback_page(found, "ada")).text, Reader(class_page(found)).text
    assert "0.1 Count (passed, 10 of 10 points, extra: does not count)" in learner
    assert "The score is what counts: the points on the core path" in learner
    assert "Only the exercises on the core path count" in everybody
    for page in (learner, everybody):
        assert "20 of 65" in page
        assert "10 of 55" in page
    assert "0.1 Count (extra)" in everybody


class Reader(HTMLParser):
    """What a screen reader finds in a page: the tags, and the text without the parts that are hidden from screen readers."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.tags, self._hidden = "", set[str](), 0
        self.attributes: dict[str, list[str]] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attributes:
            self.attributes.setdefault(name, []).append(value or "")
        self.text += dict(attributes).get("aria-label") or ""
        self._hidden += (
            bool(self._hidden) or ("aria-hidden", "true") in attributes or tag == "style" or ("role", "img") in attributes
        )

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= bool(self._hidden)

    def handle_data(self, data: str) -> None:
        self.text += "" if self._hidden else data


@pytest.mark.parametrize("kind", ["learner", "class"])
def test_pages_are_plain_and_safe(kind: str) -> None:
    found = report("<b>ada</b>", "bert")
    page = feedback_page(found, "<b>ada</b>") if kind == "learner" else class_page(found)
    read = Reader(page)
    assert not read.tags & {"img", "script", "b", "iframe", "link", "object", "form"}
    assert not [name for name in read.attributes if name.startswith("on") or name == "src"]
    assert "&lt;img src=&quot;http://x.test/?a&quot; onerror=alert(1)&gt;&amp;\\u202e" in page
    assert "default-src 'none'" in page
    assert "<b>ada</b>" in read.text
    assert 'lang="en"' in page


def test_a_learner_reads_what_failed_and_where(tmp_path: Path) -> None:
    page = feedback_page(report("ada", "bert"), "ada")
    read = Reader(page)
    assert "0.2 Weights (failed, 0 of 10 points, core)" in read.text
    assert "0.3 Cache (passed, 10 of 10 points, core)" in read.text
    assert "0.1 Count (passed, 10 of 10 points, extra)" in read.text
    assert "Map of the mismatch in 2 rows: 2 of 6 cells wrong, 1 partly wrong, 3 right." in read.text
    assert "#.+\n..#" in page
    assert "note: a note" in read.text
    assert "hidden input" not in page
    assert "bert" not in page


def test_the_class_is_described_in_words() -> None:
    page = class_page(report("ada", "\u0430da", "bert"))
    read = Reader(page)
    assert "3 failed" in read.text
    assert "3 passed" in read.text
    assert f'href="feedback/{page_name("bert")}"' in page
    assert "\\u0430da" in read.text
    assert read.text.count("onerror") >= 2  # once in the commonest messages, and once in the notes


def test_every_verdict_has_words_a_sign_and_a_colour() -> None:
    from labkit.gradebook.page import verdict
    from labkit.grading.verdict import sign

    assert all(words in verdict(words) for words in VERDICTS)
    assert len({sign(words) for words in VERDICTS}) == len(VERDICTS)
