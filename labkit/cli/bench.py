"""`labkit bench`: compares labkit with other engines on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labkit.cli.output import DeviceOption, JsonOption, ModelOption, SeedOption, names, print_json, say, whole_numbers

if TYPE_CHECKING:
    from labkit.measure import Record

COLUMNS = ("engine", "dtype", "batch", "prefill ms", "ms/token", "tokens/s", "of limit", "peak MB", "spread")


def bench(
    model: ModelOption = "gptj-tiny",
    config: Annotated[
        Path | None,
        typer.Option(help="A GPT-J config.json. The weights are synthetic, with the shapes that this file describes."),
    ] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "1",
    prompt_tokens: Annotated[int, typer.Option(help="The number of tokens in each prompt.")] = 128,
    new_tokens: Annotated[int, typer.Option(help="The number of new tokens for each prompt.")] = 64,
    against: Annotated[
        str,
        typer.Option(
            help="Other engines, separated by commas: hf, hf-compiled, ctranslate2, openvino, onnxruntime, onnxruntime-none, "
            "plain, plain-compiled (the last four run labkit's exported graph), llama.cpp, llama.cpp-q4km, vllm (the last "
            "three need the extras llama-cpp and vllm)."
        ),
    ] = "hf",
    seconds: Annotated[float, typer.Option(help="The time limit for the runs of one batch size, in seconds.")] = 20.0,
    rounds: Annotated[int, typer.Option(help="The minimum number of timed runs for each batch size.")] = 5,
    one_at_a_time: Annotated[
        bool,
        typer.Option(
            "--one-at-a-time", help="Build and run the engines one after another. This is automatic when memory is short."
        ),
    ] = False,
    tensor_parallel: Annotated[
        str, typer.Option(help="Also run labkit with its layers split over this many ranks: 1,2 for example.")
    ] = "1",
    pipeline_parallel: Annotated[
        str, typer.Option(help="Also run labkit with this many pipeline stages: 1,2 for example.")
    ] = "1",
    beside: Annotated[
        int, typer.Option(help="Run this many processes that keep cores busy, to measure as on a busy machine.")
    ] = 0,
    kv_cache_dtype: Annotated[
        str, typer.Option(help="Also run labkit with a KV cache in these formats, for example int8,fp8.")
    ] = "",
    save: Annotated[Path | None, typer.Option(help="Write the whole record to this JSON file.")] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the decode steps to this PNG or SVG file; the time in collectives is drawn separately."),
    ] = None,
    device: DeviceOption = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Precisions, separated by commas: fp32, bf16, fp16, sparse24, sparse24_int8, int8, w8a8, int4; "
            "if left out, the one that suits the device."
        ),
    ] = None,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Time the prefill and the decode of labkit and of other engines.

    The engines take turns, with the same weights and fresh prompts.

    An engine that cannot run here is left out, and the reason is printed.

    Example: labkit bench --batch 1,8 --prompt-tokens 128 --new-tokens 64 --against hf,openvino
    """
    from labkit.bench import BenchSettings, run_bench

    settings = BenchSettings(
        model=str(config) if config else model,
        batches=whole_numbers(batch, "--batch"),
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        precisions=names(precision or ""),
        device=device,
        against=names(against),
        seed=seed,
        seconds=seconds,
        rounds=rounds,
        one_at_a_time=one_at_a_time,
        tensor_parallel=whole_numbers(tensor_parallel, "--tensor-parallel"),
        pipeline_parallel=whole_numbers(pipeline_parallel, "--pipeline-parallel"),
        beside=beside,
        kv_cache_dtypes=names(kv_cache_dtype),
    )
    record = run_bench(settings, progress=say)
    _print_table(record)
    if save:
        say(f"record written to {record.save(save)}")
    if plot:
        _draw(record, plot)
        say(f"drawn to {plot}")
    if json:
        values = record.to_dict()
        keys = ("rows", "machine", "versions", "settings", "created")
        print_json({key: values[key] for key in keys} | {key: record.extra[key] for key in ("ratios", "not_measured")})


