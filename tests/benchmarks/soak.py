"""Serves near saturation for minutes, with disconnecting clients, malformed requests and a killed model; counts the answers.

    python -m tests.benchmarks.soak --minutes 10 --save FILE

The load is 80 % of the requests per second that the server answers when requests are always waiting. Every request must get one
answer or one named error. The texts must equal the texts that the engine generates without a server. At the end, the memory of
all processes together must be within 5 % of their memory after warm-up; the memory of each process is reported.
"""

from __future__ import annotations

import argparse
import itertools
import random
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import psutil

import labkit
from labkit.engine import SamplingParams
from labkit.measure.record import Record
from labkit.serving.channels import client_library
from labkit.serving.repository.writer import ServeSettings, write_repository
from labkit.serving.server import Server
from tests.serving.live.processes import model_process, processes
from tests.serving.live.requests import PROMPT, ensemble, gptj, infer, stream, streaming
from tests.serving.live.test_malformed import malformed, refusal

KINDS = 24
"""The number of different valid requests; each is sent many times."""

SECONDS = 60.0
"""Time limit of a client: Triton never answers a request that was in flight in a killed process."""

CLIENTS = 48
WARM_UP_SHARE = 0.2
GROWTH = 1.05


class Soak:
    """A server under load, and the outcome of each request."""

    def __init__(self, server: Server, seed: int) -> None:
        self.server, self.draw = server, random.Random(seed)
        self.outcomes: Counter[str] = Counter()
        self.faults: list[str] = []
        self._lock = threading.Lock()
        self._bad = itertools.cycle(list(malformed(200, seed)))
        self.texts = expected_texts()

    def one(self, number: int, what: str) -> None:
        """Send one request and record its outcome."""
        try:
            outcome = getattr(self, f"_{what}")(number % KINDS)
        except client_library().InferenceServerException as error:
            words = str(error.message() or "").strip()
            outcome = f"error: {error.status()}" if words else "lost"
            if not words:
                self._fault(f"{what} {number}: an error without words: {error!r}")
        except Exception as error:
            outcome = "lost"
            self._fault(f"{what} {number}: {type(error).__name__}: {error}")
        with self._lock:
            self.outcomes[f"{what}: {outcome}"] += 1

    def _fault(self, words: str) -> None:
        with self._lock:
            self.faults.append(words[:500])

    def _streamed(self, kind: int) -> str:
        responses = stream(self.server, gptj(text_input=prompt_of(kind), stream=True, **sampling_of(kind)), seconds=SECONDS)
        return self._compared(kind, "".join(response["text_output"][0] for response in responses))

    def _ensemble(self, kind: int) -> str:
        given = sampling_of(kind)
        inputs = ensemble([prompt_of(kind)], given["max_new_tokens"], runtime_top_k=given["top_k"], random_seed=given["seed"])
        answer = infer(self.server, "ensemble", inputs, client_timeout=SECONDS)
        return self._compared(kind, answer["OUTPUT_0"][0, 0].removeprefix(prompt_of(kind)))

    def _compared(self, kind: int, text: str) -> str:
        if text != self.texts[kind]:
            self._fault(f"another text for request {kind}: {text!r} for {self.texts[kind]!r}")
            return "wrong text"
        return "answered"

    def _cancelled(self, kind: int) -> str:
        inputs = gptj(text_input=prompt_of(kind), stream=True, ignore_eos=True, max_new_tokens=400)
        with streaming(self.server, inputs, seconds=SECONDS) as found:
            first = found.get(timeout=2 * SECONDS)
            if isinstance(first, Exception):
                raise first
        return "cancelled"

    def _malformed(self, kind: int) -> str:
        with self._lock:
            name, message = next(self._bad)
        words = refusal(self.server, name, message)
        if "was answered" in words:
            self._fault(words)
        return "refused"

    def saturation(self, seconds: float) -> float:
        """Return how many valid requests per second the server answers when requests are always waiting."""
        until, done = time.monotonic() + seconds, itertools.count()

        def ask() -> None:
            while time.monotonic() < until:
                self.one(next(done), self._good())

        began = time.monotonic()
        with ThreadPoolExecutor(CLIENTS) as pool:
            wait([pool.submit(ask) for _ in range(CLIENTS)])
        return next(done) / (time.monotonic() - began)

    def run(self, seconds: float, rate: float) -> list[dict[str, Any]]:
        """Send `rate` requests per second as a Poisson process, and sample the memory of each server process."""
        began, rows, killed, numbers = time.monotonic(), [], False, itertools.count()
        with ThreadPoolExecutor(4 * CLIENTS) as pool:
            arrives = looks = 0.0
            while (now := time.monotonic() - began) < seconds:
                if now >= looks:
                    rows.append({"seconds": round(now, 1), **memory(self.server)})
                    looks += max(2.0, seconds / 60)
                if now > seconds / 2 and not killed:
                    killed = True
                    kill(self.server, "preprocessing")
                what = self.draw.choices(["", "cancelled", "malformed"], [90, 5, 5])[0] or self._good()
                pool.submit(self.one, next(numbers), what)
                arrives += self.draw.expovariate(rate)
                time.sleep(max(0.0, began + arrives - time.monotonic()))
        rows.append({"seconds": round(time.monotonic() - began, 1), **memory(self.server)})
        submitted = next(numbers)
        self.outcomes["submitted"] = submitted
        return rows

    def _good(self) -> str:
        return self.draw.choice(["streamed", "ensemble"])


