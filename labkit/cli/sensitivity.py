"""`labkit sensitivity`: measures which matrices of a model suffer most from quantization."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labkit.cli.output import JsonOption, SeedOption, print_json, say, whole_numbers

if TYPE_CHECKING:
    from labkit.compress.sensitivity import Damage


def sensitivity(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's name or directory, with dense weights.")],
    group_size: Annotated[int, typer.Option(help="Number of neighbours in a row that share a scale; 0: the whole row.")] = 64,
    calibration: Annotated[
        Path | None, typer.Option(help="A UTF-8 text; if left out, text that gptj-tiny was trained on.")
    ] = None,
    bits: Annotated[str, typer.Option(help="The numbers of bits to try, separated by commas.")] = "4,3,2",
    windows: Annotated[int, typer.Option(help="The number of windows of the text.")] = 4,
    window: Annotated[int | None, typer.Option(help="Tokens per window; the model's context if left out.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the map of all matrices into this PNG or SVG file.")] = None,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Quantize one matrix at a time, and one block at a time, to 4, 3 and 2 bits with GPTQ, and measure the damage.

    The damage is the Kullback-Leibler divergence from the dense model, in nats per token, on calibration text. `labkit
    compress --method mixed --bits 4.5` chooses bits from such a measurement.

    Example: labkit sensitivity gptj-tiny --plot sensitivity.png
    """
    from dataclasses import asdict

    from labkit.compress.calibration import HELD_OUT, CalibrationText, windows_of
    from labkit.compress.choose_bits import measure
    from labkit.compress.dense import open_dense
    from labkit.compress.method import method_named
    from labkit.errors import InvalidRequest

    tried = whole_numbers(bits, "--bits")
    if not tried or not all(2 <= each <= 8 for each in tried):
        raise InvalidRequest(f"--bits is {bits!r}; whole numbers from 2 to 8 are accepted, separated by commas")
    method = method_named("int4-gptq", group_size=group_size)
    checkpoint = open_dense(model, seed)
    method.check(checkpoint.config)
    text = CalibrationText.read(calibration)
    text.check_apart(HELD_OUT.read_text("utf-8"))
    longest = checkpoint.config.context_length
    length = longest if window is None else min(window, longest)
    ids = windows_of(text, checkpoint.tokenizer(), length, windows, seed)
    damages = measure(checkpoint, method, ids, bits=tried, progress=lambda done, total, name: say(f"[{done}/{total}] {name}"))
    print(table(damages))
    if plot is not None:
        from labkit.compress.plots import sensitivity_plot

        caption = f"{checkpoint.name}, {method.scheme}, GPTQ; {len(ids)} windows of {length} tokens of {text.name}"
        sensitivity_plot(damages, caption=caption).savefig(plot)
    if json:
        settings = {"model": checkpoint.name, "calibration": text.name, "windows": len(ids), "window": length, "seed": seed}
        print_json({**settings, "group_size": group_size, "damages": [asdict(each) for each in damages]})


def table(damages: list[Damage]) -> str:
    """The divergence at each number of bits as text, one line per matrix and block, in the order of the model."""
    bits = sorted({each.bits for each in damages}, reverse=True)
    lines = ["KL divergence in nats per token when one module alone is quantized"]
    lines += [f"  {'module':<32}" + "".join(f"{f'int{each}':>10}" for each in bits)]
    by_module: dict[str, dict[int, float]] = {}
    for each in damages:
        by_module.setdefault(each.module, {})[each.bits] = each.divergence
    lines += [f"  {name:<32}" + "".join(f"{found[each]:>10.5f}" for each in bits) for name, found in by_module.items()]
    return "\n".join(lines)
