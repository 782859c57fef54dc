"""Lab 04, Triton deployment: stages, an ensemble, batching, streaming and failures, on NVIDIA's real server."""

from labkit.exercises.lab04.choosing import CHOOSE_BATCHING
from labkit.exercises.lab04.config import STAGE_CONFIG
from labkit.exercises.lab04.ensemble import ENSEMBLE_MAPS
from labkit.exercises.lab04.failure import KEEP_ALIVE
from labkit.exercises.lab04.metrics import READ_METRICS
from labkit.exercises.lab04.prompts import PAD_PROMPTS, WORD_LISTS
from labkit.exercises.lab04.streaming import STREAM_TEXT
from labkit.exercises.lab04.texts_back import POSTPROCESS
from labkit.exercises.lab04.together import ANSWER_TOGETHER

EXERCISES = (
    STAGE_CONFIG,
    PAD_PROMPTS,
    WORD_LISTS,
    POSTPROCESS,
    ENSEMBLE_MAPS,
    STREAM_TEXT,
    ANSWER_TOGETHER,
    READ_METRICS,
    CHOOSE_BATCHING,
    KEEP_ALIVE,
)
"""All exercises of the lab, in order."""
