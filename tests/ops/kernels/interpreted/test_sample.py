"""The kernels for sampling and penalties are compared with their torch forms, draw by draw."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch

from labkit import ops
from labkit.ops.kernels.interpreter_traffic import count_traffic
from labkit.ops.kernels.penalize import penalize_triton
from labkit.ops.kernels.sample import sample_triton
from tests.ops.kernels.guard import misaligned
from tests.sampled import one_in

Place = Callable[[torch.Tensor], torch.Tensor]


def numbers(rows: int, seed: int) -> tuple[torch.Tensor, ...]:
    """Temperature, top-k, top-p, seed, sample and position of each row. The rows are of different kinds."""
    draw = random.Random(seed)
    return (
        torch.tensor([draw.choice([0.0, 0.5, 1.0, 2.0]) for _ in range(rows)]).double(),
        torch.tensor([draw.choice([0, 0, 1, 3, 40, 5000]) for _ in range(rows)]),
        torch.tensor([draw.choice([1.0, 1.0, 0.95, 0.5, 0.01]) for _ in range(rows)]).double(),
        torch.tensor([draw.getrandbits(63) - (draw.getrandbits(1) << 62) * 2 for _ in range(rows)]),
        torch.tensor([draw.randrange(4) for _ in range(rows)]),
        torch.tensor([draw.randrange(3000) for _ in range(rows)]),
    )


@pytest.mark.parametrize(
    ("vocab", "rows", "dtype"),
    one_in(3, [(*size, dtype) for size in [(1, 2), (7, 10), (257, 10), (1500, 4)] for dtype in (torch.float32, torch.float16)]),
)
def test_sample_draws_the_same_tokens(vocab: int, rows: int, dtype: torch.dtype) -> None:
    ties, place = dtype == torch.float16, misaligned if vocab == 257 else torch.clone
    logits = 3 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(vocab))
    logits = place((logits.round() if ties else logits).to(dtype))
    zeros = torch.arange(int((logits == 0).sum()))
    logits[logits == 0] = torch.where(zeros % 2 == 0, -0.0, 0.0).to(dtype)
    given = [place(n) for n in numbers(rows, vocab + ties)]
    assert torch.equal(sample_triton(logits, *given), ops.sample(logits, *given))


@pytest.mark.parametrize("kept", [2, 256])
def test_of_equal_logits_the_first_are_kept(kept: int) -> None:
    """When all logits are equal, top-k and top-p both keep the first `kept` tokens, so all draws are among these."""
    rows = 4
    logits = torch.zeros(rows, 300)
    counters = torch.arange(rows), torch.zeros(rows, dtype=torch.int64), torch.arange(rows)
    one = torch.ones(rows).double()
    for top_k, top_p in ((kept, 1.0), (kept + 9, (kept - 0.5) / (kept + 9))):
        given = one, torch.full((rows,), top_k), top_p * one, *counters
        tokens = sample_triton(logits, *given)
        assert torch.equal(tokens, ops.sample(logits, *given))
        assert int(tokens.max()) < kept
        assert len(set(tokens.tolist())) >= 2


def test_a_token_without_probability_is_never_drawn() -> None:
    logits = torch.full((3, 300), float("-inf"))
    logits[:, 260] = 1.0
    logits[:, 9] = -500.0
    rows, one = torch.arange(3), torch.ones(3).double()
    for top_k, top_p in ((7, 1.0), (0, 0.999)):
        tokens = sample_triton(logits, one, torch.full((3,), top_k), top_p * one, rows, rows, rows)
        assert tokens.tolist() == [260] * 3


def test_a_top_p_that_has_decayed_to_nothing_leaves_the_likeliest_token() -> None:
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(1))
    rows, zeros, one = torch.arange(4), torch.zeros(4, dtype=torch.int64), torch.ones(4).double()
    top_p = torch.tensor([0.0, 1e-300, 1e-46, 1e-10]).double()
    tokens = sample_triton(logits, one, zeros, top_p, rows, rows, rows)
    assert tokens.tolist() == logits.argmax(-1).tolist()
    assert torch.equal(tokens, ops.sample(logits, one, zeros, top_p, rows, rows, rows))


def test_a_greedy_row_is_read_once() -> None:
    logits = torch.randn(3, 700)
    zeros = torch.zeros(3, dtype=torch.int64)
    with count_traffic() as traffic:
        tokens = sample_triton(logits, zeros.double(), zeros, zeros.double(), zeros, zeros, zeros)
    assert torch.equal(tokens, logits.argmax(-1))
    assert (traffic.bytes_read, traffic.bytes_written) == (3 * (700 * 4 + 8), 3 * 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("place", [torch.clone, misaligned])
@pytest.mark.parametrize("vocab", [1, 7, 1030])
def test_penalize(vocab: int, place: Place, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(vocab)
    logits = place(2 * torch.randn(4, vocab, generator=generator).to(dtype))
    marks = place(torch.randint(0, 32, (6, vocab), generator=generator).to(torch.uint8))
    rows = torch.tensor([5, 0, 3, 2])
    penalties = torch.tensor([1.0, 1.3, 0.6, 2.5]).double(), torch.tensor([0.0, 0.5, -0.25, 1.0]).double()
    may_stop = torch.tensor([True, False, True, False])
    found = penalize_triton(logits, marks, rows, *penalties, may_stop)
    expected = ops.penalize(logits, marks, rows, *penalties, may_stop)
    assert found.dtype == torch.float32
    assert torch.equal(torch.isinf(found), torch.isinf(expected))
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-7)
