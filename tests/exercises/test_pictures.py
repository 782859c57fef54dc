"""The drawings of the labs are readable and agree with the formulas that they explain."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from matplotlib import image
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from labkit.answers.lab00 import kv_cache_bytes
from labkit.answers.lab01 import positions_processed
from labkit.answers.lab04.ensemble import ensemble_maps
from labkit.answers.lab05.int4 import pack_int4
from labkit.answers.lab05.parameters import quantization_parameters
from labkit.answers.lab06.accept import accept_or_reject
from labkit.answers.lab06.mask import two_four_mask
from labkit.answers.lab06.storage import compress_two_four
from labkit.compress.student import spread_layers
from labkit.exercises.pictures import lab00, lab01, lab02, lab03, lab04, lab05, lab06, lab07, lab08
from labkit.exercises.pictures.canvas import BLUE, ORANGE
from labkit.exercises.shapes import Shape

PICTURES: dict[str, Callable[[], Any]] = {
    "cache": lab00.kv_cache,
    "cache, long": lambda: lab00.kv_cache((12, 1), layers=6),
    "overlap": lab00.overlap,
    "queue": lab01.queue,
    "positions": lab01.positions,
    "positions, few": lambda: lab01.positions(3, 2),
    "grid": lab02.program_grid,
    "grid, no mask": lambda: lab02.program_grid(rows=2, size=64, block=64),
    "address": lab02.address,
    "address, first element": lambda: lab02.address(0, 0, 0, heads=2, head_dim=6),
    "parts": lab02.parts,
    "cuts": lab03.two_cuts,
    "ring": lab03.ring,
    "ring, 3 ranks": lambda: lab03.ring(3),
    "timetable": lab03.timetable,
    "timetable, 8 pieces": lambda: lab03.timetable(2, 8),
    "timetable, requests": lambda: lab03.timetable(2, 4, piece_word="request", stage_word="part", first_stage=1),
    "server": lab04.server,
    "ensemble": lab04.ensemble,
    "stream": lab04.stream,
    "batch": lab04.batch_that_waits,
    "number line": lab05.number_line,
    "number line, 2 bits": lambda: lab05.number_line(-4.0, 1.0, bits=2),
    "scales": lab05.scales_of,
    "nibbles": lab05.nibbles,
    "nibbles, the ends": lambda: lab05.nibbles(-8, 7),
    "column step": lab05.column_step,
    "column step, the first": lambda: lab05.column_step(6, 0),
    "staircase": lab05.staircase,
    "fp8": lab05.fp8_bits,
    "fusion": lab07.fusion,
    "fusion, two kernels": lambda: lab07.fusion(("Mul", "Add")),
    "parallel block": lab07.parallel_block,
    "parts on a server": lab07.parts_on_a_server,
    "connections": lab06.connections,
    "connections, two neurons": lambda: lab06.connections(4, 3, 1, 2),
    "two of four": lab06.two_four,
    "two of four, one four": lambda: lab06.two_four((5, 5, 5, 1)),
    "layers": lab06.every_second,
    "layers, every third": lambda: lab06.every_second(6, 2),
    "accept": lab06.accept,
    "accept, two tokens": lambda: lab06.accept((0.5, 0.5), (0.25, 0.75)),
    "two of four stored": lab08.two_of_four,
    "two of four stored, other weights": lambda: lab08.two_of_four((0.0, 0.5, 0.1, 0.0)),
    "division": lab08.division,
    "division, many stages": lambda: lab08.division(2, 4),
}
"""Every drawing with the arguments that its lab uses, and some drawings with other arguments that a learner might try."""


def words(figure: Any) -> list[str]:
    return [figure.get_suptitle(), *(text.get_text() for text in figure.axes[0].texts)]


def boxes(figure: Any, *colours: str) -> list[Rectangle]:
    patches = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    return [patch for patch in patches if not colours or to_hex(patch.get_facecolor()).upper() in colours]


def written(figure: Any) -> dict[Text, Bbox]:
    """The title, the caption and every text of a figure, each with its bounding box in pixels.

    The figure must be drawn first.
    """
    texts = [*figure.texts, *figure.axes[0].texts]
    return {text: text.get_window_extent() for text in texts if text.get_text()}


@pytest.mark.parametrize("name", PICTURES)
def test_a_drawing_can_be_read(name: str) -> None:
    """The drawing is not blank and has no small letters. No text is cut off, overlaps another text or crosses a box's edge."""
    figure = PICTURES[name]()
    pixels = image.imread(io.BytesIO(figure._repr_png_()[0]), format="png")[..., :3]
    assert 0.02 < (pixels.min(-1) < 0.9).mean() < 0.9
    covered = written(figure)
    for text, place in covered.items():
        said = text.get_text()
        assert text.get_fontsize() >= 9, said
        assert place.x0 >= 0, said
        assert place.x1 <= figure.bbox.x1, said
        assert place.y0 >= 0, said
        assert place.y1 <= figure.bbox.y1, said
        for edges in (box.get_window_extent() for box in boxes(figure)):
            assert not place.overlaps(edges) or Bbox.intersection(place, edges).bounds == pytest.approx(place.bounds), said
    for (one, its), (other, theirs) in itertools.combinations(covered.items(), 2):
        assert not its.overlaps(theirs), f"{one.get_text()!r} and {other.get_text()!r}"


