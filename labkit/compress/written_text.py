"""Training text that the teacher writes: a student sees more of what its teacher predicts than a short text shows.

The teacher continues the beginnings of windows of real text, at temperature 1, so each token comes as often as the teacher
expects it. Training on the teacher's own text is that of Y. Kim and A. Rush (2016), https://arxiv.org/abs/1606.07947; they take
the most probable text instead of a random one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from labkit.home import write_atomically

GIVEN = 32
"""So many tokens of a window are given (half of it, if it is shorter than twice as many); the teacher writes the rest."""


def written_windows(
    source: str | Path, windows: Sequence[Sequence[int]], continuations: int, seed: int, file: Path
) -> list[list[int]]:
    """As many continuations of each window by the model called `source`, each as long as the window, in token ids.

    They are kept in `file`, and read from it if it is there, so that a training that was stopped goes on with the same text.
    Raises what `labkit.load` and `Engine.generate` raise.
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