def _draw(record: Record, path: Path) -> None:
    from labkit.measure import plots

    which = _which(record)
    steps = [row["decode_ms_per_token"] for row in record.rows]
    waited = [ms * row.get("communication_share", 0.0) for ms, row in zip(steps, record.rows, strict=True)]
    # On GPUs, the host cannot measure how long the communication takes.
    unseen = ["communication_bytes" in row and "communication_share" not in row for row in record.rows]
    bars = [
        f"batch {row['batch']}{which(row)}, {_named(row).removeprefix('labkit-')}{' (not separate)' if together else ''}"
        for row, together in zip(record.rows, unseen, strict=True)
    ]
    parts = {"computing": [ms - part for ms, part in zip(steps, waited, strict=True)], "in collectives (rank 0)": waited}
    title = "A decode step, milliseconds"
    caption = "\n".join([record.caption(), *_notes(record)])
    plots.parts_plot(bars, parts, xlabel="milliseconds per step", title=title, caption=caption).savefig(path)


def _print_table(record: Record) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from labkit.measure.disturbed import MARK

    # The table must fit into 80 columns, because a number that is cut off is useless.
    table = Table(caption=record.caption(), caption_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in COLUMNS[:2] else "right", no_wrap=True)
    for row in record.rows:
        table.add_row(
            _named(row),
            row["precision"],
            str(row["batch"]),
            f"{row['prefill_ms']:.1f}",
            f"{row['decode_ms_per_token']:.3f}",
            f"{row['tokens_per_second']:,.0f}",
            f"{100 * row['fraction_of_limit']:.0f} %",
            f"{row['peak_bytes'] / 1e6:,.0f}",
            f"{100 * row['spread']['decode']:.0f} %",
        )
    console = Console()
    console.print(table)
    which = _which(record)
    for row in record.rows:
        if "communication_bytes" in row:
            size = f"{row['communication_bytes'] / 1e3:.1f} kB per step"
            share = (
                f"{100 * row['communication_share']:.0f} % of a decode step"
                if "communication_share" in row
                else "time not measured separately"
            )
            console.print(f"{row['engine']}, batch {row['batch']}{which(row)}: {share} in collectives, {size}")
    if scaling := record.extra.get("predicted_scaling"):
        speeds = ", ".join(f"{gpus} GPUs {speed:.2f} x" for gpus, speed in scaling["times_faster"].items())
        console.print(f"predicted, not measured here, over {scaling['link']}, batch 1, 16 bits: {speeds} the speed of one GPU")
    for row in record.extra["ratios"]:
        parts = [f"{phase.replace('_', ' ')} {_times(row[phase])}" for phase in ("prefill", "decode", "end_to_end")]
        alone = "" if row["interleaved"] else ", each run alone"
        mark = f" {MARK}" if row["disturbed"] else ""
        console.print(
            f"labkit against {row['peer']}, batch {row['batch']}{which(row)}{alone}: {', '.join(parts)} its speed{mark}"
        )
    for row in record.extra["not_measured"]:
        batch = f", batch {row['batch']}" if "batch" in row else ""
        console.print(f"{row['engine']}{batch}{which(row)}: {row['why']}")
    for note in _notes(record):
        console.print(note)


def _named(row: dict[str, Any]) -> str:
    """The name of the engine that a row describes, with a sign if other programs disturbed the measurement."""
    from labkit.measure.disturbed import SIGN

    return f"{row['engine']} {SIGN}" if row["disturbed"] else str(row["engine"])


def _notes(record: Record) -> list[str]:
    """Notes on measurements that other programs disturbed, and on how to repeat them; empty if no measurement was disturbed."""
    from labkit.measure.ceilings import BUSY
    from labkit.measure.disturbed import COMMAND_AGAIN, SIGN, disturbed_note

    notes = [disturbed_note((row["disturbed"] for row in record.rows), COMMAND_AGAIN)]
    notes += [f"{SIGN} {BUSY} To get better ones, {COMMAND_AGAIN}."] if record.extra["ceilings"]["disturbed"] else []
    return [note for note in notes if note]


def _which(record: Record) -> Callable[[dict[str, Any]], str]:
    """Return a function that names the precision of a row in words; the function returns "" if all rows have the same
    precision.
    """
    several = len(record.settings["precisions"]) > 1
    return lambda row: f", {row['precision']}" if several else ""


def _times(found: dict[str, float]) -> str:
    return f"{found['median']:.2f} x ({found['low']:.2f} to {found['high']:.2f})"
