"""The candidates for a linear layer on a GPU, by kind of weight and number of rows; the first candidate runs until tuned.

`one_row` and `few_rows` are the kernels of `linear_one_row` and `linear_few_rows`, or their int8 and int4 forms; `cublas`
is the product of `linear_cublas`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from labkit.ops.kernels.triton_runtime import ceil_div, power_of_two

STREAMED_ROWS = {"dense": 16, "int8": 64, "int4": 64, "int8 dynamic": 64, "fp8": 64}
"""The most rows for the kernels here, by kind of weight. Up to this number, reading the weight takes most of the time."""
PROGRAMS = 120
"""Programs that keep a GPU busy: an A100 has 108 multiprocessors, an H100 has 132, and blocks are powers of two."""


@dataclass(frozen=True)
class Plan:
    """A kernel and its block sizes."""

    kernel: str
    config: dict[str, int] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The plan's name in the tuning file."""
        return " ".join((self.kernel, *(f"{name}={value}" for name, value in self.config.items())))


CUBLAS = Plan("cublas")


@functools.cache
def plans(kind: str, rows: int, num_in: int, num_out: int, dtype: torch.dtype, group: int, arch: int) -> dict[str, Plan]:
    """The candidates by label; the first candidate is the default.

    `rows` comes from `rows_bucket`, `dtype` is the dtype of x, `group` is the group size of int4 (else 0), `arch` is the
    compute capability, 80 or 90.
    """
    found: list[Plan] = []
    if rows == 1 and kind == "dense":
        found += _row(16 // dtype.itemsize)
    if rows == 1 and kind == "int8" and num_in % 4 == 0:
        found += _row_vectors((8, 2), (8, 4), (4, 4), (16, 2), (8, 1), (4, 2))
    if rows == 1 and kind == "int4" and group % 32 == 0:
        found += _row_vectors((8, 2), (8, 1), (4, 1), (4, 4), (8, 4), (16, 2))
    for tile in _tiles(kind, rows, dtype, group, arch):
        found += [Plan("few_rows", parted) for parted in _parted(tile, num_in, num_out)]
    return {plan.label: plan for plan in (*found, CUBLAS)}


def rows_bucket(rows: int) -> int:
    """The next power of two. All numbers of rows with the same next power of two share one choice."""
    return power_of_two(rows)


def _row(vector: int) -> list[Plan]:
    """Plans that differ in outputs per block, warps, and consecutive loads that a thread has in flight for each output.

    The first plan was the fastest on an H200.
    """
    blocks = ((2, 4, 2), (1, 4, 2), (2, 8, 2), (2, 4, 1), (4, 4, 2), (8, 4, 1))
    return [
        Plan("one_row", {"BLOCK_OUT": out, "BLOCK_IN": 32 * warps * vector * loads, "num_warps": warps})
        for out, warps, loads in blocks
    ]


def _row_vectors(*blocks: tuple[int, int]) -> list[Plan]:
    """Plans with these outputs per block and warps.

    A quantized matrix is read in vectors of 16 bytes and needs more outputs.
    """
    return [Plan("one_row", {"BLOCK_OUT": out, "BLOCK_VECTORS": 32 * warps, "num_warps": warps}) for out, warps in blocks]


def _tiles(kind: str, rows: int, dtype: torch.dtype, group: int, arch: int) -> list[dict[str, int]]:
    """Tiles for few rows: one warp per 16 outputs, because the rows are too few to be divided among warps."""
    if dtype == torch.float32 and kind not in ("int8 dynamic", "fp8"):
        return []  # tensor cores do not multiply float32
    if kind == "int4":  # a group must hold whole 16-bit words, and a block must hold whole groups
        return _tiles_int4(rows, arch) if group % 4 == 0 and 256 % group == 0 else []
    if rows <= 16:
        # A block of one-byte weights is twice as long as a block of two-byte weights, so both load the same number of bytes.
        step = 2 if kind == "dense" else 1
        blocks = (64, 256, 4, 4), (32, 256, 2, 5), (32, 512, 2, 4)
        return [_tile(out, inputs // step, rows, warps, stages) for out, inputs, warps, stages in blocks]
    tiles = [_tile(64, 128, rows, 4, 3), _tile(128, 128, rows, 8, 3), _tile(64, 128, rows, 4, 4), _tile(128, 128, rows, 8, 4)]
    return tiles if arch >= 90 else tiles[: 2 if rows <= 32 else 1]  # before Hopper, the larger tile spills registers


def _tiles_int4(rows: int, arch: int) -> list[dict[str, int]]:
    if rows <= 16:
        return [_tile(64, 256, rows, 4, 4), _tile(32, 256, rows, 2, 5), _tile(64, 128, rows, 4, 5)]
    if arch < 90:  # the operands of 64 rows do not fit into registers, so two programs of 32 rows read the same weights
        return [_tile(64, 256, 32, 4, 3)]
    return [_tile(64, 256, rows, 4, 3), _tile(64, 128, rows, 4, 4), _tile(128, 128, rows, 8, 3)]


def _tile(out: int, inputs: int, rows: int, warps: int, stages: int) -> dict[str, int]:
    """One tile; `stages` - 1 steps of loads are in flight, enough to hide the latency of memory."""
    return {"BLOCK_OUT": out, "BLOCK_IN": inputs, "BLOCK_ROWS": max(rows, 8), "num_warps": warps, "num_stages": stages}


def _parted(tile: dict[str, int], num_in: int, num_out: int) -> Iterable[dict[str, int]]:
    """The tile with each possible number of parts; the fewest parts that keep the GPU busy come first."""
    programs, steps = ceil_div(num_out, tile["BLOCK_OUT"]), ceil_div(num_in, tile["BLOCK_IN"])
    possible = [parts for parts in (1, 2, 4) if parts == 1 or steps >= 4 * parts]
    first = next((parts for parts in possible if parts * programs >= PROGRAMS), possible[-1])
    return [tile | {"PARTS": parts} for parts in sorted(possible, key=lambda parts: (parts != first, parts))]
