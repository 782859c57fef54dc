"""Pruning of single weights, heads and neurons: densities are exact, and pruned parts add nothing to the results."""

from __future__ import annotations

import pytest
import torch

from labkit.checkpoints import expected_shapes
from labkit.compress.block import Block
from labkit.compress.pruning import head_scores, neuron_scores, unstructured_mask, with_neurons, without_heads
from labkit.errors import InvalidRequest
from tests.compress.directories import CONFIG


@pytest.fixture
def block() -> Block:
    chooser, prefix = torch.Generator().manual_seed(1), "transformer.h.0."
    shapes = {name.removeprefix(prefix): shape for name, shape in expected_shapes(CONFIG).items() if prefix in name}
    return Block(CONFIG, {name: torch.randn(shape, generator=chooser) * 0.2 for name, shape in shapes.items()})


def test_the_largest_are_kept() -> None:
    scores = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)).abs()
    mask = unstructured_mask(scores, 0.75)
    assert mask.sum() == 36
    assert float(scores[mask].min()) > float(scores[~mask].max())
    rows = unstructured_mask(scores, 0.5, per_row=True)
    assert rows.sum(1).tolist() == [3] * 8
    assert not torch.equal(rows, unstructured_mask(scores, 0.5))
    assert not bool(unstructured_mask(scores, 0).any())
    assert bool(unstructured_mask(scores, 1).all())
    with pytest.raises(InvalidRequest, match=r"density is 1\.5; the share"):
        unstructured_mask(scores, 1.5)


def test_a_silenced_head_adds_nothing(block: Block) -> None:
    normed = block.normed(torch.randn(7, 64, generator=torch.Generator().manual_seed(2)))
    dim = CONFIG.head_dim
    found = without_heads(block, [1])
    expected = block.attended(normed)[:, :dim] @ block.tensors["attn.out_proj.weight"][:, :dim].T
    assert torch.allclose(found.attended(normed) @ found.tensors["attn.out_proj.weight"].T, expected, atol=1e-5)
    assert float(expected.abs().mean()) > 0.01
    quiet = without_heads(block, [0])
    assert float(head_scores(quiet)[0]) == 0
    assert float(head_scores(quiet)[1]) == pytest.approx(float(head_scores(block)[1]))
    with pytest.raises(InvalidRequest, match="head 2 does not exist; the block has heads 0 to 1"):
        without_heads(block, [2])


def test_a_smaller_mlp_is_the_sum_of_its_neurons(block: Block) -> None:
    scores = neuron_scores(block)
    kept = scores.topk(192).indices
    hidden = torch.randn(5, 64, generator=torch.Generator().manual_seed(3))
    small = with_neurons(block, kept)
    assert small.config.intermediate_size == 192
    assert small.tensors["mlp.fc_in.weight"].shape == (192, 64)
    inner = block.inner(block.normed(hidden))
    expected = inner[:, kept] @ block.tensors["mlp.fc_out.weight"][:, kept].T
    assert torch.allclose(small.inner(small.normed(hidden)) @ small.tensors["mlp.fc_out.weight"].T, expected, atol=1e-5)
    everything = with_neurons(block, torch.randperm(256, generator=torch.Generator().manual_seed(4)))
    assert torch.allclose(everything.forward(hidden), block.forward(hidden), atol=1e-5)
    worst = with_neurons(block, scores.topk(192, largest=False).indices)
    errors = [float((each.forward(hidden) - block.forward(hidden)).norm()) for each in (small, worst)]
    assert errors[0] < errors[1]
    for wrong in (torch.tensor([0, 0]), torch.tensor([256]), torch.tensor([], dtype=torch.int64)):
        with pytest.raises(InvalidRequest, match="different numbers from 0 to 255"):
            with_neurons(block, wrong)
