"""Compares predictions with the published tables: fits the rows of one model or GPU, and predicts all other rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from labkit.planning.efficiencies import Efficiencies
from labkit.planning.fit import Fit
from labkit.planning.lecture_table import LectureRow, lecture_rows
from labkit.planning.published import (
    FASTERTRANSFORMER,
    FUSED_ATTENTION,
    TENSORRT_LLM,
    Checked,
    Row,
    check_against,
    check_memory,
    fastertransformer,
    tensorrt_llm,
)

FITTED_MODEL = "gpt-20b"
"""The fit uses FasterTransformer's rows of this model, because it is the only model with TP 1, 2, 4 and 8."""
FITTED_GPU = "a100-80gb"
"""The fit uses TensorRT-LLM's rows of this GPU."""


@dataclass(frozen=True)
class Part:
    """One published table, compared with predictions."""

    title: str
    source: str
    rows: tuple[Row, ...]
    found: Fit
    checked: list[Checked]
    fitted: Callable[[Row], bool]

    def errors(self) -> list[float]:
        """Relative errors of all rows that were not fitted."""
        predicted = [row for row in self.rows if row.seconds is not None and not self.fitted(row)]
        return [self.found.predict(row.plan, row.what).seconds / row.seconds - 1 for row in predicted if row.seconds]

    def summary(self) -> str:
        """Return a short text with the median and the worst error of the rows that were not fitted, and the source."""
        found = self.errors()
        worst = max(found, key=abs)
        return (
            f"{len(found)} rows predicted: median error {100 * float(np.median(np.abs(found))):.1f} %, worst "
            f"{100 * worst:+.0f} %. Source: {self.source}."
        )


@dataclass(frozen=True)
class Report:
    """All comparisons with published figures."""

    parts: list[Part]
    lecture: list[LectureRow]
    memory_errors: list[float]
    memory_right: int
    memory_rows: int

    def lecture_errors(self) -> list[float]:
        """Relative errors of the smallest and the largest latencies in the lecture's table."""
        pairs = [(row.predicted_least, row.least) for row in self.lecture]
        pairs += [(row.predicted_largest, row.largest) for row in self.lecture]
        return [predicted / given - 1 for predicted, given in pairs]

    def lecture_summary(self) -> str:
        """Return a sentence with the median and the worst error of the predictions of the lecture's table."""
        found = self.lecture_errors()
        return (
            f"{len(found)} figures predicted with the first fit: median error {100 * float(np.median(np.abs(found))):.1f} %, "
            f"worst {100 * max(found, key=abs):+.0f} %."
        )

    def memory_summary(self) -> str:
        """Return a sentence with the errors of the predicted memory."""
        wrong = self.memory_errors
        return (
            f"Memory: {len(wrong)} rows, median error {100 * float(np.median(np.abs(wrong))):.1f} %, worst "
            f"{100 * max(wrong, key=abs):+.0f} %; the prediction of whether a model fits was right for {self.memory_right} of "
            f"{self.memory_rows} rows."
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        tables = []
        for part in self.parts:
            found = part.errors()
            tables.append(
                {
                    "title": part.title,
                    "source": part.source,
                    "groups": [asdict(one) for one in part.checked],
                    "predicted_rows": len(found),
                    "median_error": float(np.median(np.abs(found))),
                    "worst_error": max(found, key=abs),
                    "efficiencies": part.found.found.to_dict(),
                }
            )
        lecture = self.lecture_errors()
        return {
            "tables": tables,
            "lecture": {
                "rows": [asdict(row) for row in self.lecture],
                "median_error": float(np.median(np.abs(lecture))),
                "worst_error": max(lecture, key=abs),
            },
            "memory": {
                "rows": len(self.memory_errors),
                "median_error": float(np.median(np.abs(self.memory_errors))),
                "worst_error": max(self.memory_errors, key=abs),
                "fits_right": self.memory_right,
                "fits_rows": self.memory_rows,
            },
        }


def _part(
    title: str, source: str, rows: Sequence[Row], fitted: Callable[[Row], bool], start: Efficiencies | None = None
) -> Part:
    found, checked = check_against(rows, fitted, start)
    return Part(title, source, tuple(rows), found, checked, fitted)


def validate(fitted_model: str = FITTED_MODEL) -> Report:
    """Compare predictions with the tables of FasterTransformer, TensorRT-LLM and the lecture.

    `fitted_model`: the model in FasterTransformer's tables whose rows are used for the fit.
    """
    first = _part(
        f"FasterTransformer, fitted to {fitted_model}",
        FASTERTRANSFORMER,
        fastertransformer(),
        lambda row: row.plan.shape.name == fitted_model,
    )
    second = _part(
        f"TensorRT-LLM GPT-J 6B, fitted to {FITTED_GPU}",
        TENSORRT_LLM,
        tensorrt_llm(),
        lambda row: row.plan.device.name == FITTED_GPU,
        FUSED_ATTENTION,
    )
    wrong, right, count = check_memory(fastertransformer())
    return Report([first, second], lecture_rows(first.found), wrong, right, count)
