"""The engineer's first hour: the scripts of `README.md` and `docs/engineer.md`.

`tests/library/` runs the scripts of `docs/library.md`.
"""

from __future__ import annotations

import pytest

from tests.first_hour.conftest import Course
from tests.first_hour.pages import block, blocks

pytestmark = pytest.mark.long


def test_the_pages_have_one_script_each() -> None:
    for page in ("README.md", "docs/engineer.md"):
        assert [language for language, _ in blocks(page)].count("python") == 1


@pytest.mark.parametrize("page", ["README.md", "docs/engineer.md"])
def test_the_script_runs(course: Course, page: str) -> None:
    (course.machine.folder / "mine.py").write_text(block(page, "import"), "utf-8")
    said = course.machine.run(".venv/bin/python mine.py")
    assert len(said.split()) > 10, said
    assert "Traceback" not in said
