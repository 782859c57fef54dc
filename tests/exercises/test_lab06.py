"""The measurements of lab 06: models made from a learner's masks, students made by a learner's function, training that keeps
pruned weights at zero, and figures.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import labkit
from labkit.answers.lab06.accept import accept_or_reject
from labkit.answers.lab06.initialisation import first_student
from labkit.answers.lab06.mask import two_four_mask
from labkit.answers.lab06.recovery import masked_adam
from labkit.answers.lab06.storage import compress_two_four
from labkit.answers.lab06.stored_bytes import stored_bytes
from labkit.answers.lab06.wanda import wanda_scores
from labkit.checkpoints import open_checkpoint
from labkit.compress import two_four
from labkit.compress.block import MATRICES
from labkit.compress.student import first_student as labkits_first_student
from labkit.compress.student import spread_layers
from labkit.errors import InvalidRequest
from labkit.exercises.lab05 import tensors
from labkit.exercises.lab06 import everything, models, quality, speculation, training, zeros
from labkit.measure import Timing
from labkit.weight_formats import Sparse24Weight


@pytest.fixture(scope="module")
def pruned() -> models.Pruned:
    return models.prune(lambda weight, inputs: two_four_mask(wanda_scores(weight, inputs)))


@pytest.fixture(scope="module")
def pruned_path(pruned: models.Pruned) -> Path:
    return models.save(pruned.model, "pruned")


@pytest.fixture(scope="module")
def student_path() -> Path:
    return models.save(models.student(first_student, 4), "student")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use less held-out text and short training windows."""
    for cached in (quality.windows, quality._teacher, training.all_windows):
        cached.cache_clear()
    monkeypatch.setattr(quality, "LETTERS", 1500)
    monkeypatch.setattr(training, "WINDOW", 24)
    yield
    for cached in (quality.windows, quality._teacher, training.all_windows):
        cached.cache_clear()


def test_the_answers_agree_with_labkit() -> None:
    generator = torch.Generator().manual_seed(3)
    weight, x = torch.randn(7, 40, generator=generator), torch.randn(30, 40, generator=generator)
    scores = wanda_scores(weight, x)
    squares = x.square().mean(0)
    assert torch.allclose(scores / 30**0.5, two_four.wanda_scores(weight, squares), rtol=1e-5)
    mask = two_four_mask(scores)
    assert torch.equal(mask, two_four.two_four_mask(scores))
    values, indices = compress_two_four(weight * mask, mask)
    form = Sparse24Weight.compress(weight * mask, torch.float32)
    assert torch.equal(values, form.values)
    assert torch.equal(indices, form.indices)
    assert form.byte_count == stored_bytes(7, 40, 0, 4)["2:4"]
    dense = models.teacher()
    own, theirs = first_student(dense.tensors, 8, 4), labkits_first_student(dense, spread_layers(8, 4)).tensors
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[name], theirs[name]) for name in own)


def test_the_step_is_that_of_torch_where_the_mask_keeps() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 8, generator=generator)
    mask = two_four_mask(weight.abs())
    reference = (weight * mask).requires_grad_()
    optimizer = torch.optim.Adam([reference], lr=0.02)
    own, mean, square = weight * mask, torch.zeros(3, 8), torch.zeros(3, 8)
    for step in range(1, 5):
        gradient = torch.randn(3, 8, generator=generator)
        own, mean, square = masked_adam(own, gradient, mean, square, mask, 0.02, step)
        reference.grad = gradient.clone()
        optimizer.step()
    assert torch.allclose(own, reference.detach() * mask, atol=1e-6)
    assert not own[~mask].any()


def test_every_matrix_is_pruned_with_its_own_inputs(pruned: models.Pruned) -> None:
    assert len(pruned.masks) == 8 * len(MATRICES)
    name = "transformer.h.3.mlp.fc_out"
    wanted = two_four_mask(wanda_scores(tensors.weight(f"{name}.weight"), models.inputs(3)["mlp.fc_out"]))
    assert torch.equal(pruned.masks[f"{name}.weight"], wanted)
    assert torch.equal(models.inputs(3)["mlp.fc_out"][: tensors.TOKENS], tensors.inputs(3)["mlp.fc_out"])
    assert torch.equal(pruned.model.tensors[f"{name}.weight"] != 0, wanted & (tensors.weight(f"{name}.weight") != 0))
    assert torch.equal(models.teacher().tensors[f"{name}.weight"], tensors.weight(f"{name}.weight"))


