"""`labkit compress`: quantizes a model and writes a directory that the engine runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labkit.cli.output import JsonOption, SeedOption, print_json, say
from labkit.errors import InvalidRequest

if TYPE_CHECKING:
    from labkit.compress import CalibrationText

DISTILL = "distill"
SHOWN = 20
"""The number of training steps between two lines of progress."""


def compress(
    source: Annotated[str, typer.Argument(metavar="MODEL", help="A model's name or directory, with dense weights.")],
    out: Annotated[Path, typer.Option(help="The folder to write; it must not exist yet.")],
    method: Annotated[
        str,
        typer.Option(
            help="intN-rtn, -mse, -awq, -gptq, -qat (N: 8, 4, 3, 2), int1, mixed; w8a8 or fp8, optionally -smoothquant; "
            "2:4-magnitude, -wanda, -sparsegpt, optionally -recovered, then optionally +int8 or +int4; distill."
        ),
    ],
    group_size: Annotated[
        int | None,
        typer.Option(
            help="Number of neighbours in a row that share a scale; 0: the whole row. If left out: 0 for int8 and qat, else 64."
        ),
    ] = None,
    asymmetric: Annotated[bool | None, typer.Option("--asymmetric", help="Store a zero point with each scale.")] = None,
    activations: Annotated[
        str | None,
        typer.Option(help="w8a8, fp8: dynamic (a scale for each token) or static (calibrated); dynamic if left out."),
    ] = None,
    calibrator: Annotated[
        str | None, typer.Option(help="Static activations: minmax, percentile, entropy (w8a8) or mse; minmax if left out.")
    ] = None,
    weight_scales: Annotated[
        str | None, typer.Option(help="w8a8, fp8: row (a scale for each output row, if left out) or tensor.")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="smoothquant: how much of the range moves into the weights, 0 to 1; 0.5 if left out.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="A UTF-8 text for methods that calibrate; if left out, text that gptj-tiny was trained on."),
    ] = None,
    windows: Annotated[
        int | None, typer.Option(help="The number of text windows; if left out, 16 tokens per input of the widest matrix.")
    ] = None,
    window: Annotated[int | None, typer.Option(help="Tokens per window; the model's context if left out.")] = None,
    damping: Annotated[
        float | None, typer.Option(help="gptq: the share of the mean diagonal that is added to the Hessian; 0.01 if left out.")
    ] = None,
    activation_order: Annotated[
        bool | None,
        typer.Option(
            "--activation-order/--no-activation-order",
            help="gptq: round the columns with the largest inputs first (the default), or from left to right.",
        ),
    ] = None,
    bits: Annotated[float | None, typer.Option(help="mixed: the mean bits per weight, including scales, such as 4.5.")] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="qat, 2:4-...-recovered, distill: the number of training steps; 96, 150 or 350 if left out."),
    ] = None,
    permute: Annotated[
        bool | None,
        typer.Option("--permute", help="2:4: search for an order of the channels in which the mask keeps more magnitude."),
    ] = None,
    layers: Annotated[int | None, typer.Option(help="distill: the number of layers of the student.")] = None,
    minutes: Annotated[float | None, typer.Option(help="distill: the training time, instead of --steps.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="distill: how much the teacher's predictions are softened; 1 if left out.")
    ] = None,
    continuations: Annotated[
        int | None,
        typer.Option(
            help="qat, 2:4-...-recovered, distill: how often the dense model continues each window, to make more text; "
            "0 if left out."
        ),
    ] = None,
    quality: Annotated[
        bool, typer.Option("--quality", help="Compare the result with MODEL in fp32, on held-out text.")
    ] = False,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Quantize or prune a model's weights: round to nearest (rtn), with searched scales (mse), activation-aware (awq),
    error-compensating (gptq), trained to be rounded (qat). `mixed` chooses the bits of each matrix by its sensitivity (`labkit
    sensitivity`), and rounds with gptq. `distill` trains a student with fewer layers.

    w8a8 and fp8 round the activations as well. 2:4 keeps two of every four weights: the largest (magnitude), or those that
    matter most for the outputs (wanda). sparsegpt also changes the kept weights to compensate for the error; -recovered trains
    the kept weights. The head is stored in int8, except for 2:4 without +int8 or +int4. The folder is in a format of
    compressed-tensors. `labkit generate`, `evaluate` and `serve` run it; w8a8, fp8, int8 with a scale for each row, int4
    without zero points, and 2:4 run in labkit's kernels with the stored numbers. Other formats are dequantized while they are
    loaded. If the command is stopped (Ctrl-C), run it again: finished blocks are kept.

    Example: labkit compress gptj-tiny --method int4-gptq --out gptj-tiny-int4
    """
    from labkit.compress import CalibrationText, recipe_named
    from labkit.compress import compress as run

    if method == DISTILL:
        given = {"windows": windows, "window": window, "steps": steps, "minutes": minutes, "temperature": temperature}
        given |= {"continuations": continuations}
        others = {
            "--group-size": group_size,
            "--asymmetric": asymmetric,
            "--activations": activations,
            "--calibrator": calibrator,
            "--weight-scales": weight_scales,
            "--alpha": alpha,
            "--damping": damping,
            "--activation-order": activation_order,
            "--bits": bits,
            "--permute": permute,
        }
        _distill(source, out, layers, given, others, calibration, quality=quality, seed=seed, json=json)
        return
    trained = {"--layers": layers, "--minutes": minutes, "--temperature": temperature}
    for option, value in trained.items():
        if value is not None:
            raise InvalidRequest(f"{option} is {value}, but method {method} trains no student; leave it out, or use distill")
    chosen = recipe_named(
        method,
        group_size=group_size,
        asymmetric=asymmetric,
        damping=damping,
        activation_order=activation_order,
        steps=steps,
        continuations=continuations,
        bits=bits,
        activations=activations,
        calibrator=calibrator,
        alpha=alpha,
        weight_scales=weight_scales,
        permute=permute,
    )
    texts = {"--calibration": calibration, "--windows": windows, "--window": window}
    for option, given_text in texts.items():
        if given_text is not None and not chosen.calibrated:
            raise InvalidRequest(f"{option} is {given_text}, but method {method} reads no text; leave it out")
    text = CalibrationText.read(calibration) if chosen.calibrated else None
    if text is not None:
        _check_apart(text)
    try:
        result = run(
            source,
            out,
            chosen,
            calibration=text,
            windows=windows,
            window=window,
            seed=seed,
            progress=lambda done, total, name: say(f"[{done}/{total}] {name}"),
        )
    except KeyboardInterrupt:
        say("stopped; finished blocks are kept, and the same command continues after them")
        raise
    before, after = result.bytes_before / 1e6, result.bytes_after / 1e6
    say(f"{before:,.1f} MB became {after:,.1f} MB; {result.bits_per_weight:.2f} bits per weight in the blocks' matrices")
    measured = _quality(source, out, seed) if quality else None
    if json:
        sizes = {"bytes_before": result.bytes_before, "bytes_after": result.bytes_after}
        print_json({"path": str(result.path), **sizes, "bits_per_weight": result.bits_per_weight, "quality": measured})
    else:
        print(result.path)


