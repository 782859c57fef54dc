"""Makes the measurements of lab 04: puts the learner's own models under load in the real server."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from labkit.exercises.lab04.deployment import Deployment
from labkit.exercises.lab04.streaming import prompt_inputs
from labkit.exercises.lab04.together import job_inputs
from labkit.exercises.stubs.stages import Job
from labkit.measure import Contention, Ratio, Timing, progress_bar, ratio
from labkit.measure.disturbed import disturbed_note, of_most
from labkit.measure.timing import too_noisy
from labkit.serving.channels import client_library, grpc_client, open_url
from labkit.serving.metrics import parse_metrics
from labkit.serving.server.probes import as_input

Together = Callable[..., Any]
CLOSED_SECONDS, TURNS = 0.5, 3
"""The seconds of one turn, and the number of turns for each kind of serving. The compared kinds of serving take turns."""
COUNTED_SECONDS, OPEN_SECONDS, TRADE_SECONDS = 1.0, 2.0, 1.2
LATE_SHARE = 0.1
"""A load counts as disturbed if more than this fraction of its requests are sent late."""
SHORT, LONG = 8, 96
"""The number of new tokens of a short request and of a long request in a mixed load."""
LARGEST = 16


@dataclass
class Answered:
    """One request and the times of its answer, in seconds. The request was sent at `sent`; the first piece of the answer
    arrived at `first`, and the last piece at `ended`.

    `batch` is the number of the batch into which the server put the request (0 for no batch). `turn` is the number of the turn
    of the measurement in which the request was sent. `disturbed` says how other programs disturbed this turn; "" if they did
    not disturb it.
    """

    sent: float
    job: Job
    first: float = 0.0
    ended: float = 0.0
    batch: int = 0
    turn: int = 0
    error: str = ""
    pieces: int = field(default=0)
    disturbed: str = ""

    @property
    def seconds(self) -> float:
        """The seconds from the sending of the request to the end of its answer."""
        return self.ended - self.sent


def prompt(number: int) -> str:
    """A prompt that differs for each `number`."""
    return f"Chapter {number}. In the beginning of the {number}th winter the ship"


def scrape(deployment: Deployment) -> str:
    """Read the text of the server's metrics (/metrics)."""
    with open_url(deployment.metrics, timeout=5.0) as answer:
        return str(answer.read().decode())


def closed_load(
    deployment: Deployment, model: str, clients: int, new_tokens: int, seconds: float, turn: int = 0
) -> list[Answered]:
    """For the given number of seconds, let each client send its next request as soon as its previous request is answered.
    Returns all requests.
    """
    answers: list[Answered] = []
    until = time.perf_counter() + seconds

    def run(number: int) -> None:
        sent = 0
        while time.perf_counter() < until:
            job = prompt(1000 * number + sent), new_tokens
            one = Answered(time.perf_counter(), job, turn=turn)
            deployment.server.ask(model, job_inputs([job]), seconds=60.0)
            one.ended = time.perf_counter()
            answers.append(one)
            sent += 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    with Contention() as others:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return [replace(one, disturbed=others.words) for one in answers]


def open_load(deployment: Deployment, model: str, jobs: Sequence[Job], gap: float, turn: int = 0) -> list[Answered]:
    """Send one job every `gap` seconds over one stream, without waiting for answers.

    Returns the requests that were answered, once the last answer has arrived.
    """
    answers: dict[str, Answered] = {}
    done = threading.Event()
    left = [len(jobs)]

    def take(result: Any, error: Any) -> None:
        now = time.perf_counter()
        if error is not None:
            left[0] = 0
            done.set()
            return
        response = result.get_response()
        one = answers[response.id]
        text = result.as_numpy("TEXT" if model != "gptj" else "text_output")
        if text is not None:
            one.first = one.first or now
            one.pieces += 1
            if (about := result.as_numpy("BATCH")) is not None:
                one.batch = int(about[0, 1])
        if response.parameters["triton_final_response"].bool_param:
            one.ended = now
            left[0] -= 1
            if not left[0]:
                done.set()

    with grpc_client(deployment.grpc) as client, Contention() as others:
        client.start_stream(take)
        begin = time.perf_counter()
        for number, job in enumerate(jobs):
            time.sleep(max(0.0, begin + number * gap - time.perf_counter()))
            answers[str(number)] = Answered(time.perf_counter(), job, turn=turn)
            client.async_stream_infer(model, _inputs(model, job), request_id=str(number), enable_empty_final_response=True)
        done.wait(60.0)
        client.stop_stream()
    return [replace(one, disturbed=others.words) for one in answers.values() if one.ended]


