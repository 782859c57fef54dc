"""Distillation: a student with fewer layers learns to predict what its teacher predicts (DistilBERT's recipe, for GPT-J).

The student begins with some of the teacher's layers (`student`), and keeps the teacher's embedding and head. The loss is the
sum of up to three losses (`distillation_loss`). The first compares the student's predictions with the teacher's predictions.
The second compares them with the next token of the text. The third compares the directions of the student's hidden states with
the directions of the teacher's hidden states. Matrix products are computed in bfloat16; weights and sums are float32.

By default, the training text is a small part of gptj-tiny's own training text. On request, the teacher writes more text
(`written_text`).
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.checkpoints import Checkpoint
from labkit.checkpoints.fingerprint import weights_digest
from labkit.checkpoints.folder_config import GENERATION_CONFIG
from labkit.checkpoints.output import TOKENIZER_FILES, Progress, check_room, copy_beside
from labkit.compress.calibration import CalibrationText, windows_of
from labkit.compress.dense import open_dense
from labkit.compress.dense_model import DenseModel
from labkit.compress.distill_state import DistillState
from labkit.compress.distillation_loss import hidden_state_loss, soft_target_loss
from labkit.compress.student import (
    Student,
    chosen_layers,
    first_student,
    matched_layers,
    random_student,
    student_config,
)
from labkit.compress.training_steps import drawn, time_left
from labkit.compress.work_folder import TRAINING, WRITTEN, WorkFolder
from labkit.compress.written_text import written_windows
from labkit.errors import InvalidRequest, LabkitError
from labkit.home import write_atomically
from labkit.torch_state import gradients_restored, undisturbed

STEPS = 350
"""The default number of training steps."""
WINDOW = 512
"""The default number of tokens in a window, unless the model's context is shorter."""
SAVE_EVERY = 10
"""The number of steps between two saves of the state. If the process is killed, at most this many steps are lost."""
WARMUP = 20
"""The learning rate rises over this many steps."""
ROWS = 256
"""The losses of this many tokens are computed together, so that their logits stay in the processor's cache."""
CHOOSING = 4
"""How many windows of the training text are used to choose which layers to copy."""
KEPT = "transformer.wte.weight", "lm_head.weight", "lm_head.bias"
"""These tensors are copied from the teacher and are not trained."""
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class DistillOptions:
    """How a student with `layers` layers is trained.

    steps: the number of training steps, each on `windows` windows of `window` tokens (by default 512). minutes: the training
    time, instead of `steps`; the number of steps then depends on the machine. rate: the largest learning rate; it rises
    over the first steps and falls linearly to zero. temperature: the temperature of the soft targets. soft, hard, hidden: the
    weights of the three losses (the teacher's predictions, the next token, the hidden states). If soft and hidden are 0, the
    student learns from the text alone. continuations: how many times the teacher continues each window of the text, to make
    more training text (`written_windows`). from_teacher: begin with layers of the teacher, and keep its embedding and head;
    otherwise begin with random weights, and train all of them.

    Raises `InvalidRequest` for values that are out of range, and if both steps and minutes are given.
    """

    layers: int
    steps: int | None = None
    minutes: float | None = None
    windows: int = 2
    window: int | None = None
    rate: float = 2e-3
    temperature: float = 1.0
    soft: float = 1.0
    hard: float = 0.0
    hidden: float = 1.0
    continuations: int = 0
    from_teacher: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "minutes", "windows", "rate", "temperature"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InvalidRequest(f"{name} of distill is {value!r}; a number above 0 is accepted")
        for name in ("soft", "hard", "hidden"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InvalidRequest(f"{name} is {getattr(self, name)!r}; the weight of a loss must be at least 0")
        if self.soft + self.hard == 0:
            raise InvalidRequest("soft and hard are both 0, so the student would learn no predictions; give one of them")
        if self.window is not None and self.window < 2:
            raise InvalidRequest(f"window is {self.window}; at least 2 tokens are accepted")
        if self.continuations < 0:
            raise InvalidRequest(f"continuations is {self.continuations}; a number of at least 0 is accepted")
        if self.steps is not None and self.minutes is not None:
            raise InvalidRequest(f"steps {self.steps} and minutes {self.minutes} were both given; give one of them")

    def share(self, step: int, done: float) -> float:
        """The learning rate of step number `step` (from 0), as a share of the largest learning rate.

        done: the share of the training that is finished, from 0 to 1.
        """
        return min((step + 1) / WARMUP, 1.0, max(1 - done, 0.01))


@dataclass(frozen=True)
class DistillResult:
    """The folder that was written, the sizes of teacher and student in parameters, the number of steps, and the training time.

    `copied`: the layers of the teacher that the student started from; none if the student started from random weights. `loss`:
    the sum of the losses, averaged over the last tenth of the steps; None if the training was finished before this call.
    """

    path: Path
    teacher_parameters: int
    parameters: int
    steps: int
    seconds: float
    loss: float | None
    copied: tuple[int, ...]


@gradients_restored()
@undisturbed()
def distill(
    source: str | Path,
    target: str | Path,
    options: DistillOptions,
    *,
    calibration: CalibrationText | None = None,
    seed: int = 0,
    progress: Progress = lambda done, total, name: None,
) -> DistillResult:
    """Train a student of the model `source`, and write it to a directory that `labkit.load` and transformers can read.

    calibration: the text, by default the built-in sample. seed: chooses the windows of each step, and the weights of a
    synthetic model. The state is saved every few steps in a folder beside the target. If the call is stopped, the same call
    continues from that state and gives the same result. Raises `InvalidRequest`, `CheckpointError`, `NotAvailable`,
    `InsufficientResources`, or `LabkitError` if the loss is not finite.
    """
    place = Path(target).expanduser()
    checkpoint = open_dense(source, seed)
    config = student_config(checkpoint.config, options.layers)
    text = calibration or CalibrationText.read()
    window = min(options.window or WINDOW, config.context_length)
    ids = windows_of(text, checkpoint.tokenizer(), window, len(text.text), seed)
    work = WorkFolder(place, _settings(checkpoint, options, text, ids, seed))
    work.open()
    try:
        check_room(place, 4 * 3 * config.parameter_count)  # the weights and two averages of Adam, in float32
        if options.continuations:
            progress(0, 0, "the teacher writes training text")
            ids += written_windows(source, ids, options.continuations, seed, work.path / WRITTEN)
        training = _Training(DenseModel(checkpoint), ids, options, seed, work.path / TRAINING)
        training.run(progress)
        _write(checkpoint, training.student, work)
        work.finish()
    finally:
        work.close()
    return DistillResult(
        place,
        checkpoint.config.parameter_count,
        config.parameter_count,
        training.state.step,
        training.seconds,
        training.mean_loss,
        tuple(training.copied) if options.from_teacher else (),
    )


class _Training:
    """The training of one student. After `run`, `student` has the trained tensors."""

    def __init__(
        self, teacher: DenseModel, ids: Sequence[Sequence[int]], options: DistillOptions, seed: int, file: Path
    ) -> None:
        self.teacher, self.options = teacher, options
        self._ids, self._seed, self._file = ids, seed, file
        self.copied = chosen_layers(teacher, options.layers, ids[:CHOOSING])
        self._matched = matched_layers(teacher.config.num_layers, self.copied)
        if options.from_teacher:
            first = first_student(teacher, self.copied)
        else:
            first = random_student(teacher, options.layers, seed)
        kept = KEPT if options.from_teacher else ()
        self.state = DistillState.load(file) or DistillState.start(
            {name: each for name, each in first.tensors.items() if name not in kept}
        )
        self.student = Student(first.config, first.tensors | self.state.weights)
        self.seconds = 0.0
        self.mean_loss: float | None = None

    @property
    def steps(self) -> int:
        """The total number of steps; 0 if `minutes` limits the training."""
        return 0 if self.options.minutes else self.options.steps or STEPS

    def run(self, progress: Progress) -> None:
        """Run the remaining steps."""
        state, begun, before = self.state, time.monotonic(), self.state.seconds
        losses: list[float] = []
        while (done := self._done()) < 1:
            self._say(progress, losses, done)
            losses.append(self._step(done))
            state.seconds = before + time.monotonic() - begun
            if state.step % SAVE_EVERY == 0 or self._done() >= 1:
                state.save(self._file)
        self.seconds = state.seconds
        if losses:
            last = losses[-max(state.step // 10, 1) :]
            self.mean_loss = sum(last) / len(last)

    def _done(self) -> float:
        """The share of the training that is finished, from 0 to 1."""
        minutes = self.options.minutes
        return self.state.step / self.steps if minutes is None else self.state.seconds / (60 * minutes)

    def _say(self, progress: Progress, losses: list[float], done: float) -> None:
        state = self.state
        told = f"training step {state.step + 1}"
        if losses and done > 0:
            left = state.seconds / done * (1 - done)
            told += f", loss {losses[-1]:.4f}, {time_left(left)}"
        progress(state.step, self.steps, told)

    def _step(self, done: float) -> float:
        """Do one training step. Returns the loss before the update."""
        state, options = self.state, self.options
        with torch.enable_grad():
            for each in state.weights.values():
                each.requires_grad_(True).grad = None
            total = self._add_gradients(
                [self._ids[each] for each in drawn(len(self._ids), options.windows, self._seed, state.step)]
            )
        if not math.isfinite(total):
            raise LabkitError(
                f"the loss of training step {state.step + 1} is not finite; check the teacher with `labkit evaluate`, or give "
                "a smaller learning rate"
            )
        rate = options.rate * options.share(state.step, done)
        state.step += 1
        for name, weight in state.weights.items():
            state.adam[name].update(weight, rate, state.step)
        return total

    def _add_gradients(self, windows: Sequence[Sequence[int]]) -> float:
        """Add the gradients of the loss of these windows, which have equal lengths, and return the loss."""
        options, ids = self.options, [list(window[:-1]) for window in windows]
        targets = torch.tensor([list(window[1:]) for window in windows], dtype=torch.int64, device="cpu").flatten()
        taught: list[Tensor] = []
        with torch.autocast("cpu", torch.bfloat16):
            if options.soft or options.hidden:
                with torch.no_grad():
                    taught = self.teacher.states(ids)
            made = self.student.states(ids)
            final = self.student.normed(made[-1]).float().flatten(0, 1)
        hidden = torch.zeros((), dtype=torch.float32, device="cpu")
        if options.hidden:
            pairs = zip(made, (taught[layer] for layer in self._matched), strict=True)
            hidden = torch.stack([hidden_state_loss(own.float(), theirs.float()) for own, theirs in pairs]).mean()
        leaf = final.detach().requires_grad_(True)
        normed = self.teacher.normed(taught[-1]).float().flatten(0, 1) if options.soft else None
        loss = self._predict(leaf, normed, targets)
        assert leaf.grad is not None
        # One backward pass through the blocks, starting from the gradient of the losses with respect to the last hidden state.
        ((final * leaf.grad).sum() + options.hidden * hidden).backward()  # type: ignore[no-untyped-call]
        return loss + options.hidden * float(hidden.detach())

    def _predict(self, final: Tensor, taught: Tensor | None, targets: Tensor) -> float:
        """Add the gradients of the two prediction losses, a few rows at a time; return the sum of these losses."""
        options, total = self.options, 0.0
        for begin in range(0, len(final), ROWS):
            rows = slice(begin, begin + ROWS)
            part = len(targets[rows]) / len(targets)
            own = _logits(self.student, final[rows])
            loss = torch.zeros((), dtype=torch.float32, device="cpu")
            if options.hard:
                loss = loss + options.hard * F.cross_entropy(own, targets[rows])
            if taught is not None:
                with torch.no_grad():
                    soft = _logits(self.teacher, taught[rows])
                loss = loss + options.soft * soft_target_loss(own, soft, options.temperature)
            (part * loss).backward()  # type: ignore[no-untyped-call]
            total += part * float(loss.detach())
        return total


def _logits(model: DenseModel, normed: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return F.linear(normed, model.tensors["lm_head.weight"]).float() + model.tensors["lm_head.bias"]


def _settings(
    checkpoint: Checkpoint, options: DistillOptions, text: CalibrationText, ids: list[list[int]], seed: int
) -> dict[str, Any]:
    """All settings that determine the result. Work in an unfinished folder continues only if its settings are the same."""
    tokens = hashlib.sha256(json.dumps(ids).encode()).hexdigest()
    return {
        "source": checkpoint.name,
        "source_weights_digest": weights_digest(checkpoint),
        "method": "distill",
        "seed": seed,
        **asdict(options),
        "calibration": text.name,
        "tokens_sha256": tokens,
    }


def _write(checkpoint: Checkpoint, student: Student, work: WorkFolder) -> None:
    """Write the student's weights in the teacher's dtype, the tokenizer's files, and `config.json`."""
    dtype = checkpoint.weight_dtype
    work.write(WEIGHTS, {name: tensor.detach().to(dtype).contiguous() for name, tensor in student.tensors.items()})
    copy_beside(checkpoint.path, work.path, (*TOKENIZER_FILES, GENERATION_CONFIG))
    values = student.config.to_dict() | {"dtype": str(dtype).removeprefix("torch.")}
    write_atomically(work.path / "config.json", json.dumps(values, indent=2) + "\n")
