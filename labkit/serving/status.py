"""One line about what a server is doing."""

from __future__ import annotations

import re
import urllib.request


def status_line(metrics: str, seconds: float, name: str) -> str:
    """What runs and waits, tokens a second on average since the start, and slots of the cache in use, by the metrics."""
    try:
        with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=2.0) as answer:
            text = answer.read().decode()
    except OSError as error:
        return f"no metrics: {error}"
    values = {
        name: _sum(text, name) for name in ("running", "waiting", "tokens_total", "free_slots", "num_slots", "requests_total")
    }
    used = 1 - values["free_slots"] / values["num_slots"] if values["num_slots"] else 0.0
    return (
        f"{name}: {values['running']:.0f} running, {values['waiting']:.0f} waiting, "
        f"{values['requests_total']:.0f} requests, {values['tokens_total']:.0f} tokens "
        f"({values['tokens_total'] / max(seconds, 1e-9):.0f}/s since the start), cache {used:.0%} full"
    )


def _sum(text: str, name: str) -> float:
    return sum(float(value) for value in re.findall(rf"^labkit_{name}(?:{{[^}}]*}})? (\S+)$", text, flags=re.MULTILINE))
