"""Channel permutations: the best way to divide the channels of two stripes is found, no result gets worse, and the model
computes the same.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
import torch

from labkit.checkpoints import open_checkpoint
from labkit.compress.channel_permutation import SearchOptions, magnitude_after, search_permutation
from labkit.compress.dense_model import DenseModel
from labkit.compress.permuted_checkpoint import Orders, PermutedCheckpoint, search_orders
from labkit.errors import InvalidRequest
from tests.compress.directories import dense_directory


def random_matrix(rows: int, columns: int, seed: int) -> torch.Tensor:
    chooser = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=chooser) * torch.rand(columns, generator=chooser).exp() ** 2


@pytest.mark.parametrize("seed", range(4))
def test_eight_columns_are_divided_in_the_best_of_all_ways(seed: int) -> None:
    weight = random_matrix(9, 8, seed)
    found = search_permutation(weight)
    ways = [[0, *three, *(set(range(1, 8)) - set(three))] for three in combinations(range(1, 8), 3)]
    best = max(magnitude_after(weight, torch.tensor(way)) for way in ways)
    assert len(ways) == 35
    assert magnitude_after(weight, found) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("shape", [(5, 4), (17, 32), (64, 96)])
def test_no_swap_improves_the_result(shape: tuple[int, int]) -> None:
    weight = random_matrix(*shape, seed=1)
    found = search_permutation(weight)
    assert sorted(found.tolist()) == list(range(shape[1]))
    kept = magnitude_after(weight, found)
    assert kept > magnitude_after(weight) or shape[1] == 4
    for i, j in combinations(range(shape[1]), 2):
        other = found.clone()
        other[i], other[j] = found[j], found[i]
        assert magnitude_after(weight, other) <= kept * (1 + 1e-5)


def test_escapes_never_lose_and_seeds_repeat() -> None:
    weight = random_matrix(33, 64, seed=2)
    plain = magnitude_after(weight, search_permutation(weight))
    options = SearchOptions(escapes=3, seed=5)
    found = search_permutation(weight, options)
    assert magnitude_after(weight, found) >= plain
    assert torch.equal(found, search_permutation(weight, options))
    swaps_only = magnitude_after(weight, search_permutation(weight, SearchOptions(pairs_up_to=0)))
    assert magnitude_after(weight) < swaps_only <= plain
    with pytest.raises(InvalidRequest, match="6 inputs"):
        search_permutation(torch.ones(2, 6))


def test_a_permuted_model_computes_the_same(tmp_path: Path) -> None:
    checkpoint, told = open_checkpoint(dense_directory(tmp_path / "model", torch.float32)), []
    orders = search_orders(checkpoint, SearchOptions(), lambda done, total, name: told.append(name))
    assert told[0] == "channel permutation of block 0"
    orders.save(tmp_path / "orders.json")
    again = Orders.load(tmp_path / "orders.json")
    assert again is not None
    assert torch.equal(again.hidden, orders.hidden)
    permuted = PermutedCheckpoint(checkpoint, again)
    ids = [(5 * each) % 97 for each in range(24)]
    expected, found = (DenseModel(each).logits(ids) for each in (checkpoint, permuted))
    assert torch.allclose(found, expected, atol=1e-4)
    assert float(expected.std()) > 0.1
    for module in ("attn.out_proj", "mlp.fc_out"):
        name = f"transformer.h.1.{module}.weight"
        before, after = (each.read(name, dtype=torch.float32) for each in (checkpoint, permuted))
        assert not torch.equal(before, after)
        assert magnitude_after(after) > magnitude_after(before)
    part = permuted.read("transformer.h.0.mlp.fc_out.weight", rows=slice(3, 9), columns=slice(16, 40))
    assert torch.equal(part, permuted.read("transformer.h.0.mlp.fc_out.weight")[3:9, 16:40])
