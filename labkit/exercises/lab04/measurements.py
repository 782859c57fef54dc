"""What the cells of lab 04 measure: the learner's own models under load, in the real server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from labkit.exercises.lab04.deployment import Deployment
from labkit.exercises.lab04.metrics import read_metrics
from labkit.exercises.lab04.streaming import prompt_inputs
from labkit.exercises.lab04.together import job_inputs
from labkit.exercises.stubs.stages import Job
from labkit.measure import progress_bar
from labkit.serving.channels import client_library, grpc_client, open_url
from labkit.serving.server.probes import as_input

Together = Callable[..., Any]
CLOSED_SECONDS = 1.0
OPEN_SECONDS, TRADE_SECONDS = 2.0, 1.2
SHORT, LONG = 8, 96
"""New tokens of the short and the long requests of a mixed load."""
LARGEST = 16


@dataclass
class Answered:
    """One request: when it was sent, when its first and its last piece came, in seconds; `batch` is that of a joined one."""

    sent: float
    job: Job
    first: float = 0.0
    ended: float = 0.0
    batch: int = 0
    error: str = ""
    pieces: int = field(default=0)

    @property
    def seconds(self) -> float:
        """From sending to the end."""
        return self.ended - self.sent


def prompt(number: int) -> str:
    """A prompt that no other request has."""
    return f"Chapter {number}. In the beginning of the {number}th winter the ship"


def scrape(deployment: Deployment) -> str:
    """The text of the server's metrics."""
    with open_url(deployment.metrics, timeout=5.0) as answer:
        return str(answer.read().decode())


def closed_load(deployment: Deployment, model: str, clients: int, new_tokens: int, seconds: float) -> list[Answered]:
    """Each of so many clients sends its next request when its last was answered; those answered in the time."""
    answers: list[Answered] = []
    until = time.perf_counter() + seconds

    def run(number: int) -> None:
        turn = 0
        while time.perf_counter() < until:
            job = prompt(1000 * number + turn), new_tokens
            one = Answered(time.perf_counter(), job)
            deployment.server.ask(model, job_inputs([job]), seconds=60.0)
            one.ended = time.perf_counter()
            answers.append(one)
            turn += 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def open_load(deployment: Deployment, model: str, jobs: Sequence[Job], gap: float) -> list[Answered]:
    """Send a job every `gap` seconds whatever is answered, over one stream; all when they are done."""
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

    with grpc_client(deployment.grpc) as client:
        client.start_stream(take)
        begin = time.perf_counter()
        for number, job in enumerate(jobs):
            time.sleep(max(0.0, begin + number * gap - time.perf_counter()))
            answers[str(number)] = Answered(time.perf_counter(), job)
            client.async_stream_infer(model, _inputs(model, job), request_id=str(number), enable_empty_final_response=True)
        done.wait(60.0)
        client.stop_stream()
    return [one for one in answers.values() if one.ended]


def _inputs(model: str, job: Job) -> list[Any]:
    if model == "gptj":
        more = as_input("ignore_eos", "BOOL", np.array([True]))
        return [*prompt_inputs(*job, stream=False), more]
    return [as_input(name, *given) for name, given in job_inputs([job]).items()]


def by_clients(
    deployment: Deployment, answer_together: Together, counts: Sequence[int], new_tokens: int = 32
) -> dict[str, list[list[Answered]]]:
    """The learner's batched engine under so many clients, without and with the server's dynamic batching."""
    found: dict[str, list[list[Answered]]] = {}
    bar = progress_bar("loads")
    kinds = {"one request a batch": ("alone", None), "dynamic batching": ("batched", 0.0)}
    for place, (name, (model, delay)) in enumerate(kinds.items()):
        bar(place * len(counts), 2 * len(counts))
        deployment.load_batched(model, answer_together, {"work": "engine"}, largest=LARGEST, delay=delay)
        found[name] = []
        for number, count in enumerate(counts):
            bar(place * len(counts) + number, 2 * len(counts))
            found[name].append(closed_load(deployment, model, count, new_tokens, CLOSED_SECONDS))
    deployment.server.unload("alone")
    bar(1, 1)
    return found


def tokens_per_second(answers: Sequence[Answered]) -> float:
    """Of all requests together, from the first sending to the last answer."""
    took = max(one.ended for one in answers) - min(one.sent for one in answers)
    return sum(one.job[1] for one in answers) / took