@pytest.mark.parametrize(
    "mask_of",
    [
        lambda weight, inputs: weight.abs(),
        lambda weight, inputs: weight > 0,
        lambda weight, inputs: two_four_mask(weight)[:, :4],
        lambda weight, inputs: None,
    ],
)
def test_a_mask_that_is_none_is_refused(mask_of: Any) -> None:
    with pytest.raises(InvalidRequest, match="two of every four True; check it with"):
        models.prune(mask_of)


def test_a_student_with_other_tensors_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"must return the .* tensors of a model with 2 layers"):
        models.student(lambda found, teacher_layers, layers: first_student(found, teacher_layers, 4), 2)


@pytest.mark.usefixtures("small")
def test_training_changes_what_it_may_and_nothing_else(pruned: models.Pruned) -> None:
    model = models.kept_copy(pruned.model)
    ((windows, rate),) = list(training.steps("steps", 1, rate=1e-3, seconds=60))
    assert len(windows) == training.WINDOWS
    assert all(len(each) == 24 for each in windows)
    assert 0 < rate <= 1e-3
    loss = training.backward(model, windows, training.divergence, part="transformer.h.")
    assert 0 < loss < 10
    with_gradient = {name for name, tensor in model.tensors.items() if tensor.grad is not None}
    assert with_gradient == {name for name in model.tensors if name.startswith("transformer.h.")}
    teacher = models.kept_copy(models.teacher())
    assert training.backward(teacher, windows, training.divergence) == pytest.approx(0, abs=1e-4)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("loss", [lambda made, taught: 1.0, lambda made, taught: made.detach().sum(), torch.add])
def test_a_loss_that_cannot_train_is_refused(loss: Any) -> None:
    model, ((windows, _),) = models.kept_copy(models.teacher()), list(training.steps("steps", 1, rate=1e-3, seconds=60))
    with pytest.raises(InvalidRequest, match="a tensor with one number and a gradient"):
        training.backward(model, windows, loss)


@pytest.mark.usefixtures("small")
def test_a_training_ends_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(training, "progress_bar", lambda title: lambda done, total: None)
    rates = [rate for _, rate in training.steps("steps", 50, rate=1.0, seconds=35)]
    assert len(rates) == 3
    assert rates == sorted(rates, reverse=True)
    assert "3 of 50 steps, because the time limit of 35 s was reached" in capsys.readouterr().out


def test_the_rate_rises_and_falls() -> None:
    rates = [training.share_of_rate(done / 100) for done in range(100)]
    assert max(rates) == 1.0
    assert rates[0] < 0.2 > rates[-1]
    assert min(rates) > 0


@pytest.mark.usefixtures("small")
def test_quality_is_measured_against_the_teacher(pruned: models.Pruned, pruned_path: Path) -> None:
    dense, sparse = quality.of("dense", "gptj-tiny"), quality.of("2:4", pruned.model)
    assert dense.kept == pytest.approx(100)
    assert dense.information == pytest.approx(100)
    assert dense.megabytes == pytest.approx(21, rel=0.05)
    assert dense.parameters == tensors.checkpoint().config.parameter_count
    assert sparse.kept < 100 > sparse.information
    assert dense.bits_per_byte < sparse.bits_per_byte < 8
    matrices = sum(tensors.weight(name).numel() for name in pruned.masks)
    assert dense.parameters - sparse.parameters == pytest.approx(matrices / 2, rel=1e-3)
    assert math.isnan(sparse.megabytes)
    stored = everything.two_four(pruned_path)
    weights = [open_checkpoint(path).read(MATRIX, dtype=torch.float32) for path in (stored, pruned_path)]
    assert torch.equal(*weights)
    assert quality.megabytes_of(stored) < 0.8 * dense.megabytes


MATRIX = "transformer.h.2.mlp.fc_in.weight"


def test_integers_keep_the_mask(pruned_path: Path) -> None:
    stored = open_checkpoint(everything.two_four(pruned_path, 4)).read(MATRIX, dtype=torch.float32)
    assert two_four.is_two_four(stored)
    dense = open_checkpoint(pruned_path).read(MATRIX, dtype=torch.float32)
    assert 0 < float((stored - dense).norm() / dense.norm()) < 0.2


def test_a_saved_student_runs_and_guesses(student_path: Path) -> None:
    assert open_checkpoint(student_path).config.num_layers == 4
    assert labkit.load(student_path, device="cpu").config.num_layers == 4
    assert speculation.same_text(student_path)