def _inputs(model: str, job: Job) -> list[Any]:
    if model == "gptj":
        more = as_input("ignore_eos", "BOOL", np.array([True]))
        return [*prompt_inputs(*job, stream=False), more]
    return [as_input(name, *given) for name, given in job_inputs([job]).items()]


def by_clients(
    deployment: Deployment, answer_together: Together, counts: Sequence[int], new_tokens: int = 32
) -> dict[str, list[list[Answered]]]:
    """Put the learner's batched engine under load, for each number of clients.

    Loads with dynamic batching and loads without dynamic batching take turns.
    """
    bar = progress_bar("loads")
    kinds = {"one request per batch": ("alone", None), "dynamic batching": ("batched", 0.0)}
    for model, delay in kinds.values():
        deployment.load_batched(model, answer_together, {"work": "engine"}, largest=LARGEST, delay=delay)
    found: dict[str, list[list[Answered]]] = {name: [[] for _ in counts] for name in kinds}
    for place, count in enumerate(counts):
        for turn in range(TURNS):
            bar(place * TURNS + turn, len(counts) * TURNS)
            for name, (model, _) in kinds.items():
                found[name][place] += closed_load(deployment, model, count, new_tokens, CLOSED_SECONDS, turn)
    deployment.server.unload("alone")
    bar(1, 1)
    say_if_disturbed(chain(*found.values()))
    return found


def turns(answers: Sequence[Answered]) -> list[list[Answered]]:
    """Split the requests by their turn in the measurement: one list for each turn, in order."""
    return [[one for one in answers if one.turn == turn] for turn in sorted({one.turn for one in answers})]


def disturbed(answers: Sequence[Answered]) -> str:
    """A message about how other programs disturbed most turns of a load; "" if they did not disturb them."""
    return of_most([turn[0].disturbed for turn in turns(answers)])


def caption(text: str, kinds: Mapping[str, Sequence[Sequence[Answered]]]) -> str:
    """Make `text` the caption of a figure of several kinds of loads. If other programs disturbed a load, a note is added."""
    return "\n".join(filter(None, [text, disturbed_note(map(disturbed, chain(*kinds.values())))]))


def say_if_disturbed(loads: Iterable[Sequence[Answered]]) -> None:
    """If other programs disturbed one of the loads, print a note that says how, and how to measure again."""
    if note := disturbed_note(map(disturbed, loads)):
        print(note)


def _tokens_per_second(answers: Sequence[Answered]) -> float:
    took = max(one.ended for one in answers) - min(one.sent for one in answers)
    return sum(one.job[1] for one in answers) / took


def tokens_per_second(answers: Sequence[Answered]) -> float:
    """The new tokens per second, as the median over the turns.

    In each turn, the number of new tokens is divided by the seconds from the first request to the last answer.
    """
    return statistics.median(map(_tokens_per_second, turns(answers)))


def gain(before: Sequence[Answered], after: Sequence[Answered]) -> Ratio:
    """The ratio of tokens per second, `after` divided by `before`; each turn gives one ratio."""
    slow, fast = (
        Timing(tuple(1 / _tokens_per_second(turn) for turn in turns(load)), disturbed(load)) for load in (before, after)
    )
    return ratio(slow, fast)


