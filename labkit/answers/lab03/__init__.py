"""The answers to the exercises of lab 03."""

from labkit.answers.lab03 import block, column_and_row, counting, pipeline, vocabulary

ANSWERS = (*block.ANSWERS, *column_and_row.ANSWERS, *counting.ANSWERS, *pipeline.ANSWERS, *vocabulary.ANSWERS)
"""All answers of the lab."""
