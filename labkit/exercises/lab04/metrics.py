"""Exercise 4.8: compute, from two readings of the server's counters, what happened between the readings."""

from __future__ import annotations

import random

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise

SUCCESS, ITEMS, RUNS = "nv_inference_request_success", "nv_inference_count", "nv_inference_exec_count"
QUEUE, COMPUTE = "nv_inference_queue_duration_us", "nv_inference_compute_infer_duration_us"

FAMILIES = {
    SUCCESS: "Number of successful inference requests, all batch sizes",
    ITEMS: "Number of inferences performed (does not include cached requests)",
    RUNS: "Number of model executions performed (does not include cached requests)",
    "nv_inference_request_duration_us": "Cumulative inference request duration in microseconds (includes cached requests)",
    QUEUE: "Cumulative inference queuing duration in microseconds (includes cached requests)",
    COMPUTE: "Cumulative compute inference duration in microseconds (does not include cached requests)",
}


def scrape(counts: dict[str, dict[str, float]]) -> str:
    """The text that the server would show at /metrics. `counts[model][counter]` is the value of a counter."""
    lines = []
    for family, words in FAMILIES.items():
        lines += [f"# HELP {family} {words}", f"# TYPE {family} counter"]
        lines += [f'{family}{{model="{model}",version="1"}} {of[family]:g}' for model, of in counts.items()]
    return "\n".join([*lines, "# HELP nv_cpu_utilization CPU utilization rate [0.0 - 1.0]", "nv_cpu_utilization 0.25", ""])


def _cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    cases: list[Case] = []
    for label, models in {
        "one model": ["batched"],
        "three models": ["ensemble", "gptj", "batched"],
        "names that begin alike": ["gptj_small", "gptj", "gptj_large"],
    }.items():
        counts = {model: _counts(draw) for model in models}
        later = {
            model: {family: count + more[family] for family, count in counts[model].items()}
            for model in models
            for more in [_counts(draw)]
        }
        asked = models[len(models) // 2]
        cases.append(Case(f"{label}, asked for {asked}", (scrape(counts), scrape(later), asked)))
    idle = {"batched": _counts(draw), "gptj": _counts(draw)}
    cases.append(Case("a model that did nothing in between", (scrape(idle), scrape(idle), "gptj")))
    return cases


def _counts(draw: random.Random) -> dict[str, float]:
    runs = draw.randint(20, 90)
    requests = runs * draw.randint(2, 5) + draw.randint(1, 15)
    queue, compute = requests * draw.randint(300, 900), requests * draw.randint(1000, 2000)
    return {
        SUCCESS: requests,
        ITEMS: requests + draw.randint(20, 100),
        RUNS: runs,
        "nv_inference_request_duration_us": queue + compute + requests * 7,
        QUEUE: queue,
        COMPUTE: compute,
    }


READ_METRICS = Exercise(
    name="lab04.read_metrics",
    lab="04",
    number="4.8",
    title="Read the server's counters",
    function="read_metrics",
    statement=(
        "`before` and `after` are the texts of `/metrics` at two times. Return `(queue seconds, batch)` of `model` for the "
        "time between them: how long a **request** waited on average, and how many **inferences** one execution had on "
        "average. The counters start at the server's start; `_us` means microseconds. One request can contain several "
        "inferences. A line "
        'looks like `nv_inference_count{model="gptj",version="1"} 6`; the lines for your load are above. '
        "If nothing ran in between, return `(0, 0)`."
    ),
    points=6,
    minutes=20,
    difficulty=2,
    cases=_cases,
    hints=(
        "Write a small function first: it returns the value of one counter of one model in one text. You need this value for "
        "3 or 4 counters, twice each.",
        'A line is name{model="gptj",version="1"} value. It begins with the counter and the model; its last word is the value.',
        "Subtract `before` from `after` for each counter. Waiting: nv_inference_queue_duration_us / "
        "nv_inference_request_success / 1e6. Batch: nv_inference_count / nv_inference_exec_count.",
    ),
)
