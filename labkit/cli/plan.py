"""`labkit plan`: sizes a deployment by arithmetic, before you rent a GPU."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labkit.cli.output import JsonOption, names, print_json, say, whole_numbers
from labkit.errors import InsufficientResources, InvalidRequest

if TYPE_CHECKING:
    from labkit.planning.catalogue import Device
    from labkit.planning.fit import Fit
    from labkit.planning.shape import Shape

THIS_MACHINE = "this"
MODES = {
    "validate": ("compares the predictions with published tables", ("plot", "json")),
    "records": ("compares the predictions with records", ("json",)),
    "verify": (
        "runs plans of a local model on this machine",
        ("model", "batch", "tensor_parallel", "precision", "top", "save", "json"),
    ),
}
"""For each option that runs something else than a search: what it does, and the options that can be given with it."""


def plan(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", help="A shape (gpt-20b, gpt-175b, gpt-530b, gpt-j-6b, ...), or a GPT-J of labkit. Default: gpt-j-6b."
        ),
    ] = None,
    params: Annotated[
        str | None, typer.Option(help="Instead of a model: a number of parameters (20e9, 175b) for a GPT-3-like shape.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Instead of a model: a GPT-J config.json.")] = None,
    gpu: Annotated[
        str, typer.Option(help="A GPU in the catalogue, or `this`: labkit then measures the speed of this machine.")
    ] = "a100-80gb",
    link: Annotated[
        str | None, typer.Option(help="The link between the GPUs of a node; if left out, the usual link of this GPU.")
    ] = None,
    gpus: Annotated[int, typer.Option(help="The maximum number of GPUs.")] = 8,
    latency_ms: Annotated[float | None, typer.Option(help="The latency limit for a batch, in milliseconds.")] = None,
    careful: Annotated[
        bool,
        typer.Option("--careful", help="Also require that the upper end of the prediction's interval is within the limit."),
    ] = False,
    precision: Annotated[str, typer.Option(help="Precisions to try: fp32, bf16, fp16, fp8, int8, int4.")] = "fp16",
    sparse: Annotated[bool, typer.Option("--sparse", help="Use 2:4 structured sparsity in the layers' matrices.")] = False,
    cache_precision: Annotated[str, typer.Option(help="The precision of the KV cache, such as fp8.")] = "",
    batch: Annotated[str | None, typer.Option(help="Batches to try; if left out, 1, 2, 4, ... 256.")] = None,
    input_tokens: Annotated[int, typer.Option(help="Prompt tokens per request.")] = 128,
    output_tokens: Annotated[int, typer.Option(help="New tokens per request.")] = 32,
    tensor_parallel: Annotated[str | None, typer.Option(help="Sizes to try; if left out, all that fit the model.")] = None,
    pipeline_parallel: Annotated[
        str | None, typer.Option(help="Numbers of stages to try; if left out, all that fit the model.")
    ] = None,
    rank: Annotated[str, typer.Option(help="Sort the plans by throughput, latency or gpus, the best first.")] = "throughput",
    price: Annotated[float, typer.Option(help="The price of one GPU for an hour, in your currency.")] = 0.0,
    budget: Annotated[float | None, typer.Option(help="The most that all GPUs together may cost per hour.")] = None,
    rate: Annotated[
        float | None, typer.Option(help="Also simulate the best plan with this many requests per second, at random times.")
    ] = None,
    top: Annotated[int, typer.Option(help="How many plans to print.")] = 8,
    calibrate: Annotated[Path | None, typer.Option(help="Fit the efficiencies to the measurements in this CSV file.")] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Write all plans to this CSV file, in the columns of NeMo-Megatron's tool.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw latency, throughput and memory of the plans to this file.")] = None,
    validate: Annotated[
        bool,
        typer.Option(
            "--validate", help="Compare the predictions with published tables: fit to one model size, and predict the others."
        ),
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Run the best few plans of a local model (gptj-tiny) on this machine, and compare."),
    ] = False,
    records: Annotated[
        Path | None,
        typer.Option(
            help="Compare with a record of `labkit bench --save`, or a folder of records: fit to some rows, and "
            "predict the others."
        ),
    ] = None,
    save: Annotated[Path | None, typer.Option(help="With --verify: write the comparison to this JSON file.")] = None,
    json: JsonOption = False,
) -> None:
    """Predict memory, latency, throughput and cost of a model on GPUs, and find the best split, batch and precision.

    Every prediction has an interval that should contain nine of ten measurements, and says what takes most of the time.

    Example: labkit plan --model gpt-530b --gpus 32 --latency-ms 2000 --input-tokens 60 --output-tokens 20
    """
    from labkit.cli import plan_tables
    from labkit.planning.search import BATCHES, Question, search

    given = [name for name in context.params if (source := context.get_parameter_source(name)) and source.name != "DEFAULT"]
    _check_given(given, gpu)
    if validate or records is not None:
        _compare(validate, records, json, plot)
        return
    if verify:
        asked: dict[str, Any] = {"model": model, "batches": batch and whole_numbers(batch, "--batch"), "best": top}
        asked |= {"tensor_parallel": tensor_parallel and whole_numbers(tensor_parallel, "--tensor-parallel")}
        asked |= {"precisions": names(precision) if "precision" in given else None}
        _verify(asked, save, json)
        return
    if not 0 <= price < math.inf:
        raise InvalidRequest(f"--price is {price:g}; a number of at least 0 is accepted")
    if top < 1:
        raise InvalidRequest(f"--top is {top}; a whole number of at least 1 is accepted")
    if budget is not None:
        gpus = _within_budget(gpus, budget, price)
    shape = _shape(model or "gpt-j-6b", params, config)
    device = _device(gpu, link)
    found = _fit(device, calibrate)
    question = Question(
        shape=shape,
        device=device,
        gpus=gpus,
        latency_seconds=float("inf") if latency_ms is None else latency_ms / 1e3,
        precisions=names(precision),
        sparse=sparse,
        batches=BATCHES if batch is None else whole_numbers(batch, "--batch"),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        tensor_parallel=() if tensor_parallel is None else whole_numbers(tensor_parallel, "--tensor-parallel"),
        pipeline_parallel=() if pipeline_parallel is None else whole_numbers(pipeline_parallel, "--pipeline-parallel"),
        cache_precision=cache_precision,
        careful=careful,
    )
    answer = search(question, found, rank)
    if answer.plans:
        plan_tables.print_answer(question, answer, found, top=top, price=price)
    load = None
    if rate is not None and answer.plans:
        load = plan_tables.simulate_and_print(answer.plans[0], found, rate)
    if csv:
        from labkit.planning.nemo_csv import write_csv

        say(f"plans written to {write_csv(csv, answer.plans)}")
    if plot:
        from labkit.planning.plots import plans_plot

        plans_plot(question, answer).savefig(plot)
        say(f"drawn to {plot}")
    if json:
        shown = answer.plans[:top]
        values = {"plans": [one.to_dict(price) for one in shown], "why_none": answer.why_none, "tried": answer.tried}
        nearest = answer.nearest.to_dict(price) if answer.nearest and not answer.plans else None
        print_json(values | {"nearest": nearest, "fit": found.to_dict()} | ({"load": load} if load else {}))
    if not answer.plans:
        raise InsufficientResources(answer.why_none)


def _check_given(given: list[str], gpu: str) -> None:
    """Raise `InvalidRequest` for an option that has no effect together with the other options that were given."""
    for mode, (what, used) in MODES.items():
        if mode in given:
            if unused := [name for name in given if name not in (mode, *used)]:
                raise InvalidRequest(f"{_option(unused[0])} is not an option of {_option(mode)}, which {what}; leave it out")
            return
    if "save" in given:
        raise InvalidRequest("--save is an option of --verify; to write the plans to a file, use --csv")
    if len(models := [_option(name) for name in ("model", "params", "config") if name in given]) > 1:
        raise InvalidRequest(f"{' and '.join(models)} were given, but each of them says what is planned; give one of them")
    if "link" in given and gpu == THIS_MACHINE:
        raise InvalidRequest("--link is not used with --gpu this, which describes this machine; leave it out")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _within_budget(gpus: int, budget: float, price: float) -> int:
    if price <= 0:
        raise InvalidRequest("--budget needs --price, the price of one GPU for an hour")
    if not 0 < budget < math.inf:
        raise InvalidRequest(f"--budget is {budget:g}; a number above 0 is accepted")
    if budget < price:
        raise InvalidRequest(f"--budget {budget:g} does not pay for one GPU at --price {price:g} an hour")
    return int(min(gpus, budget // price))


def _shape(model: str, params: str | None, config: Path | None) -> Shape:
    from labkit.planning.named_shapes import SHAPES, named_shape
    from labkit.planning.shape import Shape

    if params is not None:
        text = params.lower().strip()
        factor = {"m": 1e6, "b": 1e9, "t": 1e12}.get(text[-1:], 1.0)
        try:
            count = float(text.rstrip("mbt")) * factor
        except ValueError:
            raise InvalidRequest(f"--params is {params!r}; a number such as 20e9, 350m or 175b is accepted") from None
        shape = Shape.of_parameters(count)
        say(f"{shape.name}: {shape.num_layers} layers, hidden size {shape.hidden_size}, {shape.num_heads} heads")
        return shape
    if config is None and model in SHAPES:
        return SHAPES[model]
    from labkit.checkpoints import config_of

    if config is None and model not in ("gptj-tiny", "gpt-j-6b-synthetic", "gpt-j-405m-synthetic") and not Path(model).exists():
        return named_shape(model)
    return Shape.of_config(config_of(str(config or model)), str(config.parent.name if config else model))


def _verify(asked: dict[str, Any], save: Path | None, json: bool) -> None:
    """Run the best plans, and compare them with their predictions; settings that were not given keep their defaults."""
    from labkit.bench.plan_check import CheckSettings, check_plans
    from labkit.bench.plan_check import save as save_check
    from labkit.cli import plan_tables

    settings = CheckSettings(**{name: value for name, value in asked.items() if value is not None})
    report = check_plans(settings, say, plan_tables.print_predictions)
    plan_tables.print_verified(report)
    if save:
        say(f"record written to {save_check(report, settings, save)}")
    if json:
        print_json(report.to_dict())


def _device(gpu: str, link: str | None) -> Device:
    from labkit.planning.catalogue import named_gpu, with_link

    if gpu != THIS_MACHINE:
        return with_link(named_gpu(gpu), link)
    from labkit.bench.plan_check import measured_device
    from labkit.environment import describe
    from labkit.measure.ceilings import ceilings

    say("measuring this machine for about 4 seconds")
    measured = ceilings()
    if measured.disturbed:
        say(f"labkit: {measured.disturbed}; so the predictions are too slow")
    return measured_device(measured, describe())


def _fit(device: Device, calibrate: Path | None) -> Fit:
    from labkit.planning.fit import with_spread_of_left_out
    from labkit.planning.published import default_fit, measurements, read_rows

    if calibrate is not None:
        rows = measurements(read_rows(calibrate))
        return with_spread_of_left_out(rows, lambda row: row.plan.shape.name, source=str(calibrate))
    if device.kind == "cpu":
        from labkit.planning.this_machine import cpu_fit

        return cpu_fit()
    return default_fit()


def _compare(validate: bool, records: Path | None, json: bool, plot: Path | None) -> None:
    from labkit.cli import plan_tables

    values = plan_tables.validate_and_print(plot) if validate else plan_tables.verify_and_print(records)
    if plot and validate:
        say(f"drawn to {plot}")
    if json:
        print_json(values)
