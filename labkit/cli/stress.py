"""`labkit stress`: sends many requests to a server with the model gptj, and prints how long they took."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labkit.cli.output import JsonOption, SeedOption, print_json, say
from labkit.errors import InvalidRequest

if TYPE_CHECKING:
    from labkit.measure import Record

COLUMNS = ("load", "answered", "tokens/s", "requests/s", "good/s", "TTFT ms", "between ms", "whole ms")


def stress(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="HOST:PORT of the server's gRPC endpoint.")],
    users: Annotated[
        str,
        typer.Option(help="How many users: 4, or 1,4,16. Each user sends a request after the answer to its previous request."),
    ] = "",
    rate: Annotated[
        str,
        typer.Option(
            help="How many requests per second: 10, or 5,10,20. They are sent at random times, without waiting for answers."
        ),
    ] = "",
    seconds: Annotated[float, typer.Option(help="How long to measure each number of users, or each rate.")] = 10.0,
    warmup: Annotated[float, typer.Option(help="Seconds to run before each measurement.")] = 2.0,
    prompt_tokens: Annotated[str, typer.Option(help="Tokens per prompt: 16, or 8-64.")] = "8-64",
    new_tokens: Annotated[str, typer.Option(help="New tokens per prompt: 16, or 8-64.")] = "8-64",
    lengths: Annotated[str, typer.Option(help="How lengths are distributed: lognormal or uniform.")] = "lognormal",
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    ttft_limit: Annotated[
        float, typer.Option(help="A good request has its first token within this many milliseconds.")
    ] = 500.0,
    itl_limit: Annotated[
        float, typer.Option(help="A good request has at most this many milliseconds between tokens on average.")
    ] = 50.0,
    timeout: Annotated[float, typer.Option(help="Give up on a request after this many seconds.")] = 60.0,
    token_ids: Annotated[
        bool, typer.Option("--token-ids", help="Send prompts as token ids: for models without a tokenizer.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the throughput of several runs, or the timeline of one run, to this PNG or SVG file."),
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Write the whole record to this JSON file.")] = None,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Send many different prompts to a server and time every token.

    With --users, each user waits for an answer before it sends the next request, as people do (closed loop). With --rate,
    requests are sent without waiting (open loop). The latency of a request starts at the time when the request was due, even if
    it was sent later. A warning is printed if this program cannot send requests fast enough.

    Example: labkit stress 127.0.0.1:8001 --users 1,4,16 --seconds 10 --plot stress.png
    """
    from labkit.serving.stress import Lengths, StressRecord, StressSettings, run_stress
    from labkit.serving.stress.record import about_served

    if bool(users) == bool(rate):
        raise InvalidRequest("give either --users (closed loop) or --rate (open loop), and not both")
    loads: list[dict[str, Any]] = [{"users": int(one)} for one in _numbers(users, "--users", whole=True)]
    loads += [{"rate": one} for one in _numbers(rate, "--rate")]
    base = StressSettings(
        **loads[0],
        seconds=seconds,
        warmup=warmup,
        prompt_tokens=Lengths.parse(prompt_tokens, lengths),
        new_tokens=Lengths.parse(new_tokens, lengths),
        temperature=temperature,
        ttft_limit=ttft_limit / 1e3,
        itl_limit=itl_limit / 1e3,
        timeout=timeout,
        as_token_ids=token_ids,
        seed=seed,
    )
    settings = [replace(base, **one, seed=seed + number) for number, one in enumerate(loads)]
    served = about_served(address)
    record = StressRecord.of([run_stress(address, one, progress=say) for one in settings], served)
    _print_table(record)
    if save:
        say(f"record written to {record.save(save)}")
    if plot:
        from labkit.serving.stress import plots

        figure = plots.throughput_plot(record) if len(loads) > 1 else plots.timeline_plot(record)
        figure.savefig(plot)
        say(f"drawn to {plot}")
    if json:
        values = record.to_dict()
        print_json({key: values[key] for key in ("rows", "machine", "versions", "settings", "created")})


def _numbers(text: str, option: str, *, whole: bool = False) -> list[float]:
    try:
        return [int(part) if whole else float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        kind = "whole numbers" if whole else "numbers"
        raise InvalidRequest(
            f"{option} is {text!r}; the value must be {kind} separated by commas, for example 1,4,16"
        ) from None


def _print_table(record: Record) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from labkit.serving.stress.summary import named

    table = Table(caption=record.caption(), caption_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "load" else "right", no_wrap=True)
    for row in record.rows:
        table.add_row(
            named(row),
            f"{row['answered']}/{row['requests']}",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['requests_per_second']:.1f}",
            f"{row['goodput']:.1f}",
            *(_middle_and_worst(row[name]) for name in ("ttft_ms", "itl_ms", "e2e_ms")),
        )
    console = Console()
    console.print(table)
    console.print(
        "latencies: median / 99th percentile, counted from the time a request was due; good: requests within both limits"
    )
    for row in record.rows:
        for kind, count in row["errors"].items():
            console.print(f"{row['load']}: {count} x {kind}: {row['error_words'][kind]}", highlight=False)
        if row["fell_behind"]:
            console.print(f"{row['load']}: {row['fell_behind']}", highlight=False)
        if row["not_watched"]:
            console.print(f"{row['load']}: disturbance by other programs is {row['not_watched']}", highlight=False)


def _middle_and_worst(found: dict[str, Any]) -> str:
    return (
        "-" if not found["count"] else "/".join(f"{found[name]:.{1 if found[name] < 100 else 0}f}" for name in ("p50", "p99"))
    )
