"""Defines a plan for a linear layer on a GPU, which is a kernel with its block sizes. Also makes the tiles for plans."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from labkit.ops.kernels.triton_runtime import ceil_div

PROGRAMS = 120
"""This many programs are enough to keep a GPU busy. An A100 has 108 multiprocessors, and an H100 has 132.

Block sizes are powers of two, so the number of programs cannot be chosen exactly.
"""


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


def row_vector_plans(*blocks: tuple[int, int]) -> list[Plan]:
    """Make plans for a single row and a quantized matrix. Each pair gives the outputs per block and the warps of one plan.

    A vector of 16 bytes holds more quantized than dense weights, so a block needs more outputs than for a dense matrix.
    """
    return [Plan("one_row", {"BLOCK_OUT": out, "BLOCK_VECTORS": 32 * warps, "num_warps": warps}) for out, warps in blocks]


def few_rows_tiles(rows: int, arch: int, bytes_per_weight: int) -> list[dict[str, int]]:
    """Return tiles for few rows: one warp per 16 outputs, because the rows are too few to be divided among warps."""
    if rows <= 16:
        # A block of one-byte weights has twice as many inputs as a block of two-byte weights, so both load equally many bytes.
        blocks = (64, 256, 4, 4), (32, 256, 2, 5), (32, 512, 2, 4)
        return [tile(out, inputs // bytes_per_weight, rows, warps, stages) for out, inputs, warps, stages in blocks]
    tiles = [tile(64, 128, rows, 4, 3), tile(128, 128, rows, 8, 3), tile(64, 128, rows, 4, 4), tile(128, 128, rows, 8, 4)]
    return tiles if arch >= 90 else tiles[: 2 if rows <= 32 else 1]  # before Hopper, the larger tile spills registers


def tile(out: int, inputs: int, rows: int, warps: int, stages: int) -> dict[str, int]:
    """Return one tile. The loads of `stages` - 1 steps are in flight together, so that they hide the latency of memory."""
    return {"BLOCK_OUT": out, "BLOCK_IN": inputs, "BLOCK_ROWS": max(rows, 8), "num_warps": warps, "num_stages": stages}


def parted(tile: dict[str, int], num_in: int, num_out: int) -> Iterable[dict[str, int]]:
    """Return the tile with each possible number of parts. The smallest number that keeps the GPU busy comes first."""
    programs, steps = ceil_div(num_out, tile["BLOCK_OUT"]), ceil_div(num_in, tile["BLOCK_IN"])
    possible = [parts for parts in (1, 2, 4) if parts == 1 or steps >= 4 * parts]
    first = next((parts for parts in possible if parts * programs >= PROGRAMS), possible[-1])
    return [tile | {"PARTS": parts} for parts in sorted(possible, key=lambda parts: (parts != first, parts))]
