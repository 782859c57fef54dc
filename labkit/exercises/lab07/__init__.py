"""Lab 07, graph compilers: what they fuse and what fusion saves, where to cut a model, and how to serve its parts together."""

from labkit.exercises.lab07.choosing import CHOOSE_COMPILER
from labkit.exercises.lab07.cutting import BEST_SEAM, CROSSING_TENSORS
from labkit.exercises.lab07.fusing import BYTES_SAVED, FUSIBLE_GROUP
from labkit.exercises.lab07.pipelining import PIPELINED_RATE
from labkit.exercises.lab07.wiring import PART_MAPS

EXERCISES = (
    FUSIBLE_GROUP,
    BYTES_SAVED,
    CROSSING_TENSORS,
    BEST_SEAM,
    PART_MAPS,
    PIPELINED_RATE,
    CHOOSE_COMPILER,
)
"""All exercises of the lab, in order."""
