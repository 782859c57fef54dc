"""The queries of the dashboard and of the autoscaler, and the metrics that they ask for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PANELS = json.loads((ROOT / "docker" / "grafana" / "labkit.json").read_text("utf-8"))["panels"]
QUERIES = {panel["title"]: [target["expr"] for target in panel["targets"]] for panel in PANELS}


def metrics_in(text: str) -> set[str]:
    """The names of metrics in queries."""
    return set(re.findall(r"\b(?:labkit|nv)_[a-z_]+", text))


def asked_for() -> set[str]:
    """The metrics that the dashboard and the autoscaler ask for."""
    adapter = yaml.safe_load((ROOT / "environment/cluster/prometheus_adapter.yaml").read_text("utf-8"))
    rules = [rule["metricsQuery"] for rule in adapter["rules"]["external"]]
    return metrics_in(" ".join([*rules, *(query for queries in QUERIES.values() for query in queries)]))