@pytest.mark.parametrize(("token", "head", "dim", "heads", "head_dim"), [(2, 1, 4, 3, 10), (1, 3, 0, 4, 8), (0, 0, 5, 2, 6)])
def test_the_address_is_that_of_torch(token: int, head: int, dim: int, heads: int, head_dim: int) -> None:
    tensor = torch.arange(3 * heads * head_dim).view(3, heads, head_dim)
    figure = lab02.address(token, head, dim, heads=heads, head_dim=head_dim)
    assert words(figure)[0].endswith(f"element ({token}, {head}, {dim}) is at place {int(tensor[token, head, dim])}")


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
    assert len(boxes(lab01.positions(prompt, new), BLUE, ORANGE)) == run


def test_a_cache_has_a_square_for_each_token() -> None:
    lengths, layers = (6, 3, 8), 4
    drawn = len(boxes(lab00.kv_cache(lengths, layers), BLUE, ORANGE))
    shape = Shape(hidden_size=1, num_layers=1, num_heads=1, intermediate_size=1, vocab_size=1)
    assert 2 * drawn == kv_cache_bytes(shape, list(lengths), 1)


def test_every_part_has_a_program() -> None:
    said = words(lab02.parts(length=10, block=4))
    assert sum(text.startswith("program (s, head, ") for text in said) == 3
    assert said.count("?") == 2  # positions past the sequence's length


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_a_ring_adds_up_each_number_once_on_every_rank(ranks: int) -> None:
    steps = lab03.ring_sums(ranks)
    assert len(steps) == 1 + 2 * (ranks - 1)
    assert steps[-1] == [[ranks] * ranks] * ranks
    for before, after in itertools.pairwise(steps):
        changed = [sum(a != b for a, b in zip(*rows, strict=True)) for rows in zip(before, after, strict=True)]
        assert changed == [1] * ranks  # in each step every rank receives one part


def test_the_drawn_ensemble_has_the_tensors_of_the_exercise() -> None:
    maps = ensemble_maps()
    assert {name: tuple(map(set, both)) for name, both in maps.items()} == {
        name: (set(reads), set(makes)) for name, (reads, makes) in lab04.PORTS.items()
    }


@pytest.mark.parametrize(("low", "high", "bits"), [(-0.5, 3.0, 3), (-4.0, 1.0, 2)])
def test_the_number_line_has_the_scales_of_the_exercise(low: float, high: float, bits: int) -> None:
    said = words(lab05.number_line(low, high, bits))
    for symmetric in (True, False):
        scale, zero_point = quantization_parameters(low, high, bits, symmetric)
        assert f"scale {scale:.3g}" in said
        assert f"zero point {zero_point}" in said


