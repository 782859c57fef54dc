"""Compares an export in ONNX Runtime with labkit's engine: both must compute the same logits and generate the same tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from labkit.engine import Engine, SamplingParams, load
from labkit.engine.evaluate import Quality, compare_windows
from labkit.engine.intake import NO_TOKENIZER
from labkit.engine.text_windows import text_windows
from labkit.errors import CheckpointError, InvalidRequest
from labkit.graphs.exported import ExportedModel
from labkit.graphs.runner import GraphModel

TOLERANCE = {"fp32": 1e-5, "fp16": 1e-2}
"""The largest accepted relative error of an export's logits, compared with the engine in fp32."""
PROMPTS = (1, 5, 19)
"""The lengths of the prompts. A prompt of several tokens is also run in two pieces; the second piece uses the cache."""
NEW_TOKENS = 12


@dataclass(frozen=True)
class Verified:
    """The outcome of a comparison.

    relative_error: the largest difference between a logit of the export and the same logit of the engine, divided by the
    engine's largest logit at this position. same_tokens: whether greedy generation chose the same tokens. positions: how many
    positions were compared.
    """

    relative_error: float
    same_tokens: bool
    positions: int


def verify(exported: ExportedModel, source: str | Path, *, seed: int = 0) -> Verified:
    """Run the export and the engine in fp32 on random prompts. Both models are in memory at the same time.

    Raises `CheckpointError` if the logits differ by more than `TOLERANCE`, or if an fp32 export and the engine generate
    different tokens.
    """
    with load(str(source), dtype="fp32", device="cpu", seed=seed) as engine:
        found = compare_with_engine(GraphModel(exported), engine, seed=seed)
    limit = TOLERANCE[exported.precision]
    if not found.relative_error <= limit or (exported.precision == "fp32" and not found.same_tokens):
        raise CheckpointError(
            f"{exported.path} does not compute what the engine computes: relative error {found.relative_error:.1e}, at most "
            f"{limit:.0e} is accepted, and greedy tokens {'equal' if found.same_tokens else 'differ'}; export the model again"
        )
    return found


def graph_quality(model: GraphModel, engine: Engine, text: str, *, window: int = 64, seed: int = 0) -> Quality:
    """Measure how well a graph predicts a text, and how far its predictions are from the engine's.

    Graph and engine both use the engine's tokenizer.

    Raises `InvalidRequest` if the engine has no tokenizer, or if the text is too short.
    """
    if engine.tokenizer is None:
        raise InvalidRequest(f"{NO_TOKENIZER}, so it cannot score a text")
    windows = text_windows(engine.tokenizer.encode(text), min(window, model.config.context_length))
    return compare_windows(
        lambda ids: torch.from_numpy(model.logits(ids)), engine.logits, windows, engine.tokenizer, text, seed
    )


def compare_with_engine(model: GraphModel, engine: Engine, *, seed: int = 0) -> Verified:
    """Compare logits and greedy tokens on random prompts of several lengths.

    Each prompt is run whole. A prompt of several tokens is also run in two pieces.
    """
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    worst, positions, same = 0.0, 0, True
    for asked in PROMPTS:
        length = min(asked, config.context_length - 1)
        prompt = torch.randint(config.vocab_size, (length,), generator=generator).tolist()
        truth = engine.logits(prompt).double().numpy()
        rows = np.asarray([prompt], np.int64)
        pairs = [(model.prefill(rows), truth[-1])]
        if length > 1:
            pairs.append((model.prefill(rows[:, : length // 2]), truth[length // 2 - 1]))
            pairs.append((model.step(rows[:, length // 2 :]), truth[-1]))
        for found, wanted in pairs:
            worst = max(worst, float(np.abs(found[0].astype(np.float64) - wanted).max() / np.abs(wanted).max()))
        positions += len(pairs)
        count = min(NEW_TOKENS, config.context_length - length)
        params = SamplingParams(temperature=0.0, max_new_tokens=count, ignore_eos=True)
        (output,) = engine.generate([prompt], params)
        same = same and model.greedy(rows, count)[0].tolist() == list(output.token_ids)
    return Verified(worst, same, positions)
