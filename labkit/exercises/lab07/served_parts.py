"""A real server with gptj-tiny as one model and as an ensemble of two parts, wired by the learner's maps."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.errors import InvalidRequest
from labkit.exercises.lab07.real_graphs import exported, what_is_missing
from labkit.exercises.lab07.wiring import PartNames, check_maps
from labkit.forked import by_owner
from labkit.graphs.exported import ExportedModel
from labkit.measure import progress_bar
from labkit.serving.client.graph_client import GraphClient
from labkit.serving.repository.graph_models import GraphServing, graph_models, part_name, write_graph_repository
from labkit.serving.repository.model_config import Step, config_text
from labkit.serving.server import Server
from labkit.serving.server.install import find_server
from labkit.serving.server.locked_folder import LockedFolder
from labkit.serving.stress.pipelining import Alone, measure_alone, measure_in_turn

WHOLE, PARTS = "whole", "parts"
"""The two models that clients call."""
STAGES = 2
PROMPT_TOKENS = 128
_RUNNING: list[ServedParts] = []


def ready() -> bool:
    """Whether this machine can make graphs and has a server. If not, prints a sentence that says what is missing."""
    words = what_is_missing()
    if not words and find_server() is None:
        words = (
            "not measured here: there is no Triton Inference Server; `labkit serve --install` in a terminal installs it (75 MB)"
        )
    if words:
        print(words)
    return not words


def parts_of(model: ExportedModel, serving: GraphServing) -> list[PartNames]:
    """The parts of an export in the form that exercise 7.5 uses."""
    stages = len(model.parts)
    return [
        (
            part_name(serving, stage, stages),
            [one.name for one in part.tensors.inputs],
            [one.name for one in part.tensors.outputs],
        )
        for stage, part in enumerate(model.parts)
    ]


class ServedParts:
    """A server with both models. It runs until `stop` is called, this process ends, or a new `ServedParts` is made.

    A stopped server starts again when a method sends a request, so a cell can be run again after `stop`. Raises
    `InvalidRequest` if the maps do not fit the parts, and `NotAvailable` with the server's message if the server refuses the
    maps.
    """

    def __init__(self, part_maps: Callable[..., Any]) -> None:
        self._part_maps = part_maps
        self._start()

    def _start(self) -> None:
        """Export the models, and start a server with them."""
        for old in _RUNNING:
            old.stop()
        _RUNNING.clear()
        bar = progress_bar("models exported and served")
        bar(0, 3)
        whole = exported(1)
        bar(1, 3)
        cut = exported(STAGES)
        bar(2, 3)
        own = LockedFolder("lab07")
        self.parts = parts_of(cut, GraphServing(PARTS))
        try:
            _write(own.path / "repository", whole, cut, self._part_maps(self.parts), self.parts)
            self.server = Server(own.path / "repository", watch=False)
        except BaseException:
            own.delete()
            raise
        self._end = weakref.finalize(self, by_owner(_end), self.server, own)
        _RUNNING.append(self)
        bar(3, 3)

    @property
    def grpc(self) -> str:
        """The address of the server. Starts the server again if it was stopped."""
        if not self._end.alive:
            self._start()
        return self.server.grpc

    def stop(self) -> None:
        """Stop the server and delete its repository."""
        self._end()

    def greedy(self, token_ids: Sequence[int], new_tokens: int) -> dict[str, list[int]]:
        """The tokens that each of the two models generates after a prompt."""
        made = {}
        for name in (WHOLE, PARTS):
            with GraphClient(self.grpc, name) as client:
                made[name] = client.greedy(np.asarray([token_ids]), new_tokens)[0].tolist()
        return made

    def alone(self, requests: int = 10, rounds: int = 3) -> dict[str, Any]:
        """Send single requests to both models in turn, `requests` requests to each model in each round.

        Returns `models`, which has for each model the latency of a request in seconds (`latency`) and the seconds that each of
        its parts computed (`seconds`), both as medians over the rounds. Also returns `disturbed`, as `under_load` does.
        """
        inner = {WHOLE: [WHOLE], PARTS: [model for model, _, _ in self.parts]}
        rows: dict[str, list[Alone]] = {name: [] for name in inner}
        for _ in range(rounds):
            for name, parts in inner.items():
                rows[name].append(measure_alone(self.grpc, name, parts, prompt(), requests=requests))
        models = {
            name: {
                "latency": float(np.median([one.latency for one in found])),
                "seconds": np.median([list(one.computing.values()) for one in found], axis=0).tolist(),
            }
            for name, found in rows.items()
        }
        return {
            "models": models,
            "disturbed": next((one.disturbed for found in rows.values() for one in found if one.disturbed), ""),
        }

    def under_load(self, users: Sequence[int], latency: float, rounds: int = 3) -> dict[str, Any]:
        """Measure the requests per second of both models with each number of users; the models take turns.

        latency: the seconds of a single request. A turn takes one second, or the time of 30 requests if that is longer.
        Returns `rates`: for each number of users and each model, one rate per round. Also returns `disturbed`, which says how
        other programs disturbed the run ("" if they did not).
        """
        bar = progress_bar("loads")
        rates: dict[str, dict[str, list[float]]] = {}
        disturbed = ""
        for number, count in enumerate(users):
            bar(number, len(users))
            loads = measure_in_turn(self.grpc, [WHOLE, PARTS], prompt(), count, seconds=max(1.0, 30 * latency), rounds=rounds)
            rates[str(count)] = {name: [one.rate for one in found] for name, found in loads.items()}
            disturbed = disturbed or next((one.disturbed for found in loads.values() for one in found if one.disturbed), "")
        bar(len(users), len(users))
        return {"rates": rates, "disturbed": disturbed}


def prompt() -> NDArray[np.int64]:
    """The prompt of all requests, `[1, PROMPT_TOKENS]`."""
    return np.random.default_rng(0).integers(1, 1000, size=(1, PROMPT_TOKENS))


def gains(measured: dict[str, Any]) -> dict[int, tuple[float, float, float]]:
    """For each number of users: the requests per second of the parts, divided by the requests per second of the whole model.

    The three values are from the lowest, the median and the highest round.
    """
    found = {}
    for users, rates in measured["rates"].items():
        ratios = sorted(part / whole for part, whole in zip(rates[PARTS], rates[WHOLE], strict=True))
        found[int(users)] = (ratios[0], float(np.median(ratios)), ratios[-1])
    return found


def _write(folder: Path, whole: ExportedModel, cut: ExportedModel, maps: Any, parts: Sequence[PartNames]) -> None:
    """Write a repository with both models. The ensemble has the learner's maps."""
    if words := check_maps(maps, parts):
        raise InvalidRequest(f"{words}; run check(part_maps)")
    serving = GraphServing(PARTS)
    write_graph_repository(folder, cut, serving)
    ensemble = replace(graph_models(cut, serving)[PARTS], steps=tuple(Step(model, *maps[model]) for model, _, _ in parts))
    (folder / PARTS / "config.pbtxt").write_text(config_text(ensemble), "utf-8")
    other = folder.with_name("whole-repository")
    for name in write_graph_repository(other, whole, GraphServing(WHOLE)):
        shutil.move(other / name, folder / name)
    shutil.rmtree(other)


def _end(server: Server, own: LockedFolder) -> None:
    server.stop()
    own.delete()
