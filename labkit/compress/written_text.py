"""Lets the teacher write training text, so that the student sees more of the teacher's predictions.

The teacher continues the beginnings of windows of real text at temperature 1, so each token occurs with the probability that
the teacher gives it. Y. Kim and A. Rush (2016), https://arxiv.org/abs/1606.07947, also train on text from the teacher, but
they use the most probable text instead of random text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from labkit.compress.recipe import WholeModel
from labkit.compress.work_folder import WRITTEN
from labkit.home import write_atomically

GIVEN = 32
"""The teacher gets this many tokens of a window (but at most half of the window) and writes the rest."""


def written_windows(
    source: str | Path, windows: Sequence[Sequence[int]], continuations: int, seed: int, file: Path
) -> list[list[int]]:
    """Let the model `source` continue each window `continuations` times. Each result has as many token ids as the window.

    The results are saved in `file`. If the file exists, they are read from it, so that a stopped training continues with the
    same text. Raises the same errors as `labkit.load` and `Engine.generate`.
    """
    from labkit.engine import SamplingParams, load

    if file.is_file():
        return [list(each) for each in json.loads(file.read_text("utf-8"))]
    given = [list(window[: min(GIVEN, len(window) // 2)]) for window in windows] * continuations
    lengths = [len(window) for window in windows] * continuations
    params = [
        SamplingParams(max_new_tokens=length - len(begin), temperature=1.0, seed=seed + place, ignore_eos=True)
        for place, (begin, length) in enumerate(zip(given, lengths, strict=True))
    ]
    with load(source, device="cpu", dtype="bf16", seed=seed) as engine:
        outputs = engine.generate(given, params)
    made = [begin + list(output.token_ids) for begin, output in zip(given, outputs, strict=True)]
    write_atomically(file, json.dumps(made))
    return made


def training_windows(model: WholeModel, continuations: int, steps: int) -> list[Sequence[int]]:
    """The calibration windows of a model and, if `continuations` is above 0, those that it writes (`written_windows`).

    The text is kept in the model's unfinished folder. `steps` is the number of training steps, for the progress.
    """
    ids = list(model.ids)
    if continuations:
        model.progress(0, steps, "the dense model writes training text")
        file = model.folder / WRITTEN
        ids += written_windows(model.checkpoint.opened_from, ids, continuations, model.seed, file)
    return ids
