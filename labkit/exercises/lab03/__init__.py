"""Lab 03, Tensor and pipeline parallelism: real processes share a model, and every byte that they send is counted."""

from labkit.exercises.lab03.block import PARALLEL_BLOCK, SHARD_LAYER
from labkit.exercises.lab03.column_and_row import SPLIT_COLUMNS, SPLIT_ROWS
from labkit.exercises.lab03.counting import CHOOSE_LAYOUT, STEP_TRAFFIC
from labkit.exercises.lab03.pipeline import PIPELINE_SCHEDULE, PIPELINE_STAGE
from labkit.exercises.lab03.vocabulary import SHARDED_ARGMAX

EXERCISES = (
    SPLIT_COLUMNS,
    SPLIT_ROWS,
    SHARD_LAYER,
    PARALLEL_BLOCK,
    SHARDED_ARGMAX,
    STEP_TRAFFIC,
    PIPELINE_STAGE,
    PIPELINE_SCHEDULE,
    CHOOSE_LAYOUT,
)
"""All exercises of the lab, in order."""