def _distill(
    source: str,
    out: Path,
    layers: int | None,
    given: dict[str, Any],
    others: dict[str, Any],
    calibration: Path | None,
    *,
    quality: bool,
    seed: int,
    json: bool,
) -> None:
    from labkit.compress import CalibrationText
    from labkit.compress.distill import DistillOptions, distill

    if wrong := [option for option, value in others.items() if value is not None]:
        raise InvalidRequest(f"{wrong[0]} is not an option of distill, which quantizes nothing; leave it out")
    if layers is None:
        raise InvalidRequest("distill needs the number of layers of the student; give --layers, for example --layers 4")
    options = DistillOptions(layers, **{name: value for name, value in given.items() if value is not None})
    text = CalibrationText.read(calibration)
    _check_apart(text)
    try:
        result = distill(source, out, options, calibration=text, seed=seed, progress=_training_progress)
    except KeyboardInterrupt:
        say("stopped; the training's state is kept, and the same command continues from this state")
        raise
    share = result.parameters / result.teacher_parameters
    say(
        f"the student has {result.parameters / 1e6:,.1f} million parameters, {share:.0%} of the teacher's "
        f"{result.teacher_parameters / 1e6:,.1f} million; {result.steps} steps"
    )
    measured = {**_quality(source, out, seed), **_kept(source, out, text, seed)} if quality else None
    if json:
        sizes = {"teacher_parameters": result.teacher_parameters, "parameters": result.parameters}
        training = {"steps": result.steps, "seconds": result.seconds, "loss": result.loss}
        print_json({"path": str(result.path), **sizes, **training, "quality": measured})
    else:
        print(result.path)


def _kept(source: str, out: Path, text: CalibrationText, seed: int) -> dict[str, Any]:
    """Measure on the held-out sample how much of the teacher's quality the student keeps."""
    from labkit.compress.calibration import HELD_OUT
    from labkit.compress.kept_quality import kept_quality, token_frequencies
    from labkit.engine import load
    from labkit.engine.text_windows import text_windows

    with load(source, dtype="fp32", seed=seed) as teacher, load(str(out), seed=seed) as student:
        tokenizer, config = student.tokenizer, student.config
        assert tokenizer is not None
        windows = text_windows(tokenizer.encode(HELD_OUT.read_text("utf-8")), config.context_length)
        frequencies = token_frequencies(tokenizer.encode(text.text), config.vocab_size)
        found = kept_quality(student.logits, teacher.logits, windows, frequencies, seed)
    say(
        f"it predicts {found.accuracy.value:.1%} of the next tokens, and the teacher {found.teacher_accuracy.value:.1%}: it "
        f"keeps {found.kept.value:.1f} % of the score, and {found.information.value:.1f} % of the information"
    )
    return found.to_dict()


def _training_progress(done: int, total: int, name: str) -> None:
    """Print every twentieth step and the first three."""
    if done % SHOWN == 0 or done < 3:
        say(f"[{done}/{total or '?'}] {name}")


def _check_apart(text: CalibrationText) -> None:
    from labkit.compress.calibration import HELD_OUT

    text.check_apart(HELD_OUT.read_text("utf-8"))


def _quality(source: str, out: Path, seed: int) -> dict[str, Any]:
    """Measure on the held-out sample how far the compressed model is from the source in fp32."""
    from labkit.cli.evaluate import table
    from labkit.compress.calibration import HELD_OUT
    from labkit.engine import compare, load

    with load(source, dtype="fp32", seed=seed) as reference, load(str(out), seed=seed) as engine:
        quality = compare(engine, reference.logits, HELD_OUT.read_text("utf-8"), seed=seed)
    say(f"quality on held-out text ({HELD_OUT.name}), against {source} in fp32")
    say(table(quality))
    return {**quality.to_dict(), "text": HELD_OUT.name}
