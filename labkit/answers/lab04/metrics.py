"""The answer to exercise 4.8: reference, comparison and known mistakes."""

from __future__ import annotations

import re
from typing import Any

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab04.metrics import COMPUTE, FAMILIES, ITEMS, QUEUE, READ_METRICS, RUNS, SUCCESS


def read_metrics(before: str, after: str, model: str) -> tuple[float, float]:
    """The reference solution of exercise 4.8."""
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


READ_METRICS_ANSWER = Answer(
    exercise=READ_METRICS,
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
        Mistake("You take the compute time; the time in the queue is nv_inference_queue_duration_us.", _compute),
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
)

ANSWERS = (READ_METRICS_ANSWER,)
