"""The Compose file and the dashboard are valid and name files that exist; the panels show the right values.

`tests/serving/test_prometheus.py` runs the same queries on the metrics of a real server.
"""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.docker.queries import PANELS, QUERIES, compare_with_promtool, needs_promtool

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text("utf-8"))
SCHEMA = json.loads(Path(__file__).with_name("schemas").joinpath("compose-spec.json").read_text("utf-8"))

DASHBOARD = json.loads((DOCKER / "grafana" / "labkit.json").read_text("utf-8"))

SERIES = {
    "labkit_queue_seconds_total": "0+1x40",
    "labkit_requests_total": "0+4x40",
    "labkit_tokens_total": "0+60x40",
    "labkit_steps_total": "0+20x40",
    "labkit_running": "3+0x40",
    "labkit_waiting": "2+0x40",
    "labkit_num_slots": "1000+0x40",
    "labkit_free_slots": "250+0x40",
    'labkit_refused_total{model="gptj",reason="overloaded"}': "0+6x40",
}
"""A server's metrics at intervals of 5 seconds, each with 60 tokens, 20 steps and 4 requests that waited 1 second in total."""

SHOWN = {
    "Queue time": [0.25],
    "Tokens a second": [12.0],
    "Time between tokens": [0.25],
    "Cache use": [0.75],
    "Sequences": [3.0, 2.0],
    "Sequences in a step": [3.0],
    "Refused requests a second": [1.2],
}
"""The values that the panels show for these metrics."""


def test_the_compose_file_is_valid() -> None:
    jsonschema.validate(COMPOSE, SCHEMA)
    wrong = {**COMPOSE, "services": {"learner": {"imagine": "labkit-course"}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, SCHEMA)


def test_the_compose_file_names_files_and_volumes_that_exist() -> None:
    services: dict[str, Any] = COMPOSE["services"]
    assert set(services) == {"learner", "server", "prometheus", "grafana"}
    for service in services.values():
        if "build" in service:
            context = DOCKER / service["build"]["context"]
            assert (context / service["build"]["dockerfile"]).is_file()
        for source, _, _ in (volume.partition(":") for volume in service.get("volumes", [])):
            assert (DOCKER / source).is_file() if source.startswith(".") else source in COMPOSE["volumes"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_the_parts_find_each_other() -> None:
    targets = yaml.safe_load((DOCKER / "prometheus.yml").read_text("utf-8"))["scrape_configs"][0]["static_configs"][0][
        "targets"
    ]
    (source,) = yaml.safe_load((DOCKER / "grafana" / "sources.yaml").read_text("utf-8"))["datasources"]
    (provider,) = yaml.safe_load((DOCKER / "grafana" / "dashboards.yaml").read_text("utf-8"))["providers"]
    assert targets == ["server:8002"]
    assert source["url"] == "http://prometheus:9090"
    assert {panel["datasource"]["uid"] for panel in PANELS} == {source["uid"]}
    assert any(f":{provider['options']['path']}/" in volume for volume in COMPOSE["services"]["grafana"]["volumes"])


def without_loss(written: Any, read: Any) -> bool:
    """Whether everything that was written was read. What was read can also contain default values."""
    if isinstance(written, dict):
        return all(key in read and without_loss(value, read[key]) for key, value in written.items())
    if isinstance(written, list):
        return len(written) == len(read) and all(map(without_loss, written, read))
    return bool(written == read)


def test_grafanas_own_model_reads_every_field_of_the_dashboard() -> None:
    """Grafana's model drops fields that it does not know, so no field of the dashboard may be missing after reading."""
    sdk = pytest.importorskip("grafana_foundation_sdk", reason="not measured here: no grafana-foundation-sdk")
    from grafana_foundation_sdk.cog import encoder, plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    assert sdk
    plugins.register_default_plugins()

    def read(dashboard: Any) -> Any:
        return json.loads(encoder.JSONEncoder().encode(Dashboard.from_json(dashboard)))

    assert without_loss(DASHBOARD, read(DASHBOARD))
    for place in ("targets", "fieldConfig"):
        wrong = copy.deepcopy(DASHBOARD)
        inner = wrong["panels"][0][place]
        (inner[0] if isinstance(inner, list) else inner)["imagine"] = 1
        assert not without_loss(wrong, read(wrong)), place


@needs_promtool
def test_prometheus_accepts_its_configuration() -> None:
    subprocess.run(["promtool", "check", "config", DOCKER / "prometheus.yml"], check=True, capture_output=True)


@needs_promtool
def test_the_panels_show_the_right_values(tmp_path: Path) -> None:
    assert set(SHOWN) == set(QUERIES)
    tests = [
        {"expr": query, "eval_time": "3m", "exp_samples": [{"value": value, "labels": labels_of(query)}]}
        for title, queries in QUERIES.items()
        for query, value in zip(queries, SHOWN[title], strict=True)
    ]
    compare_with_promtool(tmp_path, "5s", SERIES, tests)


def labels_of(query: str) -> str:
    """The labels of a query's result on `SERIES`, as promtool writes them."""
    return '{reason="overloaded"}' if " by (reason)" in query else "{}"
