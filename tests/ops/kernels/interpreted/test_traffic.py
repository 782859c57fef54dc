"""The traffic counter is tested on kernels whose traffic is known."""

from __future__ import annotations

import pytest
import torch

from labkit.ops.kernels.interpreter_traffic import count_traffic
from labkit.ops.kernels.triton_runtime import jit, launch, tl


@jit
def copy_kernel(x: tl.tensor, out: tl.tensor, n: tl.tensor, BLOCK: tl.constexpr) -> None:
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + columns, tl.load(x + columns, mask=columns < n), mask=columns < n)


@jit
def spread_kernel(x: tl.tensor, out: tl.tensor, BLOCK: tl.constexpr) -> None:
    columns = tl.arange(0, BLOCK)
    tl.store(out + columns, tl.load(x + columns // 4) + tl.load(x))


@jit
def switched_kernel(x: tl.tensor, switch: tl.tensor, out: tl.tensor, BLOCK: tl.constexpr) -> None:
    columns = tl.arange(0, BLOCK)
    on = (tl.load(switch) > 0) & (columns < 5)
    tl.store(out + columns, tl.load(x + columns, mask=on, other=0.0), mask=on)


@jit
def count_kernel(counter: tl.tensor) -> None:
    tl.atomic_add(counter, 1)


@pytest.mark.parametrize(("n", "dtype"), [(64, torch.float32), (50, torch.float16), (1, torch.int64), (33, torch.int8)])
def test_a_masked_tail_does_not_count(n: int, dtype: torch.dtype) -> None:
    x, out = torch.arange(n).to(dtype), torch.zeros(n, dtype=dtype)
    with count_traffic() as traffic:
        launch(copy_kernel, (-(-n // 16),), x, out, n, BLOCK=16)
    assert torch.equal(out, x)
    assert (traffic.bytes_read, traffic.bytes_written) == (n * x.element_size(), n * x.element_size())
    assert traffic.total == 2 * n * x.element_size()


def test_an_address_that_a_load_names_twice_counts_once() -> None:
    x, out = torch.ones(4), torch.zeros(16)
    with count_traffic() as traffic:
        launch(spread_kernel, (1,), x, out, BLOCK=16)
    assert (traffic.bytes_read, traffic.bytes_written) == (4 * 4 + 4, 16 * 4)


@pytest.mark.parametrize("switch", [0, 1])
def test_a_mask_computed_from_a_loaded_value_counts_its_lanes(switch: int) -> None:
    x, out = torch.ones(8), torch.zeros(8)
    with count_traffic() as traffic:
        launch(switched_kernel, (1,), x, torch.tensor([switch], dtype=torch.int32), out, BLOCK=8)
    assert float(out.sum()) == 5 * switch
    assert (traffic.bytes_read, traffic.bytes_written) == (4 + 20 * switch, 20 * switch)


def test_atomics_read_and_write_and_nothing_counts_behind_the_with() -> None:
    counter = torch.zeros(1, dtype=torch.int32)
    with count_traffic() as traffic:
        launch(count_kernel, (3,), counter)
    launch(count_kernel, (2,), counter)
    assert int(counter) == 5
    assert (traffic.bytes_read, traffic.bytes_written) == (12, 12)


def test_each_of_two_nested_counters_sees_its_own() -> None:
    x, out = torch.ones(16), torch.zeros(16)
    with count_traffic() as outer:
        launch(copy_kernel, (1,), x, out, 16, BLOCK=16)
        with count_traffic() as inner:
            launch(copy_kernel, (1,), x, out, 16, BLOCK=16)
        launch(copy_kernel, (1,), x, out, 16, BLOCK=16)
    assert (outer.bytes_read, inner.bytes_read) == (3 * 64, 64)
