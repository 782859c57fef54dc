"""Measures how well a model predicts a text: alone (`evaluate`), or compared with a reference model (`compare`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from labkit.engine import argument_forms
from labkit.engine.bootstrap import Bootstrap, Estimate
from labkit.engine.engine import Engine
from labkit.engine.intake import NO_TOKENIZER
from labkit.engine.text_windows import TextWindow, text_windows
from labkit.errors import InvalidRequest
from labkit.sampling_vocabulary import MOST_SEED
from labkit.tokenizer import Tokenizer

Logits = Callable[[list[int]], Tensor]
"""A function that takes a window's token ids and returns the logits after every token, `[tokens, vocab_size]`, such as
`Engine.logits`.
"""


@dataclass(frozen=True)
class Evaluation:
    """The score of a text: `bits_per_byte` of its UTF-8 bytes, `perplexity` per token, and the number of predicted `tokens`.

    `interval` is the 95 % interval of `bits_per_byte`, from resampling the windows of the text (percentile bootstrap). The
    interval is None if the text has only one window, because then there is nothing to resample.
    """

    bits_per_byte: float
    perplexity: float
    tokens: int
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Quality:
    """How well a model predicts a text, and how far its predictions are from a reference model's.

    Each measure has a 95 % interval. `bits_per_byte` and `perplexity` are as in `Evaluation`. `change` is the change in
    perplexity, in percent of the reference's perplexity. The bootstrap of `change` is paired, so its interval is much narrower
    than the interval of the perplexity. `kl` is the mean Kullback-Leibler divergence of the model's predictions from the
    reference's, in nats per token. `agreement` is the share of positions at which both models give the highest probability to
    the same token, so that greedy generation would choose the same token.
    """

    bits_per_byte: Estimate
    perplexity: Estimate
    change: Estimate
    kl: Estimate
    agreement: Estimate
    tokens: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a JSON record: a value and an interval for each measure, and the number of tokens."""
        measures = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: found.to_dict() if isinstance(found, Estimate) else found for name, found in measures.items()}


def evaluate(engine: Engine, text: str, *, window: int | None = None, seed: int = 0) -> Evaluation:
    """Predict every token of `text` except the first.

    Except at the start of the text, at least half a window comes before each predicted token. window: the number of tokens in
    one forward pass, by default the model's context length. Windows overlap by half. Raises `InvalidRequest` for a text or a
    window of fewer than two tokens, for a text without bytes to predict, and for a model without a tokenizer.
    """
    seed = argument_forms.whole("seed", seed, 0, MOST_SEED)
    tokenizer, windows = _cut(engine, text, window)
    nats = torch.stack([_scored(engine.logits(part.seen), part)[1] for part in windows])
    bits = _bits_per_byte(nats, windows, tokenizer, text, Bootstrap(len(windows), seed))
    tokens = sum(len(part.targets) for part in windows)
    interval = None if bits.low is None or bits.high is None else (bits.low, bits.high)
    return Evaluation(bits.value, math.exp(float(nats.sum()) / tokens), tokens, interval)


def compare(engine: Engine, reference: Logits, text: str, *, window: int | None = None, seed: int = 0) -> Quality:
    """Evaluate a model and compare it with a reference model. `reference` is the reference model's `Engine.logits`.

    Both models must have the same tokenizer. The seed determines the random draws of all bootstraps. Raises `InvalidRequest` in
    the same cases as `evaluate`, and if the reference has a vocabulary of another size.
    """
    seed = argument_forms.whole("seed", seed, 0, MOST_SEED)
    tokenizer, windows = _cut(engine, text, window)
    return compare_windows(engine.logits, reference, windows, tokenizer, text, seed)


def compare_windows(
    logits: Logits, reference: Logits, windows: list[TextWindow], tokenizer: Tokenizer, text: str, seed: int = 0
) -> Quality:
    """Like `compare`, but for any two functions that return logits, for example functions that run another library."""
    rows = []
    for part in windows:
        wide, reference_wide = logits(part.seen), reference(part.seen)
        if wide.shape != reference_wide.shape:
            raise InvalidRequest(
                f"the model has a vocabulary of {wide.shape[1]} and the reference one of {reference_wide.shape[1]}; give a "
                "reference with the same tokenizer"
            )
        (ours, nats), (theirs, reference_nats) = _scored(wide, part), _scored(reference_wide, part)
        divergence = (theirs.exp() * (theirs - ours)).sum()
        same = (ours.argmax(-1) == theirs.argmax(-1)).sum().double()
        rows.append(torch.stack([nats, nats - reference_nats, divergence, same]))
    nats, more, divergence, same = torch.stack(rows).unbind(1)
    counts = torch.tensor([len(part.targets) for part in windows], dtype=torch.float64, device="cpu")
    draws = Bootstrap(len(windows), seed)
    return Quality(
        bits_per_byte=_bits_per_byte(nats, windows, tokenizer, text, draws),
        perplexity=draws.ratio(nats, counts, torch.exp),
        change=draws.ratio(more, counts, lambda ratio: 100 * torch.expm1(ratio)),
        kl=draws.ratio(divergence, counts),
        agreement=draws.ratio(same, counts),
        tokens=int(counts.sum()),
    )


def _cut(engine: Engine, text: str, window: int | None) -> tuple[Tokenizer, list[TextWindow]]:
    context = engine.config.context_length
    size = context if window is None else min(argument_forms.whole("window", window, 2), context)
    if (tokenizer := engine.tokenizer) is None:
        raise InvalidRequest(f"{NO_TOKENIZER}, so it cannot score a text")
    windows = text_windows(tokenizer.encode(text), size)
    if not any(tokenizer.token_bytes(token) for part in windows for token in part.targets):
        raise InvalidRequest("the text has only special tokens after its first token, so there are no bytes to predict")
    return tokenizer, windows


def _scored(logits: Tensor, part: TextWindow) -> tuple[Tensor, Tensor]:
    """The log-probabilities in a window, `[targets, vocab_size]` float64 on the CPU, and the targets' total loss in nats."""
    scores = torch.log_softmax(logits[part.first :].double(), dim=-1).cpu()
    wanted = torch.tensor(part.targets, dtype=torch.int64, device="cpu")
    return scores, -scores.gather(1, wanted[:, None]).sum()


def _bits_per_byte(nats: Tensor, windows: list[TextWindow], tokenizer: Tokenizer, text: str, draws: Bootstrap) -> Estimate:
    """Estimate the bits per byte of the text.

    The first token is not predicted, but its bytes count: all bytes of the text are shared out among the windows.
    """
    counts = [sum(len(tokenizer.token_bytes(token)) for token in part.targets) for part in windows]
    sizes = torch.tensor(counts, dtype=torch.float64, device="cpu")
    factor = sum(counts) / len(text.encode("utf-8")) / math.log(2)
    return draws.ratio(nats, sizes, lambda ratio: ratio * factor)
