"""Marks of the core path in a lab's source: the text and metadata that replace them, and sources that are refused."""

from __future__ import annotations

import pytest

from labkit.errors import InvalidRequest
from labkit.exercises.core_path import CORE, FULL, core_only_words, core_words, numbers_of, on_track, points, size_of
from labkit.exercises.registry import exercise as find
from labkit.exercises.registry import of_lab
from labkit.grading.core_marks import EXTRA, SKIP, kind_of
from labkit.grading.core_notebook import core_notebook
from labkit.grading.lab_notebooks import student_notebook

SOURCE = """\
# %% [markdown]
# # A lab
#
# *{{lab 00: size; a good place for a break is after 0.1}} · runs on any machine*
#
# {{lab 00: core path}}

# %%
first = 1

# %% [markdown]
# {{core path: go on at The cache, and more}}

# %% [markdown]
# {{exercise lab00.parameter_count}}

# %%
extra = 2

# %% [markdown]
# ## The cache, and more
#
# Text.

# %% [markdown]
# {{exercise lab00.kv_cache_bytes}}
"""


def test_marks_become_text_and_metadata() -> None:
    cells = student_notebook(SOURCE).cells
    assert [kind_of(cell) for cell in cells] == ["", "", SKIP, EXTRA, EXTRA, "", ""]
    assert f"*{size_of('00', FULL)}; a good place for a break is after 0.1 · runs on any machine*" in cells[0].source
    assert core_words("00") in cells[0].source
    assert cells[2].source == (
        "**On the core path, continue with exercise 0.3: [The cache, and more](#The-cache,-and-more).** "
        "Exercise 0.1 is an extra."
    )
    assert cells[3].metadata["labkit"] == {"exercise": "lab00.parameter_count", "core": EXTRA}
    assert "{{" not in "".join(cell.source for cell in cells)


def test_the_core_notebook_has_the_other_cells_and_says_so() -> None:
    whole = student_notebook(SOURCE)
    core = core_notebook(whole)
    assert [cell.source for cell in core.cells[1:]] == [whole.cells[place].source for place in (1, 5, 6)]
    assert f"*{size_of('00', CORE)} · runs on any machine*" in core.cells[0].source
    assert core_only_words("00") in core.cells[0].source
    assert core_words("00") not in core.cells[0].source


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("at The cache, and more", "at Nothing", "'Nothing', but no cell after this note begins with this heading"),
        ("## The cache, and more\n", "Text before it.\n#\n# ## The cache, and more\n", "begins with this heading"),
        ("lab00.parameter_count", "lab00.weight_gib", "skips 1 exercises; it must skip extras only, and at least one"),
        ("{{exercise lab00.parameter_count}}", "text", "skips 0 exercises"),
        ("{{lab 00: size", "{{lab 77: size", "there is no lab '77'"),
    ],
)
def test_notes_that_lead_nowhere_or_skip_the_core_path_are_refused(before: str, after: str, said: str) -> None:
    assert before in SOURCE
    with pytest.raises(InvalidRequest, match=said):
        student_notebook(SOURCE.replace(before, after))


def test_numbers_and_points_in_words() -> None:
    lab = of_lab("00")
    assert [numbers_of(lab[begin:end]) for begin, end in ((0, 1), (0, 2), (0, 3))] == ["0.1", "0.1 and 0.2", "0.1 to 0.3"]
    assert numbers_of([lab[0], lab[2], lab[3]]) == "0.1, 0.3 and 0.4"
    found = points([(find("lab00.parameter_count"), 10, 10), (find("lab00.kv_cache_bytes"), 4.5, 10)])
    assert (found.words, found.core_words) == ("14.5 of 20 points", "core path: 4.5 of 10 points")
    with pytest.raises(InvalidRequest, match="there is no track 'half'; the tracks are core and full"):
        on_track("00", "half")
