"""Exercise 4.8: what happened between two readings of the server's counters."""

from __future__ import annotations

import random
import re
from typing import Any

from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.exercise import Exercise, Mistake

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


def read_metrics(before: str, after: str, model: str) -> tuple[float, float]:
    """The reference of exercise 4.8."""
    grown = _grown(before, after, model)
    return _share(grown[QUEUE] / 1e6, grown[SUCCESS]), _share(grown[ITEMS], grown[RUNS])


def _value(text: str, family: str, model: str) -> float:
    found = re.search(rf'^{family}{{model="{re.escape(model)}",[^}}]*}} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def _grown(before: str, after: str, model: str) -> dict[str, float]:
    return {family: _value(after, family, model) - _value(before, family, model) for family in FAMILIES}


def _share(one: float, other: float) -> float:
    return one / other if other else 0.0


def _since_start(before: str, after: str, model: str) -> Any:
    return read_metrics("", after, model)


def _microseconds(before: str, after: str, model: str) -> Any:
    queue, batch = read_metrics(before, after, model)
    return 1e6 * queue, batch


def _by_run(before: str, after: str, model: str) -> Any:
    grown = _grown(before, after, model)
    return _share(grown[QUEUE] / 1e6, grown[RUNS]), _share(grown[ITEMS], grown[RUNS])


def _by_item(before: str, after: str, model: str) -> Any:
    grown = _grown(before, after, model)
    return _share(grown[QUEUE] / 1e6, grown[ITEMS]), _share(grown[ITEMS], grown[RUNS])


def _requests_a_run(before: str, after: str, model: str) -> Any:
    grown = _grown(before, after, model)
    return _share(grown[QUEUE] / 1e6, grown[SUCCESS]), _share(grown[SUCCESS], grown[RUNS])


def _compute(before: str, after: str, model: str) -> Any:
    grown = _grown(before, after, model)
    return _share(grown[COMPUTE] / 1e6, grown[SUCCESS]), _share(grown[ITEMS], grown[RUNS])


def _whole_request(before: str, after: str, model: str) -> Any:
    grown = _grown(before, after, model)
    return _share(grown["nv_inference_request_duration_us"] / 1e6, grown[SUCCESS]), _share(grown[ITEMS], grown[RUNS])


def _first_model(before: str, after: str, model: str) -> Any:
    first = re.search(r'model="([^"]+)"', after)
    return read_metrics(before, after, first[1] if first else model)


def _all_models(before: str, after: str, model: str) -> Any:
    names = set(re.findall(r'model="([^"]+)"', after))
    grown = [_grown(before, after, name) for name in names]
    sums = {family: sum(one[family] for one in grown) for family in FAMILIES}
    return _share(sums[QUEUE] / 1e6, sums[SUCCESS]), _share(sums[ITEMS], sums[RUNS])


def _total(before: str, after: str, model: str) -> Any:
    grown = _grown(before, after, model)
    return grown[QUEUE] / 1e6, _share(grown[ITEMS], grown[RUNS])


def _swapped(before: str, after: str, model: str) -> Any:
    queue, batch = read_metrics(before, after, model)
    return batch, queue


def scrape(counts: dict[str, dict[str, float]]) -> str:
    """The text that the server would write at /metrics. `counts` are given by model, then by counter."""
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
        "average. The counters start at the server's start; `_us` means microseconds. One request may contain several "
        "inferences. A line "
        'looks like `nv_inference_count{model="gptj",version="1"} 6`; the lines for your load are above. '
        "If nothing ran in between, return `(0, 0)`."
    ),
    points=6,
    minutes=20,
    difficulty=2,
    cases=_cases,
    reference=read_metrics,
    comparison=Comparison(relative=1e-3),
    names={"[0]": "the queue seconds", "[1]": "the batch"},
    mistakes=(
        Mistake("Your numbers count from the server's start: subtract the values in `before`.", _since_start),
        Mistake("Your waiting time is in microseconds; return it in seconds.", _microseconds),
        Mistake(
            "You divide the waiting time by executions, but each request waits: divide by successful requests.",
            _by_run,
        ),
        Mistake(
            "You divide the waiting time by inferences, but a request with several inferences waits only once: divide by "
            "successful requests.",
            _by_item,
        ),
        Mistake(
            "Your batch is requests per execution; return inferences per execution, from nv_inference_count.",
            _requests_a_run,
        ),
        Mistake("You take the time of the computation; the time in the queue is nv_inference_queue_duration_us.", _compute),
        Mistake(
            "You take the whole time of the requests, which includes the computation; the time in the queue is "
            "nv_inference_queue_duration_us.",
            _whole_request,
        ),
        Mistake('You read the first model in the text; look for the given name in model="...".', _first_model),
        Mistake("You add up all models; take only the lines of the given model.", _all_models),
        Mistake("You return the total waiting time of all requests; return the mean.", _total),
        Mistake("You return the batch first, but the queue seconds must come first.", _swapped),
    ),
    hints=(
        "Write a small function first: it returns the value of one counter of one model in one text. You need this value for "
        "3 or 4 counters, twice each.",
        'A line is name{model="gptj",version="1"} value. It begins with the counter and the model; its last word is the value.',
        "Subtract `before` from `after` for each counter. Waiting: nv_inference_queue_duration_us / "
        "nv_inference_request_success / 1e6. Batch: nv_inference_count / nv_inference_exec_count.",
    ),
)