def prompt_of(kind: int) -> str:
    """The prompt of a valid request."""
    return f"{PROMPT} number {kind}"


def sampling_of(kind: int) -> dict[str, Any]:
    """The parameters of a valid request for gptj."""
    return {"max_new_tokens": 4 + 5 * kind % 37, "temperature": 1.0, "top_k": 2 + kind, "seed": kind}


def expected_texts() -> list[str]:
    """The texts that the engine generates without a server, decoded from tokens."""
    engine = labkit.load("gptj-tiny")
    params = [SamplingParams(**sampling_of(kind)) for kind in range(KINDS)]
    return [output.text for output in engine.generate([prompt_of(kind) for kind in range(KINDS)], params)]


def memory(server: Server) -> dict[str, int]:
    """The unshared memory, in MB, of the server, of each model's process, and of all of them together."""
    found: dict[str, int] = {}
    for process in processes(server):
        try:
            name = next((part for part in process.cmdline() if part.endswith("_0_0")), process.name())
            found[name] = found.get(name, 0) + process.memory_full_info().uss // 10**6
        except psutil.Error:
            continue
    return found | {"all": sum(found.values())}


def kill(server: Server, model: str) -> None:
    """Kill the process of a model, as the kernel does when memory is short."""
    model_process(server, model).kill()


def growth(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The memory of each process at the end, divided by its memory after warm-up."""
    seconds = rows[-1]["seconds"]
    warm = next(row for row in rows if row["seconds"] >= WARM_UP_SHARE * seconds)
    return {name: round(rows[-1][name] / warm[name], 3) for name in warm if name != "seconds" and rows[-1].get(name)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (10)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the arrival times (1)")
    parser.add_argument("--save", type=Path, help="write the record to this JSON file")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_repository(Path(folder) / "repository", ServeSettings())
        with Server(Path(folder) / "repository") as server:
            soak = Soak(server, chosen.seed)
            most = soak.saturation(min(20.0, 10 * chosen.minutes))
            soak.outcomes.clear()
            rows = soak.run(60 * chosen.minutes, 0.8 * most)
            repairs = [vars(repair) for repair in server.watchdog.repairs] if server.watchdog else []
    grown, submitted = growth(rows), soak.outcomes.pop("submitted")
    lost = submitted - sum(soak.outcomes.values())
    summary = {
        "requests a second at saturation": round(most, 2),
        "submitted": submitted,
        "lost": lost,
        "outcomes": dict(sorted(soak.outcomes.items())),
        "repairs": repairs,
        "memory at the end over warm-up": grown,
        "faults": soak.faults[:50],
    }
    for name, value in summary.items():
        print(f"{name}: {value}")
    if chosen.save:
        settings = {"model": "gptj-tiny", "minutes": chosen.minutes, "seed": chosen.seed, "load": 0.8}
        Record("soak", settings, rows, extra=summary).save(chosen.save)
    return int(bool(soak.faults or lost or grown["all"] > GROWTH))


if __name__ == "__main__":
    raise SystemExit(main())
