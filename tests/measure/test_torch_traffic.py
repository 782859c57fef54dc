"""The bytes that torch operations move, compared with bytes counted by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from labkit.measure.torch_traffic import torch_traffic

UNIT = 4 * 6 * 10
X, Y = torch.randn(6, 10), torch.randn(6, 10)
ROWS = torch.tensor([4, 0, 4])


@pytest.mark.parametrize(
    ("call", "launches", "read", "written"),
    [
        (lambda: X + Y, 1, 2 * UNIT, UNIT),
        (lambda: X + Y + X, 2, 4 * UNIT, 2 * UNIT),
        (lambda: X.clone().mul_(2.0), 2, 2 * UNIT, 2 * UNIT),
        (lambda: X.view(60)[3:].unsqueeze(0), 0, 0, 0),
        (lambda: X.t().reshape(60), 1, UNIT, UNIT),
        (lambda: X.float().contiguous(), 0, 0, 0),
        (lambda: X[ROWS], 1, 3 * 40 + 3 * 8, 3 * 40),
        (lambda: F.embedding(ROWS, X), 1, 3 * 40 + 3 * 8, 3 * 40),
        (lambda: X.expand(5, 6, 10) + 0.0, 1, UNIT, 5 * UNIT),
        (lambda: torch.empty(1000), 0, 0, 0),
        (lambda: torch.empty(6, 10).copy_(X), 1, UNIT, UNIT),
        (lambda: F.linear(X, Y, X[0, :6]), 1, 2 * UNIT + 24, 4 * 36),
        (lambda: F.gelu(F.linear(X, Y)), 2, 2 * UNIT + 4 * 36, 2 * 4 * 36),
    ],
)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_bytes_and_launches(call: object, launches: int, read: int, written: int, mode: object) -> None:
    with mode():  # type: ignore[operator]
        traffic = torch_traffic(call)  # type: ignore[arg-type]
    assert (traffic.launches, traffic.bytes_read, traffic.bytes_written) == (launches, read, written)
    assert traffic.total == read + written


def test_a_write_through_an_index_touches_what_is_written() -> None:
    pool, new = torch.zeros(100, 10), torch.randn(3, 10)

    def write() -> None:
        pool[torch.tensor([5, 7, 99])] = new

    write()
    traffic = torch_traffic(write)
    assert traffic.bytes_written - 24 <= 3 * 40  # plus the indices, if an operation makes them
    assert traffic.bytes_read < 4 * 3 * 40


def test_nothing_is_counted_outside() -> None:
    traffic = torch_traffic(lambda: X + Y)
    before = traffic.total
    X.add(Y)
    assert traffic.total == before
