"""Distillation: losses and gradients are those of an independent model, the loss falls, and a killed training run resumes."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

import labkit
from labkit.checkpoints import open_checkpoint
from labkit.checkpoints.conversion import convert
from labkit.checkpoints.safetensors_file import SafetensorsFile
from labkit.compress import CalibrationText
from labkit.compress.calibration import windows_of
from labkit.compress.dense_model import DenseModel
from labkit.compress.distill import DistillOptions, DistillResult, _Training, distill
from labkit.compress.distillation_loss import hidden_state_loss, soft_target_loss
from labkit.compress.student import chosen_layers, first_student, matched_layers, spread_layers
from labkit.compress.written_text import written_windows
from labkit.errors import InvalidRequest, LabkitError
from tests.compress.directories import dense_directory

TEXT = CalibrationText("text", CalibrationText.read().text[:6000])
SMALL: dict[str, Any] = {"windows": 2, "window": 24, "rate": 1e-3}


def test_losses_are_those_of_torch() -> None:
    generator = torch.Generator().manual_seed(4)
    student, teacher = (3 * torch.randn(7, 29, generator=generator) for _ in range(2))
    for temperature in (1.0, 2.0, 5.0):
        expected = F.kl_div((student / temperature).log_softmax(-1), (teacher / temperature).softmax(-1), reduction="batchmean")
        assert float(soft_target_loss(student, teacher, temperature)) == pytest.approx(
            float(expected) * temperature**2, rel=1e-5
        )
    assert float(soft_target_loss(teacher, teacher, 2.0)) == pytest.approx(0, abs=1e-6)
    expected = F.cosine_embedding_loss(student, teacher, torch.ones(7))
    assert float(hidden_state_loss(student, teacher)) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("teacher", "layers", "expected"),
    [(8, 4, [1, 3, 5, 7]), (8, 3, [1, 4, 7]), (6, 1, [5]), (12, 6, [1, 3, 5, 7, 9, 11]), (3, 2, [0, 2])],
)
def test_layers_are_spread_evenly_and_the_last_is_the_last(teacher: int, layers: int, expected: list[int]) -> None:
    assert spread_layers(teacher, layers) == expected


@pytest.mark.parametrize(
    ("teacher", "copied", "expected"),
    [(8, [0, 2, 3, 7], [1, 2, 6, 7]), (8, [1, 3, 5, 7], [2, 4, 6, 7]), (6, [2], [5]), (3, [0, 1], [0, 2])],
)
def test_a_layer_does_the_work_of_those_left_out_after_it(teacher: int, copied: list[int], expected: list[int]) -> None:
    assert matched_layers(teacher, copied) == expected


@pytest.fixture(scope="module")
def teacher() -> DenseModel:
    return DenseModel(open_checkpoint("gptj-tiny"))


def test_the_first_student_has_the_teachers_layers(teacher: DenseModel) -> None:
    student = first_student(teacher, [1, 4, 7])
    ids = [5, 900, 17, 4000]
    hidden = teacher.embedded(ids)
    for layer in (1, 4, 7):
        hidden = teacher.block(layer).forward(hidden)
    assert torch.allclose(student.logits(ids), teacher.head(hidden), atol=1e-4)
    student.tensors["transformer.h.0.mlp.fc_in.bias"].add_(1)
    assert not torch.equal(student.tensors["transformer.h.0.mlp.fc_in.bias"], teacher.tensors["transformer.h.1.mlp.fc_in.bias"])


def test_the_layer_is_left_out_that_is_missed_least(teacher: DenseModel) -> None:
    window = open_checkpoint("gptj-tiny").tokenizer().encode(TEXT.text)[:64]
    peer = transformers.GPTJForCausalLM.from_pretrained(open_checkpoint("gptj-tiny").path, dtype=torch.float32)
    blocks = list(peer.transformer.h)
    losses = []
    for gone in range(8):
        peer.transformer.h = torch.nn.ModuleList(block for layer, block in enumerate(blocks) if layer != gone)
        with torch.no_grad():
            losses.append(float(peer(torch.tensor([window]), labels=torch.tensor([window]), use_cache=False).loss))
    least = losses.index(min(losses))
    assert chosen_layers(teacher, 7, [window]) == [layer for layer in range(8) if layer != least]
    fewer = chosen_layers(teacher, 4, [window])
    assert len(fewer) == 4
    assert fewer == sorted(set(fewer))
    assert least not in fewer


def peer_loss(folder: Path, student: Any, window: list[int], options: DistillOptions) -> Tensor:
    """The loss of one undivided window, computed by transformers' models in float32; the student has one layer."""
    teacher = transformers.GPTJForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids, targets = torch.tensor([window[:-1]]), torch.tensor(window[1:])
    states: dict[str, list[Tensor]] = {}
    for name, model in (("teacher", teacher), ("student", student)):
        kept = states[name] = []
        for block in model.transformer.h:
            block.register_forward_hook(
                lambda _module, _given, made, kept=kept: kept.append(made[0] if isinstance(made, tuple) else made)
            )
    with torch.no_grad():
        theirs = teacher(ids).logits[0]
    own = student(ids).logits[0]
    heat = options.temperature
    soft = F.kl_div((own / heat).log_softmax(-1), (theirs / heat).softmax(-1), reduction="batchmean") * heat**2
    last = states["teacher"][-1].reshape(len(targets), -1)
    ours = states["student"][-1].reshape(len(targets), -1)
    hidden = F.cosine_embedding_loss(ours, last, torch.ones(len(targets)))
    return options.soft * soft + options.hard * F.cross_entropy(own, targets) + options.hidden * hidden