def latency_ratio(slow: Sequence[Answered], fast: Sequence[Answered]) -> Ratio:
    """The ratio of the median latencies, `slow` divided by `fast`; each turn gives one ratio."""
    medians = (Timing(tuple(latency(turn, 0.5) for turn in turns(load)), disturbed(load)) for load in (slow, fast))
    return ratio(*medians)


def warning(answers: Sequence[Answered], gap: float) -> str:
    """A warning if other programs disturbed a load, or if many requests were sent later than planned (one every `gap` seconds);
    otherwise "".
    """
    begin = min(one.sent for one in answers)
    late = sum(one.sent - begin - number * gap > gap / 2 for number, one in enumerate(answers)) / len(answers)
    why = disturbed(answers) or (f"{late:.0%} of the requests could not be sent in time" if late > LATE_SHARE else "")
    return too_noisy(why) if why else ""


def latency(answers: Sequence[Answered], share: float) -> float:
    """The number of seconds within which the fraction `share` of the requests was answered."""
    return float(np.quantile([one.seconds for one in answers], share))


def piece_times(deployment: Deployment, stream_text: Callable[..., Any], new_tokens: int) -> tuple[list[float], Ratio]:
    """Measure when the learner's client yields each piece of a text, in seconds since it sent the request to `gptj`.

    Also returns the time of the first piece divided by the time of the last piece. There are four runs. The first run is a
    warm-up, the times come from the last run, and the ratio comes from the last three runs.
    """
    runs = []
    with Contention() as others:
        for _ in range(1 + TURNS):
            begin = time.perf_counter()
            inputs = prompt_inputs(prompt(0), new_tokens)
            runs.append([time.perf_counter() - begin for _ in stream_text(deployment.client, "gptj", inputs)])
    first, last = (Timing(tuple(came[place] for came in runs[1:]), others.words) for place in (0, -1))
    return runs[-1], ratio(first, last)


def queue_and_batch(before: str, after: str, model: str) -> tuple[float, float]:
    """Compute, from two texts of /metrics, the mean number of seconds that a request was in the queue, and the mean number of
    inferences per execution.
    """
    counts = (parse_metrics(after) - parse_metrics(before)).model(model)
    return counts.seconds["queue"] / counts.requests if counts.requests else 0.0, counts.mean_batch


def one_job() -> list[Any]:
    """Make the input tensors of a request that asks a batched model for 6 tokens."""
    return _inputs("batched", ("alive?", 6))


def said_by(deployment: Deployment, model: str) -> str:
    """The answer of a batched model to `one_job`: the text, or the message of the error."""
    try:
        return str(deployment.client.infer(model, one_job(), client_timeout=5.0).as_numpy("TEXT"))
    except client_library().InferenceServerException as error:
        return str(error)


def batch_sizes(deployment: Deployment, model: str, clients: int) -> dict[str, int]:
    """Read from the server how many executions had 1 inference, 2 inferences and so on while `clients` clients sent requests."""
    before = _batches(deployment, model)
    say_if_disturbed([closed_load(deployment, model, clients, 32, COUNTED_SECONDS)])
    after = _batches(deployment, model)
    return {str(size): after.get(size, 0) - before.get(size, 0) for size in range(1, clients + 1)}


def _batches(deployment: Deployment, model: str) -> dict[int, int]:
    statistics = deployment.client.get_inference_statistics(model).model_stats
    return {int(one.batch_size): int(one.compute_infer.count) for one in statistics[0].batch_stats}


def run_plan(
    deployment: Deployment,
    answer_together: Together,
    plan: tuple[int, int, float, float],
    rate: float,
    first: float,
    more: float,
) -> tuple[list[Answered], str, str]:
    """Load a model that sleeps for the computing time of the plan, and send requests to it at equal intervals.

    Returns the requests, and the text of the server's metrics before and after the load.
    """
    copies, batch, delay, _ = plan
    work = {"work": "sleep", "first": str(first), "more": str(more)}
    deployment.load_batched("planned", answer_together, work, largest=batch, copies=copies, delay=delay)
    jobs = [(prompt(number), 1) for number in range(int(OPEN_SECONDS * rate))]
    before = scrape(deployment)
    bar = progress_bar("load")
    bar(0, 1)
    answers = open_load(deployment, "planned", jobs, 1 / rate)
    bar(1, 1)
    say_if_disturbed([answers])
    return answers, before, scrape(deployment)


