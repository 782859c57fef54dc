"""The queries of the dashboard and of the autoscaler, and the metrics that they ask for."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
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


needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="not measured here: no promtool (Debian's prometheus)")


def compare_with_promtool(folder: Path, interval: str, series: dict[str, str], expected: list[dict[str, Any]]) -> None:
    """Fail if the results of queries are not as expected.

    folder: an empty folder. interval: the time between two readings. series: the readings of each series. expected: promtool's
    `promql_expr_test`.
    """
    (folder / "none.yml").write_text("groups: []\n")
    given = [{"series": name, "values": values} for name, values in series.items()]
    tests = [{"interval": interval, "input_series": given, "promql_expr_test": expected}]
    (folder / "given.yml").write_text(yaml.safe_dump({"rule_files": ["none.yml"], "tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", folder / "given.yml"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
