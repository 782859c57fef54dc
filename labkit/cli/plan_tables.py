"""The tables that `labkit plan` prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labkit.planning.deployment import Deployment
    from labkit.planning.fit import Fit
    from labkit.planning.published import Checked
    from labkit.planning.search import Answer, Plan, Question
    from labkit.planning.this_machine import Verified

COLUMNS = ("TP", "PP", "batch", "dtype", "ms", "interval", "GiB/GPU", "tok/s/GPU", "mostly")


def _print(columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[str] = (), title: str = "") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def print_answer(question: Question, answer: Answer, found: Fit, *, top: int, price: float) -> None:
    """Print the best plans, their cost, and whether the best plan is extrapolated. There must be at least one plan."""
    from labkit.cli.output import say

    shape, device = question.shape, question.device
    print(f"{shape.name}: {shape.parameter_count / 1e9:.2f} billion parameters. Rates of {device.name}: {device.source}.")
    print(f"{question.input_tokens} prompt tokens, {question.output_tokens} new tokens; at most {question.gpus} GPUs.")
    _print(COLUMNS, [_row(one) for one in answer.plans[:top]], left=("dtype", "mostly"))
    print(f"{answer.tried} plans tried: {answer.too_large} too large for the memory, {answer.too_slow} too slow.")
    _print_best(answer.plans[0], price)
    beyond = answer.plans[0].predicted.beyond
    if beyond:
        say(f"The best plan is extrapolated, so its interval is wide: {'; '.join(beyond)}.")
    print(f"Efficiencies fitted to {found.rows} rows: {found.source}.")


def _row(one: Plan) -> tuple[str, ...]:
    plan, predicted = one.plan, one.predicted
    return (
        str(plan.tensor_parallel),
        str(plan.pipeline_parallel),
        str(plan.batch),
        plan.precision,
        f"{1e3 * predicted.seconds:,.0f}",
        f"{1e3 * predicted.low:,.0f}-{1e3 * predicted.high:,.0f}",
        f"{one.memory.total / 2**30:.1f}",
        f"{one.tokens_per_second_per_gpu:,.1f}",
        predicted.dominated_by,
    )


def _print_best(best: Plan, price: float) -> None:
    memory = best.memory
    parts = {"weights": memory.weights, "cache": memory.cache, "activations": memory.activations, "rest": memory.workspace}
    print("Memory of one GPU: " + ", ".join(f"{name} {size / 2**30:.1f} GiB" for name, size in parts.items()) + ".")
    spent = best.predicted.parts.to_dict()
    total = best.predicted.seconds
    print("Time: " + ", ".join(f"{name} {100 * seconds / total:.0f} %" for name, seconds in spent.items()) + ".")
    line = f"{best.instances} x this plan: {best.requests_per_second:,.1f} requests/s"
    if best.joules_per_token:
        line += f"; at most {best.joules_per_token:.2f} J per new token (GPUs at their power limit)"
    if price > 0:
        line += f"; {best.price_per_million_tokens(price):.2f} per million new tokens"
    print(f"{line}.")


def simulate_and_print(best: Plan, found: Fit, rate: float) -> dict[str, Any]:
    """Simulate the best plan with requests that arrive at random, and print the latencies.

    Returns the printed numbers for `--json`.
    """
    from labkit.planning.simulate import simulate

    load = simulate(best.plan, found, rate=rate, instances=best.instances)
    print(load.sentence())
    return load.to_dict()


def _checked_rows(checked: Sequence[Checked]) -> list[tuple[str, ...]]:
    return [
        (
            one.group,
            str(one.rows),
            "fitted" if one.fitted else "predicted",
            f"{100 * one.median:.1f} %",
            f"{100 * one.worst:+.0f} %",
            f"{100 * one.inside:.0f} %",
        )
        for one in checked
    ]


CHECKED = ("table", "rows", "used", "median", "worst", "inside")


def validate_and_print(plot: Path | None) -> dict[str, Any]:
    """Fit the efficiencies to one model size of each published table, predict the other sizes, and print the errors.

    Returns the errors for `--json`.
    """
    from labkit.planning import validation

    report = validation.validate()
    for part in report.parts:
        _print(CHECKED, _checked_rows(part.checked), left=("table", "used"), title=part.title)
        print(part.summary())
    rows = [[row.model, *(f"{1e3 * seconds:,.0f}" for seconds in row.seconds)] for row in report.lecture]
    columns = ("model", "least ms", "predicted", "largest ms", "predicted ")
    _print(columns, rows, left=("model",), title="The lecture's table of p99 latencies (60 + 20 tokens)")
    print(report.lecture_summary())
    print(report.memory_summary())
    if plot:
        from labkit.planning.plots import validation_plot

        validation_plot(report).savefig(plot)
    return report.to_dict()


def verify_and_print(records: Path | None) -> dict[str, Any]:
    """Fit the efficiencies to some rows in records of `labkit bench`, predict the other rows, and print the errors.

    Returns the errors for `--json`.
    """
    from labkit.planning import this_machine

    report = this_machine.verify(this_machine.bench_rows(records))
    print_verified(report)
    return report.to_dict()


def print_predictions(plans: Sequence[Deployment], found: Fit) -> None:
    """Print the predictions for plans, before the plans are run."""
    rows = []
    for plan in plans:
        one = found.predict(plan)
        ends = f"{1e3 * one.low:,.0f}-{1e3 * one.high:,.0f}"
        layout = [str(plan.tensor_parallel), str(plan.batch), plan.precision]
        rows.append([*layout, f"{1e3 * one.seconds:,.0f}", ends, one.dominated_by])
    columns = ("TP", "batch", "dtype", "ms", "interval", "mostly")
    shape = plans[0]
    title = f"Predicted for {shape.shape.name}, {shape.input_tokens} + {shape.output_tokens} tokens, before anything is run"
    _print(columns, rows, left=("dtype", "mostly"), title=title)


def print_verified(report: Verified) -> None:
    """Print the measured and the predicted times, and a sentence about the errors."""
    rows = [
        [
            row.model.removesuffix("-synthetic"),
            str(row.tensor_parallel),
            row.precision,
            str(row.batch),
            row.what,
            "fitted" if row.fitted else "",
            f"{row.measured_ms:,.1f}",
            f"{row.predicted_ms:,.1f}",
            f"{100 * row.error:+.0f} %",
            row.dominated_by,
        ]
        for row in report.rows
    ]
    columns = ("model", "TP", "dtype", "batch", "phase", "used", "ms", "predicted", "error", "mostly")
    _print(columns, rows, left=("model", "dtype", "phase", "used", "mostly"))
    print(report.summary())