def test_gradients_are_those_of_transformers(tmp_path: Path) -> None:
    """Matrix products in bfloat16 are rounded, so only the directions of the gradients are compared, tensor by tensor."""
    folder = dense_directory(tmp_path / "dense", torch.float32)
    options = DistillOptions(1, windows=2, soft=0.7, hard=0.6, hidden=2.0, temperature=1.5)
    windows = [[(5 * each * each + start) % 97 for each in range(40)] for start in (3, 8)]
    training = _Training(DenseModel(open_checkpoint(folder)), windows, options, 0, tmp_path / "state")
    with torch.enable_grad():
        for each in training.state.weights.values():
            each.requires_grad_(True)
        found = training._add_gradients(windows)
    config = transformers.GPTJConfig.from_pretrained(folder, n_layer=1)
    student = transformers.GPTJForCausalLM(config)
    student.load_state_dict({name: each.detach() for name, each in training.student.tensors.items()}, strict=False)
    loss = torch.stack([peer_loss(folder, student, window, options) for window in windows]).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    assert found == pytest.approx(float(loss.detach()), rel=0.01)
    kept = {"transformer.wte.weight", "lm_head.weight", "lm_head.bias"}
    assert set(training.state.weights) == {name for name, _ in student.named_parameters()} - kept
    for name, parameter in student.named_parameters():
        mine = training.student.tensors[name].grad
        if name in kept:
            assert mine is None
            continue
        assert mine is not None
        assert parameter.grad is not None
        assert float(F.cosine_similarity(mine.flatten(), parameter.grad.flatten(), dim=0)) > 0.99, name
        assert float(mine.norm() / parameter.grad.norm()) == pytest.approx(1, abs=0.05), name


def test_a_random_student_trains_embedding_and_head(tmp_path: Path) -> None:
    folder = dense_directory(tmp_path / "dense", torch.float32)
    options = DistillOptions(1, windows=1, soft=0.0, hidden=0.0, hard=1.0, from_teacher=False)
    training = _Training(DenseModel(open_checkpoint(folder)), [list(range(20))], options, 0, tmp_path / "state")
    before = {name: each.clone() for name, each in training.student.tensors.items()}
    training._step(0.0)
    assert all(not torch.equal(each, training.student.tensors[name]) for name, each in before.items())


def run(target: Path, progress: Any = None, **options: Any) -> DistillResult:
    chosen = DistillOptions(**(SMALL | {"layers": 4, "steps": 26} | options))
    return distill("gptj-tiny", target, chosen, calibration=TEXT, progress=progress or (lambda done, total, name: None))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[DistillResult, list[tuple[int, int, str]]]:
    told: list[tuple[int, int, str]] = []
    return run(tmp_path_factory.mktemp("distill") / "student", lambda *given: told.append(given)), told


def test_a_student_is_a_model_like_any_other(made: tuple[DistillResult, list[tuple[int, int, str]]]) -> None:
    result, told = made
    losses = [float(name.split("loss ")[1].split(",")[0]) for _, _, name in told if "loss" in name]
    assert sum(losses[-4:]) < 0.95 * sum(losses[:4])
    assert told[0] == (0, 26, "training step 1")
    assert told[-1][2].endswith("left")
    assert result.steps == 26
    engine = labkit.load(result.path, device="cpu")
    assert engine.config.num_layers == 4
    assert result.parameters == engine.config.parameter_count < result.teacher_parameters
    peer = transformers.GPTJForCausalLM.from_pretrained(result.path, dtype=torch.float32)
    ids = [5, 900, 17, 4000, 12]
    with torch.no_grad():
        expected = peer(torch.tensor([ids])).logits[0]
    assert torch.allclose(engine.logits(ids), expected, atol=2e-3)
    assert engine.generate("In the", labkit.SamplingParams(max_new_tokens=3))[0].text
    assert not list(result.path.glob("training*"))
    before = first_student(DenseModel(open_checkpoint("gptj-tiny")), result.copied).tensors
    trained = open_checkpoint(result.path)
    same = {name for name, tensor in before.items() if torch.equal(trained.read(name).float(), tensor)}
    assert same == {"transformer.wte.weight", "lm_head.weight", "lm_head.bias"}


def stop_at(step: int) -> Callable[[int, int, str], None]:
    def progress(done: int, total: int, name: str) -> None:
        if done == step:
            raise KeyboardInterrupt

    return progress


