"""The speed ladders that learners handed in with their notebooks."""

from __future__ import annotations

from collections import Counter

from labkit.errors import InvalidRequest
from labkit.gradebook.board import Board, board_of
from labkit.gradebook.collect import Collected, Note
from labkit.measure.ladder_file import SharedLadder, read_ladder_file

MOST_OF_ONE = 4
"""The largest number of ladders that are read for one learner."""


def submitted_board(found: Collected) -> Board:
    """The board of all ladders in the submissions. A row has the name of the learner's folder, not the name in the file.

    A file that cannot be used gets a note in `found`.
    """
    ladders: list[tuple[str, SharedLadder]] = []
    counts: Counter[str] = Counter()
    for one in found.ladders:
        counts[one.learner] += 1
        try:
            if counts[one.learner] > MOST_OF_ONE:
                raise InvalidRequest(f"{one.path} is not read, because at most {MOST_OF_ONE} ladders of a learner are read")
            ladders.append((one.learner, read_ladder_file(one.path)))
        except InvalidRequest as error:
            found.notes.append(Note(one.learner, one.file, f"{error}.".replace(str(one.path), "The file")))
    return board_of(ladders)
