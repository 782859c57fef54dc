"""Simulates serving GPT-3 175B for a million requests a day: how many instances and which router are needed, and the effect of
failures.

It writes a record, and the figure of docs/million_requests.md. It measures nothing and takes about two minutes.
Run: `.venv/bin/python -m tests.benchmarks.million_requests`
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labkit.measure import Record
from labkit.measure.plots import COLOURS, GREY, NUMBER_SIZE, new_figure
from labkit.planning.catalogue import named_gpu
from labkit.planning.deployment import Deployment
from labkit.planning.fleet import ROUTES, Failures, FleetLoad, simulate_fleet
from labkit.planning.memory import memory_of
from labkit.planning.named_shapes import named_shape
from labkit.planning.published import default_fit
from labkit.planning.search import Question, search

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "tests/benchmarks/results/million_requests.json"
REQUESTS_A_DAY, PEAK = 1_000_000, 3.0
"""Requests a day, and the rate in the busiest hour divided by the mean rate. The second number is an assumption."""
BOUND_SECONDS = 3.0
"""99 of 100 requests must be answered within this time."""
INSTANCES = (1, 2, 3, 4, 5, 6)
QUIET_SECONDS, FAILING_SECONDS = 240, 900
"""The number of simulated seconds without failures, and with failures. Failures are rare, so the simulation with failures is
longer.
"""
FAILURES = Failures(mean_seconds_between=1800, repair_seconds=300)
"""A pessimistic assumption: an instance of 8 GPUs fails every half hour on average, and is down for 5 minutes."""


def best_plan() -> Deployment:
    """Return the plan for one server of 8 GPUs with the most tokens per second per GPU whose latency is at most half of
    `BOUND_SECONDS`.
    """
    question = Question(
        named_shape("gpt-175b"),
        named_gpu("a100-80gb"),
        latency_seconds=BOUND_SECONDS / 2,
        input_tokens=60,
        output_tokens=20,
    )
    return search(question, default_fit()).plans[0].plan


def load(plan: Deployment, instances: int, seconds: float, **more: Any) -> FleetLoad:
    """Simulate some seconds of the busiest hour."""
    rate = REQUESTS_A_DAY / 86_400 * PEAK
    requests = round(rate * seconds)
    return simulate_fleet(
        plan, default_fit(), rate=rate, instances=instances, requests=requests, bound_seconds=BOUND_SECONDS, **more
    )


def meets_row(row: dict[str, Any]) -> bool:
    """Whether the queue does not grow and 99 of 100 requests are answered within the bound."""
    return bool(row["stable"] and row["latency"][1] <= BOUND_SECONDS)


def rows_of(plan: Deployment) -> list[dict[str, Any]]:
    """Simulate each number of instances; then, with the smallest number that is enough, each router, and failures."""
    sizes = [load(plan, count, QUIET_SECONDS) for count in INSTANCES]
    enough = next(found.instances for found in sizes if meets_row(found.to_dict()))
    rows = [{"what": "instances"} | found.to_dict() for found in sizes]
    rows += [{"what": "route"} | load(plan, enough, QUIET_SECONDS, route=route).to_dict() for route in ROUTES]
    for spare in (0, 1, 2):
        found = load(plan, enough + spare, FAILING_SECONDS, failures=FAILURES)
        rows.append({"what": "failures", "spare": spare} | found.to_dict())
    return rows


HEAD = "| simulated | instances | router | p50, s | p99, s | later than the bound | failures | sent again |"


def table_of(rows: list[dict[str, Any]]) -> str:
    """The table of docs/million_requests.md, as Markdown."""
    lines = [HEAD, "| --- " * HEAD.count(" | ") + "| --- |"]
    for row in rows:
        middle, worst = row["latency"]
        late = f"{100 * row['late']:.1f} %" + ("" if row["stable"] else ", and the queue grows")
        cells = (row["what"], row["instances"], row["route"], f"{middle:.2f}", f"{worst:.2f}", late, row["failures"])
        lines.append("| " + " | ".join(map(str, (*cells, row["sent_again"]))) + " |")
    return "\n".join(lines)


def figure_of(rows: list[dict[str, Any]], plan: Deployment) -> Any:
    """Draw p50 and p99 against the number of instances, with and without failures."""
    caption = f"Simulated, not measured: {plan.label}; {rows[0]['rate']:.1f} requests per second at random times."
    figure = new_figure("A million requests a day of GPT-3 175B, in the busiest hour", caption, 7.4, 4.0)
    axes = figure.add_subplot()
    for number, (what, words) in enumerate({"instances": "no failures", "failures": "failures"}.items()):
        mine = [row for row in rows if row["what"] == what]
        for part, mark, style in ((0, "o", ":"), (1, "s", "-")):
            label = f"{('p50', 'p99')[part]}, {words}"
            times = [row["latency"][part] for row in mine]
            axes.plot([row["instances"] for row in mine], times, mark + style, color=COLOURS[number], label=label)
    axes.axhline(BOUND_SECONDS, color=GREY, linestyle="--", label="bound")
    axes.set(yscale="log", xlabel="instances of 8 GPUs", ylabel="seconds of a request (log scale)", xticks=INSTANCES)
    axes.legend(fontsize=NUMBER_SIZE)
    axes.grid(alpha=0.25)
    return figure


def main() -> None:
    """Simulate, print, and write the record and the figure."""
    plan = best_plan()
    rows = rows_of(plan)
    print(table_of(rows))
    settings = {
        "plan": plan.label,
        "requests_a_day": REQUESTS_A_DAY,
        "peak": PEAK,
        "bound_seconds": BOUND_SECONDS,
        "failures": vars(FAILURES),
        "memory_gib": memory_of(plan).total / 2**30,
    }
    print(f"record written to {Record('million requests', settings, rows).save(RECORD)}")
    figure_of(rows, plan).savefig(ROOT / "docs/million_requests.png")
    print("figure written to docs/million_requests.png")


if __name__ == "__main__":
    main()
