"""Assembles a tensor from rectangles in several files, some of them transposed. All sharded formats use this module."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from labkit.checkpoints.tensor_file import BLOCK_BYTES, TensorFile
from labkit.errors import CheckpointError


@dataclass(frozen=True)
class Piece:
    """A rectangle of a tensor, and its place in a file.

    rows, columns: the rectangle in the tensor; columns is None if the tensor has one dimension. first_row, first_column: where
    the rectangle begins in the file's entry. transposed: whether the rows of the entry are columns of the tensor.
    """

    file: TensorFile
    entry: str
    rows: slice
    columns: slice | None = None
    first_row: int = 0
    first_column: int = 0
    transposed: bool = False


def read_pieces(pieces: Iterable[Piece], rows: slice, columns: slice | None, target: Tensor) -> None:
    """Copy the given rows (and columns) of the tensor that the pieces form to `target`.

    Only the files that hold these rows and columns are opened.

    The slices have no negative ends and no step. Raises a `CheckpointError` that names the file if a file is gone or too short.
    """
    for piece in pieces:
        wanted_rows = _overlap(piece.rows, rows)
        if wanted_rows is None:
            continue
        try:
            if piece.columns is None:
                _read_vector(piece, wanted_rows, _part(target, wanted_rows, rows))
                continue
            asked = columns or slice(0, piece.columns.stop)
            wanted_columns = _overlap(piece.columns, asked)
            if wanted_columns is not None:
                part = _part(target, wanted_rows, rows)[:, _shifted(wanted_columns, asked.start)]
                (_read_transposed if piece.transposed else _read_plain)(piece, wanted_rows, wanted_columns, part)
        except OSError as error:
            raise CheckpointError(
                f"cannot read {piece.file.path}, which existed when the checkpoint was opened: {error}"
            ) from error


def _overlap(one: slice, other: slice) -> slice | None:
    both = slice(max(one.start, other.start), min(one.stop, other.stop))
    return both if both.start < both.stop else None


def _shifted(part: slice, by: int) -> slice:
    return slice(part.start - by, part.stop - by)


def _part(target: Tensor, wanted: slice, asked: slice) -> Tensor:
    return target[_shifted(wanted, asked.start)]


def _read_vector(piece: Piece, wanted: slice, part: Tensor) -> None:
    piece.file.read(piece.entry, _shifted(wanted, piece.rows.start - piece.first_row), None, part)


def _read_plain(piece: Piece, rows: slice, columns: slice, part: Tensor) -> None:
    assert piece.columns is not None
    stored_rows = _shifted(rows, piece.rows.start - piece.first_row)
    stored_columns = _shifted(columns, piece.columns.start - piece.first_column)
    whole = stored_columns == slice(0, piece.file.entries[piece.entry].shape[1]) and part.is_contiguous()
    piece.file.read(piece.entry, stored_rows, None if whole else stored_columns, part)


def _read_transposed(piece: Piece, rows: slice, columns: slice, part: Tensor) -> None:
    """Read a transposed piece in blocks, so that no second tensor of its size is in memory."""
    assert piece.columns is not None
    dtype = piece.file.entries[piece.entry].dtype
    stored_columns = _shifted(rows, piece.rows.start - piece.first_column)
    first = columns.start - piece.columns.start + piece.first_row
    length, width = part.shape[1], part.shape[0]
    step = max(1, BLOCK_BYTES // (width * dtype.itemsize))
    for begin in range(0, length, step):
        block = torch.empty(min(step, length - begin), width, dtype=dtype, device="cpu")
        piece.file.read(piece.entry, slice(first + begin, first + begin + len(block)), stored_columns, block)
        part[:, begin : begin + len(block)] = block.T
