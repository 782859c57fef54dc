"""Lab 04, Triton deployment: stages, an ensemble, batches, streams and failures in NVIDIA's real server."""

from labkit.exercises.lab04.config import STAGE_CONFIG
from labkit.exercises.lab04.ensemble import ENSEMBLE_MAPS
from labkit.exercises.lab04.prompts import PAD_PROMPTS, WORD_LISTS
from labkit.exercises.lab04.texts_back import POSTPROCESS
from labkit.exercises.lab04.together import ANSWER_TOGETHER

EXERCISES = (STAGE_CONFIG, PAD_PROMPTS, WORD_LISTS, POSTPROCESS, ENSEMBLE_MAPS, ANSWER_TOGETHER)
"""All exercises of the lab, in order."""
