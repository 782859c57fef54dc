"""From logits to the next token of each sequence: penalties, bans, temperature, top-k, top-p, a draw.

A draw depends on the sequence's seed, its sample number and the position alone (a counter-based generator), never on
which other sequences share the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as SequenceOf

import torch
from torch import Tensor

from labkit.engine.outputs import TokenLogprob
from labkit.engine.sequence import Sequence

_MASK = (1 << 64) - 1


def uniform(seed: int, sample: int, position: int) -> float:
    """A number in [0, 1), uniform over the positions of a stream: SplitMix64's mixer (Steele et al. 2014), chained."""
    state = 0
    for word in (seed, sample, position):
        state = _mix((state ^ (word & _MASK)) + 0x9E3779B97F4A7C15)
    return (state >> 11) / (1 << 53)


def _mix(z: int) -> int:
    z &= _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def sample(logits: Tensor, sequences: SequenceOf[Sequence]) -> list[int]:
    """The next token of each sequence from `logits` `[batch, vocab_size]` (any float dtype; left unchanged)."""
    edited = _edit(logits, sequences)
    drawing = [row for row, sequence in enumerate(sequences) if sequence.params.temperature > 0]
    tokens: list[int] = edited.argmax(dim=-1).tolist()
    if drawing:
        drawn = _draw(edited[drawing], [sequences[row] for row in drawing])
        for row, token in zip(drawing, drawn, strict=True):
            tokens[row] = token
    return tokens


def logprobs(logits: Tensor, sequences: SequenceOf[Sequence], tokens: SequenceOf[int]) -> list[TokenLogprob | None]:
    """Log-probabilities of the chosen tokens, and of the likeliest ones, where a sequence asked for them."""
    wanted = [row for row, sequence in enumerate(sequences) if sequence.params.logprobs is not None]
    found: list[TokenLogprob | None] = [None] * len(sequences)
    if not wanted:
        return found
    table = torch.log_softmax(logits[wanted].double(), dim=-1)
    for line, row in enumerate(wanted):
        count = min(sequences[row].params.logprobs or 0, table.shape[1])
        values, ids = table[line].topk(count)
        top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
        found[row] = TokenLogprob(tokens[row], float(table[line, tokens[row]]), top)
    return found


def _edit(logits: Tensor, sequences: SequenceOf[Sequence]) -> Tensor:
    """Logits with penalties and bans applied, in a copy if any sequence has some."""
    rows = [row for row, sequence in enumerate(sequences) if _is_edited(sequence)]
    if not rows:
        return logits
    edited = logits.float() if logits.dtype != torch.float64 else logits
    edited = edited.clone() if edited is logits else edited
    for row in rows:
        _edit_row(edited[row], sequences[row])
    return edited


def _is_edited(sequence: Sequence) -> bool:
    params = sequence.params
    penalized = params.repetition_penalty != 1 or params.presence_penalty != 0
    return penalized or bool(sequence.bad_words) or not sequence.may_stop


def _edit_row(row: Tensor, sequence: Sequence) -> None:
    params = sequence.params
    if params.repetition_penalty != 1:
        seen = torch.tensor(sorted({*sequence.prompt, *sequence.new_tokens}), device=row.device)
        values = row[seen]
        row[seen] = torch.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
    if params.presence_penalty != 0 and sequence.new_tokens:
        row[torch.tensor(sorted(set(sequence.new_tokens)), device=row.device)] -= params.presence_penalty
    banned = [word[-1] for word in sequence.bad_words if _ends_with(sequence, word[:-1])]
    if not sequence.may_stop:
        banned += sequence.stop_token_ids
    if banned:
        row[torch.tensor(banned, device=row.device)] = -math.inf


def _ends_with(sequence: Sequence, words: tuple[int, ...]) -> bool:
    """Whether the tokens so far, prompt included, end in `words`."""
    if not words:
        return True
    recent = (sequence.prompt[-len(words) :] + sequence.new_tokens)[-len(words) :]
    return tuple(recent) == words


def _draw(logits: Tensor, sequences: SequenceOf[Sequence]) -> list[int]:
    """One token a row by inverting the cumulative distribution at the sequence's uniform number."""
    temperatures = torch.tensor([s.params.temperature for s in sequences], dtype=torch.float64, device=logits.device)
    scaled = logits.double() / temperatures[:, None]
    probabilities = torch.softmax(scaled, dim=-1)
    if any(s.params.top_k or s.params.top_p < 1 for s in sequences):
        probabilities = _keep_likeliest(probabilities, sequences)
    cumulative = probabilities.cumsum(dim=-1)
    points = [uniform(s.seed, s.sample, len(s.new_tokens)) for s in sequences]
    targets = torch.tensor(points, dtype=torch.float64, device=logits.device)[:, None] * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, targets, right=True).squeeze(-1)
    # u * total can round up to the total itself: fall back to the last token that has any probability.
    last = (probabilities > 0).long().cumsum(-1).argmax(-1)
    tokens: list[int] = torch.minimum(chosen, last).tolist()
    return tokens


def _keep_likeliest(probabilities: Tensor, sequences: SequenceOf[Sequence]) -> Tensor:
    """Zero all but the top-k tokens of each row, then all but the fewest whose share of the rest reaches top-p."""
    ordered, ids = probabilities.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(ordered.shape[1], device=ordered.device)
    top_k = torch.tensor([s.params.top_k or ordered.shape[1] for s in sequences], device=ordered.device)
    top_p = torch.tensor([s.params.top_p for s in sequences], dtype=torch.float64, device=ordered.device)
    ordered = ordered.masked_fill(rank >= top_k[:, None], 0.0)
    before = ordered.cumsum(dim=-1) - ordered
    ordered = ordered.masked_fill(before >= top_p[:, None] * ordered.sum(-1, keepdim=True), 0.0)
    return torch.zeros_like(probabilities).scatter_(1, ids, ordered)
