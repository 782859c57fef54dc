"""Every code block of the README and of `docs/` is either run by a test or listed here with the reason why not."""

from __future__ import annotations

import pytest

from tests.first_hour.pages import ROOT, blocks

LEARNER, INSTRUCTOR, ENGINEER, OPERATOR, AUTHOR = (
    f"tests/first_hour/test_{name}.py" for name in ("learner", "instructor", "engineer", "operator", "author")
)
LIBRARY, INSTALLED = "tests/library/test_library.py", "tests/library/test_installed.py"

RUN_BY = {
    ("README.md", "make lab"): LEARNER,
    ("README.md", "import labkit"): ENGINEER,
    ("docs/learner.md", "nbconvert"): LEARNER,
    ("docs/course_session.md", "> ada.json"): INSTRUCTOR,
    ("docs/course_session.md", "room/*.json"): INSTRUCTOR,
    ("docs/release_course.md", "--lab 00"): INSTRUCTOR,
    ("docs/gradebook.md", "--jobs 2 --seed"): INSTRUCTOR,
    ("docs/gradebook.md", "labkit board"): INSTRUCTOR,
    ("docs/engineer.md", "load_parallel"): ENGINEER,
    ("docs/operator.md", "labkit serve"): OPERATOR,
    ("docs/library.md", "-m venv mine"): INSTALLED,
    ("docs/library.md", "greedy = "): LIBRARY,
    ("docs/library.md", "asyncio"): LIBRARY,
    ("docs/library.md", "load_parallel"): INSTALLED,
    ("docs/library.md", "write_repository"): INSTALLED,
    ("docs/library.md", "run_bench"): LIBRARY,
    ("docs/new_lab.md", "TOKENS_PER_SECOND = Exercise"): AUTHOR,
    ("docs/new_lab.md", "TOKENS_PER_SECOND_ANSWER"): AUTHOR,
    ("docs/new_lab.md", "# %% [markdown]"): AUTHOR,
    ("docs/new_lab.md", "-m pytest"): AUTHOR,
}
"""For each block that a test runs, the name of the test. The key is a page, and words that only one of the page's blocks
contains.
"""

NOT_RUN = {
    ("docs/CONTRIBUTING.md", "make test-all"): "these are all tests themselves, lint and the site",
    ("docs/instructor.md", "make course"): "about as long as all other tests together",
    ("docs/learner.md", "docker build"): "needs Docker; tests/docker/ builds and starts the same image with buildah",
    ("docs/cpu_kernels.md", "qemu-user"): "installs packages; its second line is a test",
    ("docs/compression.md", "int4-gptq --out"): "minutes; tests/compress/ and tests/cli/ run the commands with smaller work",
    ("docs/compression.md", "2:4-sparsegpt-recovered"): "minutes of training; tests/compress/ runs it with fewer steps",
    ("docs/distillation.md", "--method distill"): "minutes of training; tests/compress/ and tests/cli/ run it with fewer steps",
    ("docs/distillation.md", "draft="): "tests/engine/test_draft.py runs engines with drafts",
    ("docs/graphs.md", "labkit export"): "minutes; tests/graphs/ exports a smaller model, and tests/serving/ serves its parts",
    ("docs/million_requests.md", "million_requests"): "tests/planning/ simulates a shorter time",
    ("docs/compression.md", "--kv-cache-dtype"): "tests/cli/ runs it",
    ("docs/planning.md", "labkit plan"): "tests/planning/ runs the commands",
    ("docs/gradebook.md", "dask scheduler"): "needs several machines; tests/gradebook/ has a cluster on one",
    ("docs/gradebook.md", "ClearSolutions"): "a file of settings; tests/gradebook/ runs nbgrader with them",
    ("docs/gradebook.md", "nbgrader generate_assignment"): "tests/gradebook/ runs nbgrader",
    ("docs/gradebook.md", "--nbgrader"): "tests/gradebook/ fills nbgrader's gradebook",
    ("docs/gradebook.md", "labextension"): "changes JupyterLab",
    ("docs/gradebook.md", "most_attempts"): "a file of settings; tests/gradebook/ reads policies",
}
"""For each block that no test runs, the reason. The key is a page, and words that only one of the page's blocks contains."""

PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_or_has_a_reason(page: str) -> None:
    words = [contains for where, contains in (*RUN_BY, *NOT_RUN) if where == page]
    texts = [text for _, text in blocks(page)]
    found = {contains: [text for text in texts if contains in text] for contains in words}
    assert {contains: len(some) for contains, some in found.items()} == dict.fromkeys(words, 1)
    named = [some[0] for some in found.values()]
    assert [text for text in texts if text not in named] == [], "run these in a test, or say why not, in this file"


@pytest.mark.parametrize("page", sorted({where for where, _ in RUN_BY}))
def test_the_tests_read_the_pages(page: str) -> None:
    name = page.rpartition("/")[2]
    for file in {file for (where, _), file in RUN_BY.items() if where == page} - {
        INSTALLED
    }:  # this test imports PAGE from the other test
        assert name in (ROOT / file).read_text("utf-8"), file
