"""Sampling on a GPU draws the same tokens as the torch form in float64, with GPT-J's vocabulary and in a CUDA graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from labkit.engine import SamplingParams
from labkit.ops.kernels.penalize import penalize_triton
from labkit.ops.kernels.sample import sample_triton
from labkit.ops.penalize import penalize_reference
from labkit.ops.sample import sample_reference
from tests.engine.test_beam_search import peer_with_ends, searched, tokens
from tests.engine.test_sampling import WISHES, sampler_of, sequence
from tests.models import engine_of, random_prompts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="not measured here: no GPU that torch can use"),
]
ROWS, VOCAB = 64, 50400


def given(seed: int) -> tuple[torch.Tensor, ...]:
    """The temperatures, top-k and top-p values and counters of `ROWS` rows of mixed kinds."""
    draw = torch.Generator().manual_seed(seed)

    def chosen(values: list[float]) -> torch.Tensor:
        return torch.tensor(values)[torch.randint(len(values), (ROWS,), generator=draw)]

    counters = torch.randint(1 << 62, (3, ROWS), generator=draw).unbind(0)
    numbers = chosen([0.0, 0.7, 1.0]).double(), chosen([0, 1, 40, 900]).long(), chosen([1.0, 0.95, 0.3]).double()
    return tuple(n.to("cuda") for n in (*numbers, *counters))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_draws_are_those_of_the_torch_form(dtype: torch.dtype) -> None:
    """float32 sums can change a draw that is within 1e-6 of the border between two tokens.

    So 1 of 640 draws may differ; usually none does.
    """
    different = 0
    for seed in range(10):
        logits = (2 * torch.randn(ROWS, VOCAB, generator=torch.Generator().manual_seed(seed))).to("cuda", dtype)
        numbers = given(seed)
        different += int((sample_triton(logits, *numbers) != sample_reference(logits, *numbers)).sum())
    assert different <= 1


def test_penalties_are_those_of_the_torch_form() -> None:
    draw = torch.Generator().manual_seed(3)
    logits = torch.randn(ROWS, VOCAB, generator=draw).to("cuda", torch.bfloat16)
    marks = torch.randint(32, (ROWS + 5, VOCAB), generator=draw).to("cuda", torch.uint8)
    rows = torch.randperm(ROWS + 5, generator=draw)[:ROWS].to("cuda")
    penalties = [(0.5 + torch.rand(ROWS, generator=draw)).double().to("cuda") for _ in range(2)]
    may_stop = (torch.rand(ROWS, generator=draw) < 0.5).to("cuda")
    found = penalize_triton(logits, marks, rows, *penalties, may_stop)
    assert torch.allclose(found, penalize_reference(logits, marks, rows, *penalties, may_stop), rtol=1e-6, atol=1e-6)


def test_a_captured_draw_follows_its_counters() -> None:
    logits = torch.randn(ROWS, VOCAB, generator=torch.Generator().manual_seed(1)).to("cuda")
    *numbers, seeds, samples, positions = given(1)
    sample_triton(logits, *numbers, seeds, samples, positions)  # compiled before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tokens = sample_triton(logits, *numbers, seeds, samples, positions)
    for _ in range(3):
        positions += 1
        graph.replay()
        assert torch.equal(tokens, sample_triton(logits, *numbers, seeds, samples, positions))


def test_a_samplers_rows_on_the_gpu_make_the_tokens_that_they_make_on_the_cpu() -> None:
    """The rows have penalties, bans and a decaying top-p, and draw over several steps, with and without speculative tokens."""
    vocab, steps = 1000, 12
    logits = 2 * torch.randn(len(WISHES), steps, vocab, generator=torch.Generator().manual_seed(6))
    made = {}
    for device in ("cpu", "cuda"):
        rows = range(len(WISHES))
        one = sampler_of([sequence([1, 5, n], **{"seed": n, **w}) for n, w in enumerate(WISHES)], vocab, device)
        given = logits.to(device)
        made[device] = torch.stack([one.sample(given[:, step], rows).cpu() for step in range(steps)], dim=1).tolist()
    assert made["cuda"] == made["cpu"]
    guessing = sampler_of([sequence([1, 5, n], **{"seed": n, **w}) for n, w in enumerate(WISHES)], vocab, "cuda")
    drafts = [row[: n % 5] + ([999 - row[n % 5]] if n % 2 else []) for n, row in enumerate(made["cpu"])]
    given = torch.cat([logits[n, : len(draft) + 1] for n, draft in enumerate(drafts)]).to("cuda")
    found = guessing.verify(given, range(len(WISHES)), drafts)
    assert found == [row[: n % 5 + 1] for n, row in enumerate(made["cpu"])]


@pytest.mark.parametrize("rules", [{}, {"early_stopping": True}, {"num_beam_groups": 2, "diversity_penalty": 0.5}], ids=str)
def test_beams_on_the_gpu_are_those_on_the_cpu(rules: dict[str, Any]) -> None:
    peer = peer_with_ends("one head of 80", 4, 1.5)
    prompts = random_prompts(59, [3, 17, 1], 4)
    params = [SamplingParams(num_beams=4, max_new_tokens=9, **rules)] * 3
    expected = searched(engine_of(peer), prompts, params)
    found = searched(engine_of(peer.to("cuda")), prompts, params)
    assert [[tokens(h) for h in hs] for hs in found] == [[tokens(h) for h in hs] for hs in expected]
