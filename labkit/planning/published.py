"""The published tables that come with labkit, and comparisons of predictions with them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from labkit.errors import InvalidRequest
from labkit.planning.catalogue import named_gpu
from labkit.planning.deployment import Deployment
from labkit.planning.efficiencies import Efficiencies
from labkit.planning.fit import Fit, Measurement, errors, fit
from labkit.planning.memory import fits, memory_of
from labkit.planning.named_shapes import named_shape

FOLDER = Path(__file__).parent / "published"
FASTERTRANSFORMER = "FasterTransformer GPT tables (docs/gpt_guide.md; A100 80GB, NVSwitch, fp16, top_p 0.9)"
TENSORRT_LLM = "TensorRT-LLM GPT-J 6B tables (docs/source/performance.md, v0.5.0 and v0.6.1)"
COLUMNS = ("model", "gpu", "tensor_parallel", "pipeline_parallel", "input_tokens", "output_tokens", "batch", "latency_ms")
OUT_OF_MEMORY = "OOM"
FUSED_ATTENTION = Efficiencies(score_passes=0.5)
"""Typical values for TensorRT-LLM.

Its tables were measured with fused attention (`--enable_context_fmha`), in which the scores of a prefill are hardly ever moved
to memory.
"""


@dataclass(frozen=True)
class Row:
    """One row of a table. `seconds` is None if the run had too little memory; `memory_bytes` is None if it is not given."""

    plan: Deployment
    seconds: float | None
    memory_bytes: float | None = None
    what: str = "request"

    @property
    def group(self) -> str:
        """The name of the row's group, which consists of the model, the GPU and the layout."""
        plan = self.plan
        return f"{plan.shape.name}, {plan.device.name}, TP {plan.tensor_parallel} x PP {plan.pipeline_parallel}"


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a CSV file with the columns of `COLUMNS`.

    The file may also have the columns `precision`, `cache_precision`, `what` (request, prefill or decode) and `memory_gb`
    (GiB).

    Raises an `InvalidRequest` that names the file and the line, for a file or a row that is not valid.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
                raise InvalidRequest(f"{path} lacks the columns {', '.join(missing)}; it needs {', '.join(COLUMNS)}")
            return [_row(path, number, values) for number, values in enumerate(reader, 2)]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"cannot read {path} as a table of measurements: {error}") from error


def _row(path: Path, line: int, values: dict[str, str]) -> Row:
    try:
        plan = Deployment(
            named_shape(values["model"]),
            named_gpu(values["gpu"]),
            tensor_parallel=int(values["tensor_parallel"]),
            pipeline_parallel=int(values["pipeline_parallel"]),
            precision=values.get("precision") or "fp16",
            batch=int(values["batch"]),
            input_tokens=int(values["input_tokens"]),
            output_tokens=int(values["output_tokens"]),
            cache_precision=values.get("cache_precision") or "",
        )
        taken = values["latency_ms"]
        memory = values.get("memory_gb")
        seconds = None if taken == OUT_OF_MEMORY else float(taken) / 1e3
        if seconds is not None and not 0 < seconds < float("inf"):
            raise InvalidRequest(f"latency_ms is {taken}; a number above 0, or {OUT_OF_MEMORY}, is accepted")
        what = values.get("what") or "request"
        if what not in ("request", "prefill", "decode"):
            raise InvalidRequest(f"what is {what!r}; request, prefill or decode is accepted")
        return Row(plan, seconds, float(memory) * 2**30 if memory else None, what)
    except (ValueError, TypeError) as error:
        raise InvalidRequest(f"{path}, line {line}: {error}") from error


@cache
def fastertransformer() -> tuple[Row, ...]:
    """The tables of FasterTransformer's GPT guide: 350M to 530B, TP 1 to 32, PP 1 and 3, batch sizes 1 to 256."""
    return tuple(read_rows(FOLDER / "fastertransformer_gpt.csv"))


@cache
def tensorrt_llm() -> tuple[Row, ...]:
    """The tables of TensorRT-LLM for GPT-J 6B on H100, A100 and L40S."""
    return tuple(read_rows(FOLDER / "tensorrt_llm_gptj.csv"))


def measurements(rows: Sequence[Row], keep: Callable[[Row], bool] = lambda row: True) -> list[Measurement]:
    """The rows that have a time, as measurements."""
    return [Measurement(row.plan, row.seconds, row.what) for row in rows if row.seconds is not None and keep(row)]


@cache
def default_fit() -> Fit:
    """The fit to all rows of FasterTransformer's tables. Its spread is the error on models that were left out of a fit."""
    return Fit.from_dict(json.loads((FOLDER / "fastertransformer_fit.json").read_text("utf-8")))


@dataclass(frozen=True)
class Checked:
    """How well one group of rows was predicted. `fitted`: whether its rows were used for the fit. Errors are relative."""

    group: str
    rows: int
    fitted: bool
    median: float
    worst: float
    inside: float


def check_against(
    rows: Sequence[Row], fitted: Callable[[Row], bool], start: Efficiencies | None = None
) -> tuple[Fit, list[Checked]]:
    """Fit the rows that `fitted` accepts, and compare the predictions of all groups with their rows.

    `median` is the median of the absolute errors. `worst` is the error that is furthest from 0. `inside` is the share of rows
    within the interval of their prediction.
    """
    found = fit(measurements(rows, fitted), start=start)
    checked = []
    for group in dict.fromkeys(row.group for row in rows):
        mine = [row for row in rows if row.group == group and row.seconds is not None]
        wrong = errors(found, measurements(mine))
        inside = [_inside(found, row) for row in mine]
        worst = max(wrong, key=abs)
        checked.append(
            Checked(group, len(mine), fitted(mine[0]), float(np.median(np.abs(wrong))), worst, float(np.mean(inside)))
        )
    return found, checked


def _inside(found: Fit, row: Row) -> bool:
    predicted = found.predict(row.plan, row.what)
    return row.seconds is not None and predicted.low <= row.seconds <= predicted.high


def check_memory(rows: Sequence[Row]) -> tuple[list[float], int, int]:
    """Return the relative errors of the memory, the number of right predictions of whether a model fits, and the row count."""
    given = [row for row in rows if row.memory_bytes is not None]
    wrong = [memory_of(row.plan).total / row.memory_bytes - 1 for row in given if row.memory_bytes]
    right = sum(fits(row.plan) == (row.seconds is not None) for row in rows)
    return wrong, right, len(rows)
