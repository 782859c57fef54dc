"""The record of a stress test: what was served, one row per load, and every request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from labkit.errors import NotAvailable
from labkit.measure import Record
from labkit.measure.disturbed import COMMAND_AGAIN, disturbed_note
from labkit.serving.channels import client_library, grpc_client
from labkit.serving.stress.summary import summarise
from labkit.serving.stress.times import RequestTimes, StressRun


@dataclass(frozen=True)
class StressRecord(Record):
    """A `Record` of kind "stress". `summarise` makes the rows, and `extra["requests"]` holds the requests of each row."""

    @classmethod
    def of(cls, runs: Sequence[StressRun], served: dict[str, Any]) -> StressRecord:
        """Make the record of runs whose settings differ only in the load.

        served: the description of the server that `about_served` returned before the runs.
        """
        settings = runs[0].settings.to_dict()
        asked = {name: value for name, value in settings.items() if name not in ("users", "rate")}
        about = {name: served[name] for name in ("served", "device", "dtype")}
        requests = [[asdict(request) for request in run.requests] for run in runs]
        extra = {"requests": requests, "server": served}
        return cls("stress", about | asked, [summarise(run) for run in runs], extra=extra)

    def requests(self, row: int = -1) -> list[RequestTimes]:
        """The requests of one row, including the requests of the warm-up."""
        return [RequestTimes(**values) for values in self.extra["requests"][row]]

    def caption(self, row: int | None = None) -> str:
        """The text below a table or figure of all rows, or of one row.

        If other programs disturbed a row, a second line says how, and what to do to measure again.
        """
        rows = self.rows if row is None else [self.rows[row]]
        note = disturbed_note((one.get("disturbed", "") for one in rows), COMMAND_AGAIN)  # older records have no such entry
        return "\n".join(filter(None, [super().caption(), note]))


def about_served(grpc_address: str, model: str = "gptj") -> dict[str, Any]:
    """Describe what a server serves: `server`, `version`, `served` (the model's name), `device`, `dtype` and `parameters`.

    If the model's configuration sets no device or no dtype, its value here is "left to the server". Raises `NotAvailable` if no
    server answers.
    """
    library = client_library()
    with grpc_client(grpc_address) as client:
        try:
            about = client.get_server_metadata(client_timeout=10.0)
            config = client.get_model_config(model, client_timeout=10.0).config
        except library.InferenceServerException as error:
            raise NotAvailable(f"{grpc_address} does not describe its model {model}: {error.message()}") from None
    parameters = {name: value.string_value for name, value in config.parameters.items()}
    left = "left to the server"
    return {
        "server": about.name,
        "version": about.version,
        "served": parameters.get("model", model),
        "device": parameters.get("device", left),
        "dtype": parameters.get("precision", left),
        "parameters": parameters,
    }
