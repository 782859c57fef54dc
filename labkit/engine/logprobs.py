"""Computes log-probabilities of the chosen tokens and of the likeliest alternatives, for requests that ask for them."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

import torch
from torch import Tensor

from labkit.engine.outputs import NO_TOKEN, TokenLogprob
from labkit.engine.schedule.sequence import Sequence


def logprobs(logits: Tensor, sequences: SequenceOf[Sequence], tokens: SequenceOf[int]) -> list[TokenLogprob | None]:
    """The log-probabilities for each sequence's token; None for a sequence whose request does not ask for them.

    logits: `[n, vocab_size]`, one row for each sequence and its token.
    """
    counts = [
        None if token == NO_TOKEN else sequence.params.logprobs for sequence, token in zip(sequences, tokens, strict=True)
    ]
    wanted = [row for row, count in enumerate(counts) if count is not None]
    found: list[TokenLogprob | None] = [None] * len(sequences)
    scores = token_logprobs(logits[wanted], [tokens[row] for row in wanted], [counts[row] or 0 for row in wanted])
    for row, score in zip(wanted, scores, strict=True):
        found[row] = score
    return found


def token_logprobs(logits: Tensor, tokens: SequenceOf[int], counts: SequenceOf[int]) -> list[TokenLogprob]:
    """The log-probabilities of `tokens[i]` and the `counts[i]` likeliest tokens, from row i of `logits` `[n, vocab_size]`."""
    if not tokens:
        return []
    table = torch.log_softmax(logits.double(), dim=-1)
    most = min(max(counts), table.shape[1])
    chosen = table.gather(1, torch.tensor(tokens, dtype=torch.int64, device=table.device)[:, None])
    top = table.topk(most, dim=-1)
    values = torch.cat((chosen, top.values), dim=1).tolist()
    return [
        TokenLogprob(token, row[0], tuple(zip(ids[:count], row[1 : count + 1], strict=False)))
        for token, count, row, ids in zip(tokens, counts, values, top.indices.tolist(), strict=True)
    ]