@pytest.mark.parametrize(("even", "odd"), [(3, -5), (-8, 7), (0, 0)])
def test_the_drawn_byte_is_that_of_the_exercise(even: int, odd: int) -> None:
    byte = int(pack_int4(torch.tensor([[even, odd]], dtype=torch.int8)))
    said = words(lab05.nibbles(even, odd))
    assert said[0].endswith(f"in one byte: {byte}")
    assert "".join(bit for bit in said if bit in ("0", "1")) == f"{byte:08b}"


def test_as_many_scales_are_drawn_as_said() -> None:
    said = words(lab05.scales_of(rows=3, columns=6, group=2))
    assert "per row: 3 scales" in said
    assert "groups of 2: 9 scales" in said


def test_the_staircase_is_fake_quantization() -> None:
    stairs: Any = lab05.staircase(bits=3, scale=0.5).axes[0].patches[0]
    assert list(stairs.get_data().values) == [0.5 * q for q in range(-4, 4)]


def test_the_drawn_networks_are_those_of_the_lecture() -> None:
    figure = lab06.connections()
    said = words(figure)
    assert "6 neurons, 32 connections" in said
    assert "5 neurons, 24 connections" in said
    assert len(figure.axes[0].lines) == 32 + 24


@pytest.mark.parametrize("scores", [(7, 1, 2, 9, 3, 8, 6, 5), (5, 5, 5, 1), (1, 2, 3, 4)])
def test_the_drawn_mask_and_places_are_those_of_the_exercises(scores: tuple[int, ...]) -> None:
    row = torch.tensor([scores], dtype=torch.float32)
    mask = two_four_mask(row)
    figure = lab06.two_four(scores)
    assert len(boxes(figure, BLUE)) == int(mask.sum())
    padded = torch.nn.functional.pad(mask, (0, -len(scores) % 8))
    padded[:, len(scores) : len(scores) + 2] = True  # in a group of four that is only padding, the first two places are kept
    byte = int(compress_two_four(torch.zeros_like(padded, dtype=torch.float32), padded)[1][0, 0])
    bits = [text.split("bits ")[1].replace(" ", "") for text in words(figure) if "bits " in text]
    assert bits == [f"{byte >> 4 * place & 15:04b}" for place in range(len(scores) // 4)]


@pytest.mark.parametrize(("teacher", "layers"), [(8, 4), (6, 2)])
def test_the_drawn_student_has_the_layers_of_labkit(teacher: int, layers: int) -> None:
    copied = boxes(lab06.every_second(teacher, layers), BLUE)
    columns = sorted({round((box.get_x() - 2.0) / 1.1) for box in copied})
    assert columns == spread_layers(teacher, layers)
    assert len(copied) == 2 * layers


def test_the_drawn_share_of_accepted_guesses_is_that_of_the_rule() -> None:
    draft, target = [torch.tensor(each, dtype=torch.float64) for each in ((0.6, 0.3, 0.1), (0.3, 0.5, 0.2))]
    numbers = [(place + 0.5) / 200 for place in range(200)]
    kept = [float(draft[t]) * sum(accept_or_reject(draft, target, t, n, 0.5) == t for n in numbers) / 200 for t in range(3)]
    assert words(lab06.accept())[0] == f"{sum(kept):.0%} of the guesses are accepted"


def test_the_sparse_row_is_the_dense_one() -> None:
    """The row of weights can be rebuilt from the drawn values and indexes."""
    said = words(lab08.two_of_four())
    numbers = [text for text in said[1:] if re.fullmatch(r"-?[\d.]+", text)]
    dense, stored = [float(text) for text in numbers[:8]], numbers[8:]
    again = [0.0] * 8
    for place, (value, index) in enumerate(zip(stored[::2], stored[1::2], strict=True)):
        again[4 * (place // 2) + int(index, 2)] = float(value)
    assert again == dense


@pytest.mark.parametrize(("tensor", "stages"), [(4, 2), (1, 3)])
def test_a_division_has_a_box_for_each_gpu(tensor: int, stages: int) -> None:
    figure = lab08.division(tensor, stages)
    assert len(boxes(figure)) == tensor * stages
    assert words(figure)[0] == f"TP {tensor} x PP {stages}: {tensor * stages} GPUs"