def rates_for(loads: Sequence[Sequence[Answered]]) -> list[float]:
    """Choose rates for a mixed load, in requests per second.

    The rates are 25, 50 and 90 % of the highest rate that one of these loads achieved.
    """
    tokens = (3 * SHORT + LONG) / 4
    most = max(tokens_per_second(one) for one in loads) / tokens
    return [max(1.0, float(round(share * most))) for share in (0.25, 0.5, 0.9)]


def mixed_jobs(count: int) -> list[Job]:
    """Make jobs for a mixed load: every fourth job is long, and all other jobs are short."""
    return [(prompt(number), LONG if number % 4 == 0 else SHORT) for number in range(count)]


def mixed_load(
    deployment: Deployment, answer_together: Together, count: int = 16, gap: float = 0.02
) -> dict[str, list[Answered]]:
    """Send long and short requests to the same engine in two ways, which take turns.

    In one way the server combines requests into batches (dynamic batching); in the other way the engine uses in-flight
    batching.
    """
    deployment.load_batched("batched", answer_together, {"work": "engine"}, largest=LARGEST, delay=0.0)
    kinds = {"dynamic batching": "batched", "in-flight batching": "gptj"}
    found: dict[str, list[Answered]] = {name: [] for name in kinds}
    bar = progress_bar("loads")
    for model in kinds.values():
        open_load(deployment, model, mixed_jobs(4), gap)
    for turn in range(TURNS):
        for place, (name, model) in enumerate(kinds.items()):
            bar(2 * turn + place, 2 * TURNS)
            found[name] += open_load(deployment, model, mixed_jobs(count), gap, turn)
    bar(1, 1)
    say_if_disturbed(found.values())
    return found


def bars(answers: Sequence[Answered]) -> dict[str, list[tuple[int, float, float]]]:
    """A timeline of one turn of `mixed_load`, with one row for each request. A bar goes from the sending of the request to the
    end of its answer.

    The number in a bar is the number of the request's batch, counted from 1. If the server made no batches, the bar has the
    number of the request.
    """
    begin = min(one.sent for one in answers)
    earlier = min(one.batch for one in answers) - 1
    return {
        f"{number}: {one.job[1]} tokens": [(one.batch - earlier if one.batch else number, one.sent - begin, one.seconds)]
        for number, one in enumerate(answers, 1)
    }


def longest(loads: Iterable[Sequence[Answered]]) -> float:
    """The number of seconds that the longest of these loads took, from the first request to the last answer."""
    return max(max(one.ended for one in load) - min(one.sent for one in load) for load in loads)


def trade_off(
    deployment: Deployment, answer_together: Together, rates: Sequence[float], delays: Sequence[float] = (0.0, 0.1)
) -> dict[str, list[list[Answered]]]:
    """Send a mixed load at each rate: with dynamic batching for each delay, and with in-flight batching."""
    found: dict[str, list[list[Answered]]] = {}
    bar = progress_bar("loads")
    load = partial(deployment.load_batched, "batched", answer_together, {"work": "engine"}, largest=LARGEST)
    kinds: dict[str, float | None] = {f"dynamic batching, delay {1e3 * delay:g} ms": delay for delay in delays}
    for place, (name, delay) in enumerate((kinds | {"in-flight batching": None}).items()):
        if delay is not None:
            load(delay=delay)
        model = "gptj" if delay is None else "batched"
        open_load(deployment, model, mixed_jobs(4), 0.02)
        found[name] = []
        for number, rate in enumerate(rates):
            bar(place * len(rates) + number, (len(delays) + 1) * len(rates))
            found[name].append(open_load(deployment, model, mixed_jobs(int(TRADE_SECONDS * rate)), 1 / rate))
    bar(1, 1)
    say_if_disturbed(chain(*found.values()))
    return found
