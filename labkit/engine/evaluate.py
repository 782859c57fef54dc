"""How well a model predicts a text: bits per byte with a confidence interval, and perplexity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from labkit.engine.engine import Engine
from labkit.engine.intake import NO_TOKENIZER
from labkit.errors import InvalidRequest
from labkit.plurals import counted

RESAMPLES = 1000


@dataclass(frozen=True)
class Evaluation:
    """The score of a text: `bits_per_byte` (of its UTF-8 form), `perplexity` per token, and the number of `tokens` predicted.

    `interval` is the 95 % interval of `bits_per_byte`, from resampling the windows of the text (percentile bootstrap). The
    interval is None if the text has only one window, because then there is nothing to resample.
    """

    bits_per_byte: float
    perplexity: float
    tokens: int
    interval: tuple[float, float] | None


def evaluate(engine: Engine, text: str, *, window: int | None = None, seed: int = 0) -> Evaluation:
    """Predict every token of `text` except the first. At least half a window of text comes before each predicted token.

    window: the number of tokens in one forward pass, by default the model's context length. Windows overlap by half. Raises
    `InvalidRequest` for a text or a window of fewer than two tokens, and for a model without a tokenizer.
    """
    context = engine.config.context_length
    window = min(window or context, context)
    if engine.tokenizer is None:
        raise InvalidRequest(f"{NO_TOKENIZER}, so it cannot score a text")
    ids = engine.tokenizer.encode(text)
    if len(ids) < 2 or window < 2:
        raise InvalidRequest(
            f"the text has {counted(len(ids), 'token')} and the window {window}; at least 2 tokens are needed for both"
        )
    nats: list[float] = []
    byte_counts: list[int] = []
    stride = window // 2
    for start in range(0, len(ids) - 1, stride):
        begin = max(0, start - (window - stride))
        seen = ids[begin : min(start + stride, len(ids) - 1)]
        targets = ids[start + 1 : start + stride + 1]
        scores = torch.log_softmax(engine.logits(seen)[start - begin :].double(), dim=-1)
        wanted = torch.tensor(targets, dtype=torch.int64, device=scores.device)
        nats.append(-float(scores.gather(1, wanted[:, None]).sum()))
        byte_counts.append(sum(len(engine.tokenizer.token_bytes(token)) for token in targets))
    total, tokens = sum(nats), len(ids) - 1
    text_bytes = len(text.encode("utf-8"))
    return Evaluation(
        bits_per_byte=total / math.log(2) / text_bytes,
        perplexity=math.exp(total / tokens),
        tokens=tokens,
        interval=_bootstrap(nats, byte_counts, text_bytes, seed),
    )


def _bootstrap(nats: list[float], byte_counts: list[int], text_bytes: int, seed: int) -> tuple[float, float] | None:
    """The 2.5 % and 97.5 % quantiles of bits per byte, over windows that are drawn with replacement.

    The first token is not predicted, but its bytes count: each window gets its share of all `text_bytes`.
    """
    if len(nats) < 2:
        return None
    generator = torch.Generator("cpu").manual_seed(seed)
    shape = RESAMPLES, len(nats)
    draws = torch.randint(len(nats), shape, generator=generator, dtype=torch.int64, device="cpu")
    ratio = _wide(nats)[draws].sum(1) / _wide(byte_counts)[draws].sum(1)
    ratio *= sum(byte_counts) / text_bytes / math.log(2)
    low, high = torch.quantile(ratio, _wide([0.025, 0.975])).tolist()
    return low, high


def _wide(numbers: Sequence[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64, device="cpu")
