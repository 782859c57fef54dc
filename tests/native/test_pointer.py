"""Arguments of the native library: a tensor that does not fit is refused with a message, and its data is not accessed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from labkit import native
from labkit.errors import InvalidRequest
from labkit.model import KVCache
from labkit.model.fastest_forward import fastest_forward
from labkit.native import operations
from labkit.native.library import pointer, rows_pointer
from labkit.native.packed_weight import PackedWeight
from labkit.native.shared_group import SharedGroup
from labkit.native.untouched import untouched
from labkit.ops import Int8Weight
from tests.native.test_forward import CPU, models, scattered_batch

pytestmark = pytest.mark.skipif(not native.available(), reason=f"not measured here: no native library ({native.why_not()})")


class Own(torch.Tensor):
    """A subclass of tensors, which could store its numbers anywhere."""


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(2, 3, dtype=torch.bfloat16),
        torch.zeros(3, 2),
        torch.zeros(2, 4),
        torch.zeros(6),
        torch.zeros(3, 2).t(),
        torch.zeros(2, 3, device="meta"),
        torch.zeros(2, 3).as_subclass(Own),
    ],
)
def test_another_tensor_than_the_one_that_is_due(tensor: torch.Tensor) -> None:
    with pytest.raises(InvalidRequest, match=r"was given a .*; a plain, contiguous CPU tensor of torch.float32 \[2, 3\]"):
        pointer(tensor, torch.float32, (2, 3))


def test_the_one_that_is_due() -> None:
    tensor = torch.zeros(2, 3)
    assert pointer(tensor, torch.float32, (2, 3)) == tensor.data_ptr()
    assert pointer(torch.nn.Parameter(tensor), torch.float32, (2, 3)) == tensor.data_ptr()
    assert pointer(None, torch.float32, (2, 3)) is None
    wide = torch.zeros(4, 9, dtype=torch.int32)[:, :5]
    assert rows_pointer(wide, torch.int32, 4) == (wide.data_ptr(), 9)
    for table in (wide.t(), wide[:3], wide.long(), wide[0]):
        with pytest.raises(InvalidRequest, match=r"torch.int32 \[4, any\]"):
            rows_pointer(table, torch.int32, 4)


def test_a_batch_that_does_not_fit_the_model() -> None:
    _, stored = models("head of 256", "fp32")
    forward = fastest_forward(stored)
    batch, order = scattered_batch(stored, [(1, 3), (4, 0)], 1)
    cache = KVCache(stored.config, len(order), device=CPU, dtype=stored.dtype)
    assert batch.soft_embeddings is not None
    for field, wrong in (
        ("token_ids", batch.token_ids.int()),
        ("positions", batch.positions[:-1]),
        ("slot_mapping", batch.slot_mapping.double()),
        ("starts", batch.starts[:-1].contiguous()),
        ("slot_table", batch.slot_table.long()),
        ("lengths", batch.lengths.long()),
        ("logit_rows", batch.logit_rows.int()),
        ("soft_rows", batch.soft_rows.int() if batch.soft_rows is not None else None),
        ("soft_embeddings", batch.soft_embeddings[:, :-1]),
        ("token_ids", batch.token_ids.to("meta")),
    ):
        with pytest.raises(InvalidRequest, match="a native kernel was given"):
            forward(replace(batch, **{field: wrong}), cache)
    for other in (KVCache(stored.config, len(order), device=CPU, dtype=torch.bfloat16),):
        with pytest.raises(InvalidRequest, match=r"a native kernel was given .*bfloat16"):
            forward(batch, other)
    cache.values = cache.values[:, :-1]
    with pytest.raises(InvalidRequest, match="a native kernel was given"):
        forward(batch, cache)


def test_single_operations_with_tensors_that_do_not_fit() -> None:
    x, weight = torch.zeros(3, 8), torch.zeros(8)
    numbers = torch.zeros(3, dtype=torch.int64)
    packed = PackedWeight(torch.zeros(4, 8))
    calls = [
        lambda: operations.layer_norm(x, weight[:7], weight, 1e-5),
        lambda: operations.layer_norm(x.double(), weight, weight, 1e-5),
        lambda: operations.residual_layer_norm(x, x[:2], x, weight, weight, 1e-5),
        lambda: operations.residual_layer_norm(x, x.bfloat16(), x, weight, weight, 1e-5),
        lambda: operations.sample(x, numbers, numbers, numbers, numbers[:2], numbers, numbers),
        lambda: operations.sample(x, numbers, numbers.double(), numbers, numbers, numbers, numbers),
        lambda: packed.multiply(x[:, :7]),
        lambda: packed.multiply(x.half()),
        lambda: packed.multiply(x, torch.zeros(5)),
        lambda: PackedWeight(Int8Weight(torch.zeros(4, 8, dtype=torch.int8), torch.zeros(3))),
        lambda: PackedWeight(Int8Weight(torch.zeros(4, 8, dtype=torch.int16), torch.zeros(4))),
    ]
    for call in calls:
        with pytest.raises(InvalidRequest, match="a native kernel was given"):
            call()


def test_a_group_takes_contiguous_tensors() -> None:
    path = SharedGroup.create(1)
    try:
        group = SharedGroup(path, 0, 1)
        assert group.all_reduce(torch.ones(4)).tolist() == [1, 1, 1, 1]
        calls = group.all_reduce, lambda tensor: group.broadcast(tensor, 0), lambda tensor: group.gather(tensor, 0)
        for call in calls:
            with pytest.raises(InvalidRequest, match=r"a native kernel was given .* with strides"):
                call(torch.ones(4, 4)[:, :2])
    finally:
        path.unlink()


def test_memory_for_the_cache_is_not_filled() -> None:
    torch.use_deterministic_algorithms(True)  # torch now fills the result of `torch.empty` with NaN
    try:
        memory = untouched((3, 1 << 20), torch.bfloat16, CPU)
        filled = torch.empty(3, 1 << 20, dtype=torch.bfloat16, device="cpu")
    finally:
        torch.use_deterministic_algorithms(False)
    assert bool(filled.isnan().all())
    assert (memory.shape, memory.dtype, memory.is_contiguous()) == ((3, 1 << 20), torch.bfloat16, True)
    assert not bool(memory.isnan().all())
