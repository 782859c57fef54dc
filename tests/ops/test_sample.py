"""Penalties, kept sets and draws are compared row by row with simple implementations in plain Python."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
import scipy  # loads `scipy.stats` when a test uses it
import torch

from labkit import native, ops
from labkit.errors import NotAvailable
from labkit.ops.sample import sample_reference
from labkit.ops.token_marks import BANNED, GENERATED, IN_PROMPT, STOP
from tests.native.instruction_sets import SETS

MASK = (1 << 64) - 1


def plain_uniform(seed: int, sample: int, position: int) -> float:
    """A uniform random number, computed in Python's integers: SplitMix64's mixer is applied to the three words in turn."""
    state = 0
    for word in (seed, sample, position):
        z = ((state ^ word) + 0x9E3779B97F4A7C15) & MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        state = z ^ (z >> 31)
    return (state >> 11) / (1 << 53)


def plain_sample(logits: Sequence[float], temperature: float, top_k: int, top_p: float, point: float) -> int:
    """The token that must be drawn according to the definition of each parameter."""
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if temperature == 0:
        return order[0]
    weights = [math.exp((logit - logits[order[0]]) / temperature) for logit in logits]
    kept = order[: top_k or len(order)]
    whole = math.fsum(weights[token] for token in kept)
    nucleus: list[int] = []
    while len(nucleus) < len(kept) and math.fsum(weights[token] for token in nucleus) < top_p * whole:
        nucleus.append(kept[len(nucleus)])
    target, running = point * math.fsum(weights[token] for token in nucleus), 0.0
    for token in sorted(nucleus):
        running += weights[token]
        if running > target:
            return token
    raise AssertionError("the running sum never passed the target")


def ints(values: Sequence[int]) -> torch.Tensor:
    return torch.tensor([value - (value >> 63 << 64) for value in values])


def test_uniform_is_splitmix64_of_the_counters() -> None:
    draw = random.Random(1)
    words = [(draw.getrandbits(64), draw.getrandbits(draw.choice([1, 20, 63])), draw.getrandbits(12)) for _ in range(300)]
    words += [(0, 0, 0), (MASK, 0, 1), (1 << 63, 5, 5)]
    found = ops.uniform(*(ints(column) for column in zip(*words, strict=True)))
    assert found.dtype == torch.float64
    assert found.tolist() == [plain_uniform(*row) for row in words]


def test_uniform_numbers_are_uniform_and_independent() -> None:
    positions = torch.arange(10_000)
    numbers = ops.uniform(torch.full_like(positions, 7), positions // 500, positions % 500)
    assert scipy.stats.kstest(numbers.numpy(), "uniform").pvalue > 1e-3
    assert abs(float(torch.corrcoef(torch.stack((numbers[:-1], numbers[1:])))[0, 1])) < 0.03
    zeros = torch.zeros(1000, dtype=torch.int64)
    assert len(set(ops.uniform(torch.arange(1000), zeros, zeros).tolist())) == 1000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocab", [1, 2, 37, 1500])
@pytest.mark.parametrize("ties", [False, True])
def test_sample_is_the_definition_row_by_row(dtype: torch.dtype, vocab: int, ties: bool) -> None:
    draw, rows = random.Random(vocab + ties), 24
    logits = 3 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(vocab), dtype=torch.float64)
    logits = (logits.round() if ties else logits).to(dtype)
    zeros = torch.arange(int((logits == 0).sum()))
    logits[logits == 0] = torch.where(zeros % 2 == 0, -0.0, 0.0).to(dtype)
    temperature = [draw.choice([0.0, 0.5, 1.0, 2.0]) for _ in range(rows)]
    top_k = [draw.choice([0, 1, 5, 40, 5000]) for _ in range(rows)]
    top_p = [draw.choice([1.0, 0.9, 0.5, 0.01]) for _ in range(rows)]
    words = [(draw.getrandbits(64), draw.randrange(3), draw.randrange(1000)) for _ in range(rows)]
    numbers = torch.tensor(temperature).double(), torch.tensor(top_k), torch.tensor(top_p).double()
    before = logits.clone()
    found = ops.sample(logits, *numbers, *(ints(column) for column in zip(*words, strict=True)))
    assert torch.equal(logits, before)
    expected = [
        plain_sample(logits[row].tolist(), temperature[row], top_k[row], top_p[row], plain_uniform(*words[row]))
        for row in range(rows)
    ]
    assert found.tolist() == expected


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("spread", [20.0, 2.0, 1e-3, 0.0])
@pytest.mark.parametrize("vocab", [1, 255, 257, 4099, 50_400])
def test_the_native_sampler_gives_the_specifications_tokens(isa: str, spread: float, vocab: int) -> None:
    """Rows are peaked, flat or have equal logits or banned tokens, and kept sets have from one token to nearly all tokens."""
    if not native.available():
        pytest.skip(f"not measured here: {native.why_not()}")
    rows, before, draw = 24, native.instruction_set(), random.Random(vocab)
    logits = spread * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(vocab))
    logits[::2] = logits[::2].bfloat16().float()  # many ties
    banned = torch.rand(rows, vocab, generator=torch.Generator().manual_seed(1)) < 0.1
    banned[:, 0] = False
    logits = logits.masked_fill(banned & (torch.arange(rows) % 3 == 0)[:, None], -math.inf)
    temperature = torch.tensor([draw.choice([0.0, 0.1, 0.8, 1.0, 30.0]) for _ in range(rows)]).double()
    top_k = torch.tensor([draw.choice([0, 0, 1, 2, 50, 3000, 60_000]) for _ in range(rows)])
    top_p = torch.tensor([draw.choice([1.0, 0.999, 0.9, 0.5, 1e-6]) for _ in range(rows)]).double()
    counters = torch.arange(rows) - 5, torch.arange(rows) % 3, torch.arange(rows) * 7
    given = (logits, temperature, top_k, top_p, *counters)
    expected = sample_reference(*given)
    try:
        native.use_instruction_set(isa)
    except NotAvailable as error:
        pytest.skip(f"not measured here: {error}")
    try:
        assert torch.equal(ops.sample(*given), expected)
    finally:
        native.use_instruction_set(before)


def test_the_native_sampler_stays_inside_the_vocabulary_whatever_it_is_given() -> None:
    odd = torch.tensor([math.nan, math.inf, -math.inf, 0.0, 1e38, -1e38])
    draw = torch.Generator().manual_seed(0)
    logits = odd[torch.randint(len(odd), (500, 33), generator=draw)]
    logits[0], logits[1] = math.nan, -math.inf
    rows = torch.arange(500)
    for top_k, top_p in ((0, 1.0), (3, 1.0), (0, 0.5), (5, 0.9), (32, 0.999)):
        kept = torch.full((500,), top_k), torch.full((500,), top_p).double()
        tokens = ops.sample(logits, torch.ones(500).double(), *kept, rows, rows, rows)
        assert bool(((tokens >= 0) & (tokens < 33)).all())


def test_a_row_does_not_depend_on_the_others() -> None:
    rows, vocab = 9, 300
    logits = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(3))
    temperature, top_k = torch.full((rows,), 1.3).double(), torch.tensor([0, 5, 200] * 3)
    top_p = torch.tensor([1.0, 0.7, 0.9]).double().repeat_interleave(3)
    counters = torch.arange(rows), torch.arange(rows), torch.arange(rows)
    together = ops.sample(logits, temperature, top_k, top_p, *counters).tolist()
    for row in range(rows):
        one = [x[row : row + 1] for x in (logits, temperature, top_k, top_p, *counters)]
        assert ops.sample(*one).tolist() == [together[row]]


def test_a_draw_never_takes_a_token_without_probability() -> None:
    logits = torch.full((400, 9), -math.inf)
    logits[:, 4] = 0.0
    logits[:, 6] = -1000.0
    rows = torch.arange(400)
    one = torch.ones(400).double()
    for top_k in (0, 9):
        tokens = ops.sample(logits, one, torch.full((400,), top_k), one, rows, rows, rows)
        assert tokens.tolist() == [4] * 400


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_penalize_is_its_definition(dtype: torch.dtype) -> None:
    rows, vocab = 5, 83
    draw = random.Random(5)
    logits = 2 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    logits = logits.to(dtype)
    marks = torch.tensor([[draw.randrange(32) for _ in range(vocab)] for _ in range(rows + 3)], dtype=torch.uint8)
    index = torch.tensor([7, 0, 2, 6, 3])
    repetition, presence = torch.tensor([1.0, 1.3, 0.7, 2.0, 1.0]), torch.tensor([0.0, 0.5, -0.25, 0.0, 1.5])
    may_stop = torch.tensor([True, False, True, False, False])
    before = logits.clone()
    found = ops.penalize(logits, marks, index, repetition.double(), presence.double(), may_stop)
    assert torch.equal(logits, before)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    expected = logits.double()
    for row in range(rows):
        for token in range(vocab):
            mark, value = int(marks[index[row], token]), float(expected[row, token])
            if mark & (IN_PROMPT | GENERATED):
                value = value / float(repetition[row]) if value > 0 else value * float(repetition[row])
            if mark & GENERATED:
                value -= float(presence[row])
            if mark & BANNED or (mark & STOP and not may_stop[row]):
                value = -math.inf
            expected[row, token] = value
    assert torch.allclose(found.double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.isinf(found).any()
