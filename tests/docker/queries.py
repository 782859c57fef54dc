"""The queries of the dashboard and of the autoscaler, and the metrics that they ask for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
PANELS = json.loads((ROOT / "docker" / "grafana" / "labkit.json").read_text("utf-8"))["panels"]
QUERIES = {panel["title"]: [target["expr"] for target in panel["targets"]] for panel in PANELS}


def metrics_in(text: str) -> set[str]:
    """The names of metrics in queries."""
    return set(re.findall(r"\b(?:labkit|nv)_[a-z_]+", text))


def rules_of_the_adapter() -> list[dict[str, Any]]:
    """The rules by which Prometheus's adapter computes the autoscaler's metrics."""
    adapter = yaml.safe_load((ROOT / "environment/cluster/prometheus_adapter.yaml").read_text("utf-8"))
    return list(adapter["rules"]["external"])


def asked_for() -> set[str]:
    """The metrics that the dashboard and the autoscaler ask for."""
    rules = [rule["metricsQuery"] for rule in rules_of_the_adapter()]
    return metrics_in(" ".join([*rules, *(query for queries in QUERIES.values() for query in queries)]))