def test_a_killed_training_goes_on_to_the_same_result(
    made: tuple[DistillResult, list[tuple[int, int, str]]], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "student", stop_at(23))
    begun: list[int] = []
    result = run(tmp_path / "student", lambda done, total, name: begun.append(done))
    assert begun[0] == 20  # the last step after which the state was saved
    whole, again = open_checkpoint(made[0].path), open_checkpoint(result.path)
    for name in whole.tensor_names():
        assert torch.equal(whole.read(name), again.read(name)), name


def test_another_teacher_with_the_same_norms_starts_again(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "student"
    convert("gptj-tiny", source, "hf")
    begun: list[int] = []
    call = partial(distill, source, target, DistillOptions(**SMALL | {"layers": 1, "steps": 13}), calibration=TEXT)
    with pytest.raises(KeyboardInterrupt):
        call(progress=stop_at(11))
    file = SafetensorsFile(source / "model.safetensors")
    with file.path.open("r+b") as stream:
        stream.seek(file.entries["transformer.h.0.mlp.fc_in.weight"].offset)
        stream.write(bytes(64))
    call(progress=lambda done, total, name: begun.append(done))
    assert begun[0] == 0


def test_the_teacher_writes_more_text(tmp_path: Path) -> None:
    real = [[5, 900, 17, 4000, 12, 7, 44, 3], [9, 8, 7, 6, 5, 4, 3, 2]]
    made = written_windows("gptj-tiny", real, 3, 0, tmp_path / "written.json")
    assert [each[:4] for each in made] == [each[:4] for each in real] * 3
    assert all(len(each) == 8 for each in made)
    assert len({tuple(each) for each in made}) == 6  # each run has a seed of its own
    assert written_windows("no-such-model", real, 3, 0, tmp_path / "written.json") == made


@pytest.mark.long
def test_a_training_with_written_text_goes_on_with_the_same_text(tmp_path: Path) -> None:
    options: dict[str, Any] = {"layers": 1, "steps": 12, "windows": 1, "window": 16, "continuations": 1}
    text = CalibrationText("short", TEXT.text[:600])
    for target in ("whole", "stopped"):
        stops = target == "stopped"
        call = partial(distill, "gptj-tiny", tmp_path / target, DistillOptions(**options), calibration=text)
        if stops:
            with pytest.raises(KeyboardInterrupt):
                call(progress=stop_at(11))
            written = (tmp_path / f".{target}.compressing" / "written.json").read_text()
            assert len(json.loads(written)) == len(windows_of(text, open_checkpoint("gptj-tiny").tokenizer(), 16, 999, 0))
        call()
        assert not list((tmp_path / target).glob("written*"))
    whole, again = open_checkpoint(tmp_path / "whole"), open_checkpoint(tmp_path / "stopped")
    for name in whole.tensor_names():
        assert torch.equal(whole.read(name), again.read(name)), name


def test_minutes_become_steps(tmp_path: Path) -> None:
    totals: list[int] = []
    result = run(tmp_path / "student", lambda done, total, name: totals.append(total), steps=None, minutes=0.01)
    assert set(totals) == {0}
    assert result.steps == len(totals) >= 1
    assert result.seconds >= 0.6


def test_without_a_teacher_its_predictions_do_not_matter(teacher: DenseModel, tmp_path: Path) -> None:
    options = DistillOptions(2, windows=1, soft=0.0, hidden=0.0, hard=1.0)
    window = [5, 900, 17, 4000, 12]
    training = _Training(teacher, [window], options, 0, tmp_path / "state")
    training.teacher = None  # type: ignore[assignment]
    for each in training.state.weights.values():
        each.requires_grad_(True)
    with torch.no_grad():
        expected = F.cross_entropy(training.student.logits(window[:-1]), torch.tensor(window[1:]))
    with torch.enable_grad():
        assert training._add_gradients([window]) == pytest.approx(float(expected), rel=0.02)


def test_refusals(tmp_path: Path) -> None:
    for wrong, message in (
        ({"layers": 8}, "layers is 8; a student has fewer layers than its teacher, which has 8: 1 to 7"),
        ({"layers": 0}, "layers is 0"),
        ({"steps": 0}, "steps of distill is 0"),
        ({"minutes": 1.0}, "steps 26 and minutes 1.0 were both given"),
        ({"temperature": -1.0}, "temperature of distill is -1.0"),
        ({"soft": 0.0, "hard": 0.0}, "the student would learn no predictions"),
        ({"hidden": -1.0}, "the weight of a loss must be at least 0"),
        ({"window": 1}, "window is 1"),
        ({"continuations": -1}, "continuations is -1; a number of at least 0"),
    ):
        with pytest.raises(InvalidRequest, match=message):
            run(tmp_path / "student", **wrong)
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_finite(teacher: DenseModel, tmp_path: Path) -> None:
    training = _Training(teacher, [[5, 900, 17, 4000, 12]], DistillOptions(2, windows=1, steps=2), 0, tmp_path / "state")
    training.student.tensors["lm_head.bias"].fill_(torch.nan)
    with pytest.raises(LabkitError, match="the loss of training step 1 is not finite"):
        training.run(lambda done, total, name: None)
