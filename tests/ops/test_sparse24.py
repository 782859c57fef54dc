"""2:4 sparse weights have the same values and metadata as in torch's reference conversion, and keep every nonzero value."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.sparse import _semi_structured_conversions as conversions

from labkit.errors import InvalidRequest
from labkit.ops.linear import linear_reference
from labkit.weight_formats import Sparse24Weight


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pruned(weight: Tensor) -> Tensor:
    """The weight with only the two largest magnitudes of every four neighbours, found by a plain loop."""
    kept = torch.zeros_like(weight)
    for row in range(len(weight)):
        for begin in range(0, weight.shape[1], 4):
            four = sorted(range(begin, min(begin + 4, weight.shape[1])), key=lambda column: -abs(float(weight[row, column])))
            kept[row, four[:2]] = weight[row, four[:2]]
    return kept


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(32, 64), (64, 128), (96, 320)])
def test_it_is_what_torch_makes_for_sparse_tensor_cores(shape: tuple[int, int], dtype: torch.dtype) -> None:
    dense = Sparse24Weight.quantize(random(*shape).to(dtype)).dequantize(dtype)
    ours = Sparse24Weight.compress(dense, dtype)
    values, reordered = conversions.sparse_semi_structured_from_dense_cutlass(dense)
    columns = shape[1] // 16
    places = conversions._calculate_meta_reordering_scatter_offsets(shape[0], columns, torch.int16, "cpu")
    metadata = reordered.view(-1)[places].view(shape[0], columns)
    assert torch.equal(ours.values, values)
    assert torch.equal(ours.indices.view(torch.int16), metadata)
    back = torch.empty_like(metadata).view(-1).scatter_(0, places, ours.indices.view(torch.int16).reshape(-1))
    restored = conversions.sparse_semi_structured_to_dense_cutlass(ours.values, back.view(shape[0], columns))
    assert torch.equal(restored, dense)
    assert float((dense != 0).float().mean()) == 0.5


@pytest.mark.parametrize("shape", [(1, 1), (3, 4), (5, 33), (17, 70), (40, 128)])
def test_the_largest_two_of_four_are_kept(shape: tuple[int, int]) -> None:
    weight = random(*shape, seed=1).bfloat16().float()
    found = Sparse24Weight.quantize(weight)
    assert found.shape == shape
    assert torch.equal(found.dequantize(), pruned(weight))
    padded = -(-shape[1] // 8) * 8
    assert found.byte_count == shape[0] * padded * 9 // 8
    x = random(3, shape[1], seed=2)
    assert torch.allclose(linear_reference(x, found), x @ pruned(weight).T, atol=1e-4)


def test_a_sparse_matrix_is_stored_as_it_is() -> None:
    weight = pruned(random(6, 40))
    weight[2:4] = 0.0
    weight[0, :8] = torch.tensor([0, 0, 0, 3.0, 0, -2.0, 0, 0])
    found = Sparse24Weight.compress(weight, torch.float32)
    assert torch.equal(found.dequantize(), weight)
    assert bool((found.places[..., 0] < found.places[..., 1]).all())
    with pytest.raises(InvalidRequest, match="more than two nonzero numbers in four neighbours"):
        Sparse24Weight.compress(torch.ones(2, 8), torch.float32)


def test_parts() -> None:
    found = Sparse24Weight.quantize(random(5, 44))
    assert torch.equal(found.part(slice(8, 44)).dequantize(), found.dequantize()[:, 8:])
    assert torch.equal(found.part(slice(0, 16)).dequantize(), found.dequantize()[:, :16])
    with pytest.raises(InvalidRequest, match="columns 4 to 44 of a 2:4 sparse matrix cannot be taken"):
        found.part(slice(4, 44))
