"""`labkit tune`: finds the fastest kernels for a model on this GPU."""

from __future__ import annotations

from typing import Annotated

import typer

from labkit.cli.output import DeviceOption, JsonOption, ModelOption, PrecisionOption, print_json, say, whole_numbers
from labkit.errors import InvalidRequest, NotAvailable


def tune(
    model: ModelOption = "gpt-j-6b",
    precision: PrecisionOption = None,
    batch: Annotated[str, typer.Option(help="Numbers of sequences per decode step, separated by commas.")] = "1,2,4,8,16,32,64",
    device: DeviceOption = None,
    json: JsonOption = False,
) -> None:
    """Measure the kernels of a model's linear layers on this GPU, and save the fastest choices in autotune.json.

    No weights are needed. Every engine that is loaded afterwards uses these choices. Run this again after you update the
    driver, torch or Triton.

    Example: labkit tune --model gpt-j-6b --precision int8 --batch 1,8
    """
    from labkit.checkpoints import config_of
    from labkit.home import home
    from labkit.precision import as_device, as_precision

    batches, target = whole_numbers(batch, "--batch"), as_device(device)
    if min(batches) < 1:
        raise InvalidRequest(f"--batch is {batch!r}, but every batch needs at least one sequence")
    if target.type != "cuda":
        raise NotAvailable(
            f"the device is {target}, but only the kernels of a GPU can be tuned; the kernels of a CPU need no tuning"
        )
    from labkit.ops.kernels.linear_tune import tune_model

    lines: list[str] = []

    def report(line: str) -> None:
        lines.append(line)
        say(line)

    tune_model(config_of(model), as_precision(precision, target), batches, target, report)
    if not lines:
        say("nothing to tune: all choices are already saved, or batches of this size use NVIDIA's library")
    if json:
        print_json({"tuned": lines, "file": str(home() / "autotune.json")})
