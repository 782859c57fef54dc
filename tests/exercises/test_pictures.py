"""The labs' drawings agree with the formulas that they explain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib import image
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from labkit.exercises.lab00 import kv_cache_bytes
from labkit.exercises.lab01 import positions_processed
from labkit.exercises.pictures import lab00, lab01, lab02
from labkit.exercises.pictures.canvas import BLUE, ORANGE
from labkit.exercises.shapes import Shape

PICTURES = {
    "cache": lab00.kv_cache,
    "overlap": lab00.overlap,
    "queue": lab01.queue,
    "positions": lab01.positions,
    "grid": lab02.program_grid,
    "address": lab02.address,
    "parts": lab02.parts,
}


def words(figure: Any) -> list[str]:
    return [figure.get_suptitle(), *(text.get_text() for text in figure.axes[0].texts)]


def boxes(figure: Any, *colours: str) -> list[Rectangle]:
    patches = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    return [patch for patch in patches if not colours or to_hex(patch.get_facecolor()).upper() in colours]


@pytest.mark.parametrize("name", PICTURES)
def test_a_drawing_has_ink_and_no_text_outside(name: str, tmp_path: Path) -> None:
    figure = PICTURES[name]()
    figure.savefig(tmp_path / "picture.png")
    pixels = image.imread(tmp_path / "picture.png")[..., :3]
    dark = pixels.min(-1) < 0.9
    assert 0.02 < dark.mean() < 0.7
    assert not dark[:, -1].any()  # nothing is cut off at the right edge
    assert not dark[-1].any()


@pytest.mark.parametrize(("token", "head", "dim", "heads", "head_dim"), [(2, 1, 4, 3, 10), (1, 3, 0, 4, 8), (0, 0, 5, 2, 6)])
def test_the_address_is_that_of_torch(token: int, head: int, dim: int, heads: int, head_dim: int) -> None:
    tensor = torch.arange(3 * heads * head_dim).view(3, heads, head_dim)
    figure = lab02.address(token, head, dim, heads=heads, head_dim=head_dim)
    assert words(figure)[0].endswith(f"element ({token}, {head}, {dim}) lies at place {int(tensor[token, head, dim])}")


def test_a_grid_has_a_program_for_each_row_and_masks_the_rest() -> None:
    figure = lab02.program_grid(rows=3, size=100, block=128)
    assert [text for text in words(figure) if text.startswith("place ")] == [
        f"place {place}" for row in range(3) for place in (100 * row, 100 * row + 99)
    ]
    assert words(figure).count("masked") == 3
    assert len(lab02.program_grid(rows=2, size=64, block=64).axes[0].patches) == 2


@pytest.mark.parametrize(("prompt", "new"), [(4, 4), (2, 5), (3, 1)])
def test_as_many_positions_are_drawn_as_run(prompt: int, new: int) -> None:
    run = sum(positions_processed(prompt, new, cached) for cached in (True, False))
    assert len(boxes(lab01.positions(prompt, new), BLUE, ORANGE)) == run + 2  # and the legend's


def test_a_cache_has_a_square_for_each_token() -> None:
    lengths, layers = (6, 3, 8), 4
    drawn = len(boxes(lab00.kv_cache(lengths, layers), BLUE, ORANGE))
    shape = Shape(hidden_size=1, num_layers=1, num_heads=1, intermediate_size=1, vocab_size=1)
    assert 2 * drawn == kv_cache_bytes(shape, list(lengths), 1)


def test_every_part_has_a_program() -> None:
    said = words(lab02.parts(length=10, block=4))
    assert sum(text.startswith("program (s, head, ") for text in said) == 3
    assert said.count("?") == 2  # positions after the sequence's length
