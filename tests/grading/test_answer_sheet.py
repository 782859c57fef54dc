"""A course copy of labkit, which has no references: it has an answer sheet instead, or no answers at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from labkit.course import make_sheet as maker
from labkit.course.make_sheet import MadeSheet, make_sheet
from labkit.errors import NotAvailable
from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.exercise import Exercise
from labkit.exercises.held_cases import HeldCases
from labkit.exercises.input_sketch import sketch
from labkit.exercises.registry import all_exercises
from labkit.exercises.registry import exercise as find
from labkit.exercises.sheet_answer import NoAnswer, SheetAnswer
from labkit.gradebook.class_run import grade_class
from labkit.grading import find_answer
from labkit.grading.answer_sheet import JSON_FILE, VALUES_FILE, Sheet, read_sheet
from labkit.grading.answers_here import answers_here
from labkit.grading.call import run_cases
from labkit.grading.check import check_quietly, passed
from labkit.grading.find_answer import answer_to
from labkit.grading.judge import SEEDS, judge
from labkit.grading.lab_state import lab_state
from labkit.grading.notebook_check import check_notebook
from labkit.grading.verdict import FAILED, NO_ANSWER, NOT_ATTEMPTED, NOT_MEASURED, PASSED
from tests.exercises.learners import as_learners
from tests.gradebook.test_class_run import Watcher

ANSWERS = {exercise.name: answer_to(exercise) for exercise in all_exercises()}
QUICK = [
    exercise for exercise in all_exercises() if exercise.lab in ("00", "01", "02") or exercise.number in ("3.6", "3.9", "4.9")
]
"""Exercises whose references need neither ranks nor a server."""
HELD = [exercise for exercise in QUICK if isinstance(exercise.cases, HeldCases)]


@pytest.fixture(autouse=True)
def no_progress(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sheet") / "answer_sheet"


@pytest.fixture(scope="module")
def made(folder: Path) -> MadeSheet:
    return make_sheet(QUICK, folder, "checks of a test")


@pytest.fixture(scope="module")
def sheet(folder: Path, made: MadeSheet) -> Sheet:
    found = read_sheet(folder)
    assert found is not None
    return found


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Sheet | None], None]]:
    """A function that makes this labkit a course copy with a given sheet, or with none, until the end of the test."""

    def change(sheet: Sheet | None) -> None:
        monkeypatch.setattr(find_answer, "_answers_of", lambda lab: None)
        for module in ("find_answer", "answers_here"):
            monkeypatch.setattr(f"labkit.grading.{module}.read_sheet", lambda: sheet)
        monkeypatch.setattr(HeldCases, "__call__", only_given)
        find_answer._from_sheet.cache_clear()

    real = HeldCases.__call__

    def only_given(self: HeldCases, seed: int) -> list[Case]:
        if seed not in self._given:
            raise NotAvailable("this copy of labkit has no answers, and the inputs of this exercise come with its answer")
        return real(self, seed)

    yield change
    find_answer._from_sheet.cache_clear()
    for exercise in HELD:
        exercise.cases.give({})  # type: ignore[attr-defined]


@pytest.fixture
def copy(become: Callable[[Sheet | None], None], sheet: Sheet) -> Sheet:
    become(sheet)
    return sheet


def reference(exercise: Exercise) -> Callable[..., Any]:
    return as_learners(ANSWERS[exercise.name].reference)


# The sheet ----------------------------------------------------------------------------------------------------------------
def test_a_sheet_is_small_and_holds_no_code(folder: Path, made: MadeSheet, sheet: Sheet) -> None:
    assert made.exercises == len(QUICK)
    assert made.left_out == {}
    assert made.size < 1_000_000
    assert {path.name for path in folder.iterdir()} == {JSON_FILE, VALUES_FILE}
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in folder.iterdir())
    assert set(json.loads((folder / JSON_FILE).read_text())) == {"format", "labkit", "checks", "torch", "left_out", "exercises"}
    assert sheet.checks == "checks of a test"


@pytest.mark.parametrize("exercise", QUICK, ids=lambda one: one.name)
def test_the_values_and_the_tolerance_are_those_of_the_reference(exercise: Exercise, sheet: Sheet) -> None:
    row, answer = sheet.rows[exercise.name], ANSWERS[exercise.name]
    assert row.comparison == answer.comparison
    assert row.names == answer.names
    for seed in SEEDS:
        assert Comparison(0.0).difference(row.values[seed], answer.expected(seed)) is None
        assert row.inputs[seed] == sketch(exercise.cases(seed))


@pytest.mark.parametrize("exercise", [e for e in QUICK if e.lab != "02"], ids=lambda one: one.name)
def test_each_known_mistake_fails_by_the_sheet_without_its_sentence(exercise: Exercise, sheet: Sheet) -> None:
    row, answer = sheet.rows[exercise.name], ANSWERS[exercise.name]
    by_sheet = SheetAnswer(exercise, row.comparison, row.values, row.names)
    for mistake in answer.mistakes:
        runs = {seed: run_cases(mistake.implementation, exercise, seed) for seed in SEEDS}
        verdict = judge(by_sheet, runs)
        assert verdict.verdict == FAILED
        assert verdict.message not in {one.message for one in answer.mistakes}


@dataclass(frozen=True)
class Looser(Comparison):
    """A comparison with code of its own, which a sheet cannot hold."""

    def difference(self, found: Any, expected: Any, path: str = "") -> None:
        return None


def test_what_cannot_be_written_down_is_left_out_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, no_value, no_server, plain = (find(name) for name in ("weight_gib", "fuse_qkv", "stream_text", "write_then_read"))
    changed = {
        code.name: replace(ANSWERS[code.name], comparison=Looser()),
        no_value.name: replace(ANSWERS[no_value.name], reference=lambda *args: [torch.ones(2), object()]),
    }
    monkeypatch.setattr(maker, "answer_to", lambda exercise: changed.get(exercise.name, ANSWERS[exercise.name]))

    def no_reference(self: Any, seed: int) -> Any:
        raise NotAvailable("there is no Triton Inference Server")

    monkeypatch.setattr("labkit.exercises.answer.Answer.expected", no_reference)
    assert make_sheet([no_server], tmp_path / "one", "").left_out == {
        no_server.name: "the machine that made the answer sheet could not run it: there is no Triton Inference Server"
    }
    monkeypatch.undo()
    monkeypatch.setattr(maker, "answer_to", lambda exercise: changed.get(exercise.name, ANSWERS[exercise.name]))
    made = make_sheet([code, no_value, plain], tmp_path / "two", "")
    assert made.left_out == {code.name: "its comparison is code", no_value.name: "its values are not numbers, texts or tensors"}
    found = read_sheet(tmp_path / "two")
    assert found is not None
    assert Comparison(0.0).difference(found.rows[plain.name].values[11], ANSWERS[plain.name].expected(11)) is None


@pytest.mark.parametrize("damage", ["[]", '{"format": 2}', '{"format": 1, "exercises": {"a": 5}}', "nothing"])
def test_a_damaged_sheet_is_named(damage: str, folder: Path, made: MadeSheet, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "sheet")
    (tmp_path / "sheet" / JSON_FILE).write_text(damage)
    with pytest.raises(NotAvailable, match=r"the answer sheet .* is damaged \(.*\); install this copy of labkit again"):
        read_sheet(tmp_path / "sheet")


# A copy with a sheet --------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("copy")
@pytest.mark.parametrize("name", ["weight_gib", "greedy_decode", "write_then_read", "choose_layout", "choose_batching"])
def test_a_right_function_passes_by_the_sheet(name: str) -> None:
    verdict = check_quietly(find(name), reference(find(name)))
    assert (verdict.verdict, verdict.points) == (PASSED, find(name).points), str(verdict)
    assert verdict.message.endswith("inputs agree with the answer sheet.")


@pytest.mark.usefixtures("copy")
def test_other_functions_fail_in_general_words() -> None:
    exercise = find("kv_cache_bytes")

    def eight_times(config: Any, lengths: Any, element_bytes: Any) -> Any:
        return 16 * config.num_layers * config.hidden_size * sum(lengths) * element_bytes

    def no_body(*args: Any) -> Any:
        raise NotImplementedError

    def breaks(*args: Any) -> Any:
        return 1 / 0

    assert check_quietly(exercise, eight_times).message == "The value is not right: it is 8 times the right value."
    assert check_quietly(exercise, no_body).verdict == NOT_ATTEMPTED
    assert "ZeroDivisionError" in check_quietly(exercise, breaks).message


def test_a_notebook_is_checked_by_the_sheet(copy: Sheet, tmp_path: Path) -> None:
    head = "def kv_cache_bytes(config, lengths, size):\n"
    code = head + "    return {} * config.num_layers * config.hidden_size * size * sum(lengths)"
    for factor, expected in ((2, PASSED), (3, FAILED)):
        cells = [{"cell_type": "code", "source": code.format(factor)}]
        (tmp_path / "00.ipynb").write_text(json.dumps({"cells": cells}))
        verdicts = {verdict.exercise: verdict.verdict for verdict in check_notebook(tmp_path / "00.ipynb")}
        assert verdicts.pop("lab00.kv_cache_bytes") == expected
        assert set(verdicts.values()) == {NOT_ATTEMPTED}


def test_other_inputs_than_those_of_the_sheet_are_not_judged(become: Callable[[Sheet | None], None], sheet: Sheet) -> None:
    exercise = find("fuse_qkv")
    row = sheet.rows[exercise.name]
    other = {seed: replace(one, sums=tuple(1.01 * size for size in one.sums)) for seed, one in row.inputs.items()}
    become(replace(sheet, torch="9.9", rows={exercise.name: replace(row, inputs=other)}))
    verdict = check_quietly(exercise, reference(exercise))
    assert (verdict.verdict, verdict.cause) == (NOT_MEASURED, NO_ANSWER)
    assert "random inputs on this machine differ from the inputs of the answer sheet" in verdict.message
    assert "torch 9.9 where the sheet was made" in verdict.message


def test_a_sketch_tells_other_inputs_from_other_rounding() -> None:
    values = torch.arange(1.0, 50.0)
    one = sketch([Case("a", (values, 5, 0.1))])
    assert sketch([Case("a", (values * (1 + 1e-7), 5, 0.1 * (1 + 1e-12)))]).is_like(one)
    others = [("b", (values, 5, 0.1)), ("a", (values, 6, 0.1)), ("a", (values * 1.001, 5, 0.1)), ("a", (values[:-1], 5, 0.1))]
    assert not any(sketch([Case(*other)]).is_like(one) for other in others)


# A copy without an answer -----------------------------------------------------------------------------------------------------
def test_without_an_answer_errors_are_found_and_values_are_not(
    become: Callable[[Sheet | None], None], capsys: pytest.CaptureFixture[str]
) -> None:
    become(None)
    exercise = find("weight_gib")

    def weight_gib(parameters: Any, precision: Any, group_size: Any = 128) -> Any:
        return 5

    verdict = check_quietly(exercise, weight_gib)
    assert (verdict.verdict, verdict.points, verdict.cause) == (NOT_MEASURED, 0, NO_ANSWER)
    assert verdict.message == (
        "Your function gives an answer to 60 inputs without an error. This copy of labkit has no answer to this exercise. The "
        "instructor's grader decides."
    )
    assert passed(weight_gib)  # the cells after the exercise run
    assert "Nothing has checked its values" in capsys.readouterr().out

    def takes_nothing() -> Any:
        return 5

    assert "TypeError" in check_quietly(exercise, takes_nothing).message
    assert check_quietly(exercise, reference(find("gpus_needed"))).verdict == FAILED

    def no_body(*args: Any) -> Any:
        raise NotImplementedError

    assert check_quietly(exercise, no_body).verdict == NOT_ATTEMPTED


def test_without_an_answer_a_broken_rule_is_still_a_fail(become: Callable[[Sheet | None], None]) -> None:
    become(None)

    def fuse_qkv(query: Any, key: Any, value: Any) -> Any:
        return query.mul_(2)

    assert check_quietly(find("fuse_qkv"), fuse_qkv).message == "Your function changes its argument 'query'; work on a copy."

    def step_traffic(*args: Any) -> Any:
        from labkit.plurals import counted

        return counted(1, "x")

    assert (
        "breaks a rule of the exercise: it uses labkit's own counted"
        in check_quietly(find("step_traffic"), step_traffic).message
    )


@pytest.mark.parametrize("exercise", HELD, ids=lambda one: one.name)
def test_inputs_that_come_with_the_answer_are_missing_too(exercise: Exercise, become: Callable[[Sheet | None], None]) -> None:
    become(None)
    verdict = check_quietly(exercise, lambda *args: None)
    assert (verdict.verdict, verdict.cause) == (NOT_MEASURED, NO_ANSWER)
    assert verdict.message == "This copy of labkit has no answer to this exercise. The instructor's grader decides."


def test_the_reason_is_said_everywhere(become: Callable[[Sheet | None], None], sheet: Sheet, tmp_path: Path) -> None:
    become(replace(sheet, rows={}, left_out={"lab00.weight_gib": "its comparison is code"}))
    answer = answer_to(find("weight_gib"))
    assert isinstance(answer, NoAnswer)
    assert "has no answer to this exercise (its comparison is code). The" in answer.why
    (row,) = [row for row in lab_state("00").rows if row.exercise.function == "weight_gib"]
    assert row.words == "not measured here: this copy of labkit has no answer to this exercise (its comparison is code)"


def test_the_copy_says_what_it_is_and_does_not_grade(
    become: Callable[[Sheet | None], None], sheet: Sheet, tmp_path: Path
) -> None:
    assert answers_here()["kind"] == "references"
    become(None)
    assert answers_here()["kind"] == "none"
    become(sheet)
    assert answers_here() | {"words": ""} == {"kind": "sheet", "words": "", "exercises": len(QUICK), "checks": sheet.checks}
    (tmp_path / "submissions").mkdir()
    with pytest.raises(NotAvailable, match="this copy of labkit has no answers, so it cannot grade a class"):
        grade_class(tmp_path / "submissions", tmp_path / "grades", Watcher())
    with pytest.raises(NotAvailable, match="cannot make an answer sheet"):
        make_sheet(QUICK, tmp_path / "sheet", "")