def test_the_drawn_text_is_that_of_the_target_only_with_the_right_rule() -> None:
    draft, target = speculation.example()
    assert float(draft.sum()) == pytest.approx(1)
    assert float((draft - target).abs().sum()) > 0.3
    right = speculation.drawn(accept_or_reject, draft, target, 2000)
    assert sum(right) == 2000
    assert speculation.chi_square(right, target.tolist()) < 20  # 99.9 % of right rules pass, and the seed fixes the value

    def always(draft: Tensor, target: Tensor, token: int, number: float, other: float) -> int:
        return token

    assert speculation.chi_square(speculation.drawn(always, draft, target, 2000), target.tolist()) > 100


@pytest.mark.usefixtures("small")
def test_the_accepted_share_is_what_both_distributions_have_in_common() -> None:
    draft, target = speculation.predictions(models.student(first_student, 4), places=64)
    assert 32 <= len(draft) == len(target) <= 64
    share = speculation.overlap(draft, target)
    found = speculation.accepted(accept_or_reject, draft, target)
    assert 0 < share < 1
    low, high = speculation.expected_range(draft, target)
    assert low < share < high
    assert (low + high) / 2 == pytest.approx(share)
    assert abs(found - share) <= high - share  # with this seed
    guesses = len(draft) * speculation.DRAWS
    assert (high - share) / 2 <= (share * (1 - share) / guesses) ** 0.5  # rows that differ have less variance than equal ones
    assert speculation.accepted(accept_or_reject, target, target) == 1.0


def test_gains_are_those_of_the_paper() -> None:
    found = speculation.gains(0.8, 0.1)
    assert found[1] == pytest.approx(1.8 / 1.1)
    assert found[3] == pytest.approx((1 - 0.8**4) / 0.2 / 1.3)
    assert max(speculation.gains(0.0, 0.1).values()) < 1


def test_forms_with_zeros_make_the_same_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeros, "OUT", 48)
    monkeypatch.setattr(zeros, "IN", 64)
    made = zeros.products(torch.device("cpu"))
    x = torch.randn(1, 64, generator=torch.Generator().manual_seed(1))
    assert set(sum(zeros.PAIRS.values(), ())) == set(made)
    right = made["FP32, zeros"](x)
    assert torch.allclose(made["FP32, CSR"](x), right, atol=1e-5)
    assert 0 < float((made["half, 2:4"](x).float() - right).norm() / right.norm()) < 0.02
    assert float((made["FP32"](x) - right).norm() / right.norm()) > 0.05
    assert list(zeros.measure(torch.device("cpu"), seconds=0.05)) == list(made)


def a_row(name: str, megabytes: float = 9.0) -> quality.Row:
    return quality.Row(name, 1.5, 1.4, 1.6, 93.25, 88.0, 7_300_000, megabytes)


def test_the_table_has_quality_parameters_and_seconds() -> None:
    said = everything.table([a_row("student"), a_row("pruned")], {"student": Timing((0.25, 0.25, 0.25))})
    student, other = said.splitlines()[2:4]
    assert student.split() == ["student", "93.2", "%", "88.0", "%", "7.30", "M", "0.250"]
    assert other.split()[-1] == "-"


def test_the_table_marks_disturbed_seconds() -> None:
    said = everything.table([a_row("student")], {"student": Timing((0.25, 0.25, 0.25), "others were busy")})
    assert "0.250!" in said
    assert said.splitlines()[-1].startswith("! This measurement was disturbed: others were busy.")


def test_the_report_says_whether_the_engine_guessed() -> None:
    timings = {"plain": Timing((0.5, 0.5, 0.5)), "with a draft": Timing((0.25, 0.25, 0.25))}
    assert speculation.report(timings, 0.5).splitlines() == [
        "Without a draft compared with a draft: 500.000 ms against 250.000 ms: 2.00 x (2.00 to 2.00)",
        "50% of the engine's guesses were right.",
    ]
    assert "made no guess" in speculation.report(timings, None)


def test_the_figure_has_a_point_and_a_name_for_each_model() -> None:
    found = {"dense": [a_row("16 bits", 21.0)], "lab 06: 2:4": [a_row("2:4", 14.0), a_row("2:4, int4", 8.0)]}
    (axes,) = everything.figure(found).axes
    assert {text.get_text() for text in axes.texts} == {"16 bits", "2:4", "2:4, int4"}
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines if not str(line.get_label()).startswith("_")}
    assert lines["lab 06: 2:4"] == [[14.0, 1.5], [8.0, 1.5]]
    assert set(lines) == set(everything.KINDS)