def latency(answers: Sequence[Answered], share: float) -> float:
    """The seconds within which this share of the requests was answered."""
    return float(np.quantile([one.seconds for one in answers], share))


def piece_times(deployment: Deployment, stream_text: Callable[..., Any], new_tokens: int) -> list[float]:
    """Seconds from asking `gptj` to each piece, through the learner's client; the second of two runs."""
    for _ in range(2):
        begin = time.perf_counter()
        inputs = prompt_inputs(prompt(0), new_tokens)
        came = [time.perf_counter() - begin for _ in stream_text(deployment.client, "gptj", inputs)]
    return came


def queue_and_batch(before: str, after: str, model: str) -> tuple[float, float]:
    """Mean seconds in the queue and mean inferences an execution, by the server's counters."""
    return read_metrics(before, after, model)


def one_job() -> list[Any]:
    """The input tensors of a small request to a batched model."""
    return _inputs("batched", ("alive?", 6))


def said_by(deployment: Deployment, model: str) -> str:
    """What comes back of a small request to a batched model: its text, or the error in words."""
    try:
        return str(deployment.client.infer(model, one_job(), client_timeout=5.0).as_numpy("TEXT"))
    except client_library().InferenceServerException as error:
        return str(error)


def batch_sizes(deployment: Deployment, model: str, clients: int) -> dict[str, int]:
    """How many executions held 1, 2, ... inferences, under a load of so many clients, by the server's statistics."""
    before = _batches(deployment, model)
    closed_load(deployment, model, clients, 32, CLOSED_SECONDS)
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
    """A model that works as long as the plan's arithmetic says, under an even load; its answers, and the metrics around."""
    copies, batch, delay, _ = plan
    work = {"work": "sleep", "first": str(first), "more": str(more)}
    deployment.load_batched("planned", answer_together, work, largest=batch, copies=copies, delay=delay)
    jobs = [(prompt(number), 1) for number in range(int(OPEN_SECONDS * rate))]
    before = scrape(deployment)
    bar = progress_bar("load")
    bar(0, 1)
    answers = open_load(deployment, "planned", jobs, 1 / rate)
    bar(1, 1)
    return answers, before, scrape(deployment)


def rates_for(loads: Sequence[Sequence[Answered]]) -> list[float]:
    """Requests a second of a mixed load that are a quarter, a half and nearly all of what these loads reached at most."""
    tokens = (3 * SHORT + LONG) / 4
    most = max(tokens_per_second(one) for one in loads) / tokens
    return [max(1.0, float(round(share * most))) for share in (0.25, 0.5, 0.9)]


def mixed_jobs(count: int) -> list[Job]:
    """Every fourth request is long, the others short."""
    return [(prompt(number), LONG if number % 4 == 0 else SHORT) for number in range(count)]


def mixed_load(
    deployment: Deployment, answer_together: Together, count: int = 16, gap: float = 0.02
) -> dict[str, list[Answered]]:
    """Long and short requests in turn, to the same engine: batches of the server's, and the engine's own steps."""
    deployment.load_batched("batched", answer_together, {"work": "engine"}, largest=LARGEST, delay=0.0)
    found = {}
    bar = progress_bar("loads")
    for place, (name, model) in enumerate({"dynamic batching": "batched", "in-flight batching": "gptj"}.items()):
        bar(place, 2)
        open_load(deployment, model, mixed_jobs(4), gap)
        found[name] = open_load(deployment, model, mixed_jobs(count), gap)
    bar(2, 2)
    return found


def bars(answers: Sequence[Answered]) -> dict[str, list[tuple[int, float, float]]]:
    """A row a request for a timeline: from sending to its end; its number is its batch, from 1 on, or the request's own."""
    begin = min(one.sent for one in answers)
    earlier = min(one.batch for one in answers) - 1
    return {
        f"{number}: {one.job[1]} tokens": [(one.batch - earlier if one.batch else number, one.sent - begin, one.seconds)]
        for number, one in enumerate(answers, 1)
    }


def longest(loads: Iterable[Sequence[Answered]]) -> float:
    """Seconds of the load that took longest, from its first sending to its last answer."""
    return max(max(one.ended for one in load) - min(one.sent for one in load) for load in loads)


def trade_off(
    deployment: Deployment, answer_together: Together, rates: Sequence[float], delays: Sequence[float] = (0.0, 0.1)
) -> dict[str, list[list[Answered]]]:
    """A mixed load at each rate: dynamic batching with each delay, and in-flight batching."""
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
    return found
