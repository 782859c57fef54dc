"""Measures how much each method of `labkit compress` changes the quality of a model, on held-out text.

    python -m tests.benchmarks.compress_quality [--rows "int8;int4-gptq;int4-gptq --asymmetric"] [--work FOLDER] [--save FILE]

Every row of the result is one directory that `labkit compress` writes. `weights` is the quality of the stored numbers in a
float32 forward pass. `engine` is the quality of the directory when `labkit.load` runs it on the CPU, where int8 and int4
kernels also round activations. `labkit.engine.compare` compares both with the dense model in fp32; each measure has a 95 %
interval from a seeded bootstrap over the windows. Quality does not depend on the load of the machine. With `--work`,
directories and rows are kept in the folder and used again. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labkit.checkpoints import open_checkpoint
from labkit.checkpoints.checkpoint import expected_shapes
from labkit.checkpoints.integer_weight import IntegerScheme
from labkit.compress import compress, method_named
from labkit.compress.calibration import CalibrationText
from labkit.compress.choose_bits import SENSITIVITY
from labkit.engine import Quality, compare, load
from labkit.engine.bootstrap import RESAMPLES
from labkit.engine.evaluate import Logits
from labkit.engine.text_windows import TextWindow, text_windows
from labkit.measure import Record
from tests.benchmarks.perplexity import MODEL, SEED, TEXT

ROWS = (
    "int8",
    "int4-rtn",
    "int4-gptq",
    "int4-gptq --asymmetric",
    "int8-mse --group-size 32",
    "int4-rtn --group-size 0",
    "int4-gptq --group-size 0",
    "int1-rtn",
    "int2-rtn",
    "int2-gptq",
    "int3-rtn",
    "int3-gptq",
    "int4-mse",
    "int4-awq",
    "int4-qat --group-size 0",
    "int4-qat --group-size 0 --steps 400 --continuations 4",
    "mixed --bits 4.25",
    "mixed --bits 3.25",
)
AS_IT_RUNS = ("int8", "int4-rtn", "int4-awq", "int4-gptq")
"""Rows that are also measured with the engine's kernels."""


def remembered(logits: Logits, parts: list[TextWindow]) -> Logits:
    """Compute the logits of each window in `parts` once, and return a function that returns these logits."""
    kept = {tuple(part.seen): logits(part.seen).float().clone() for part in parts}
    return lambda seen: kept[tuple(seen)]


def run_row(arguments: str, model: str, folder: Path, calibration: CalibrationText) -> dict[str, Any]:
    """Compress the model with the arguments of a row, unless the folder exists already. Return facts about the folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("method")
    parser.add_argument("--group-size", type=int)
    parser.add_argument("--asymmetric", action="store_true")
    parser.add_argument("--bits", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--continuations", type=int)
    parser.add_argument("--windows", type=int)
    parser.add_argument("--window", type=int)
    words = vars(parser.parse_args(shlex.split(arguments)))
    sizes = {name: words.pop(name) for name in ("windows", "window")}
    method = method_named(words.pop("method"), **words)
    if not folder.exists():
        compress(model, folder, method, calibration=calibration, **sizes)
    made = json.loads((folder / "compression.json").read_text())
    bits = method.bits_per_weight(open_checkpoint(model).config)
    if method.average_bits is not None:
        bits = mixed_bits(folder, method.scheme.group_size)
    return {"row": arguments, "bits_per_weight": bits, "made": made}


def mixed_bits(folder: Path, group_size: int | None) -> float:
    """Return the bits per weight of a directory in mixed precision, including its scales."""
    chosen, shapes = json.loads((folder / SENSITIVITY).read_text())["bits"], expected_shapes(open_checkpoint(folder).config)
    bits = weights = 0.0
    for name, each in chosen.items():
        rows, columns = shapes[f"{name}.weight"]
        bits += rows * columns * IntegerScheme(each, group_size).bits_per_weight(columns)
        weights += rows * columns
    return bits / weights


def lost_less(rows: list[dict[str, Any]], baseline: str, better: str) -> float | None:
    """Return the share of the loss of row `baseline` that row `better` avoids; None if one of these rows is missing."""
    found = {row["row"]: row["weights"]["change"]["value"] for row in rows}
    return 1 - found[better] / found[baseline] if baseline in found and better in found else None


def dense_model(model: str, text: str) -> tuple[Logits, Quality, int]:
    """Return the logits of the dense model in fp32 on a text, the model's quality, and the number of windows of the text."""
    with load(model, device="cpu", dtype="fp32") as engine:
        assert engine.tokenizer is not None
        parts = text_windows(engine.tokenizer.encode(text), engine.config.context_length)
        dense = remembered(engine.logits, parts)
        return dense, compare(engine, dense, text, seed=SEED), len(parts)


def measure(
    asked: argparse.Namespace, work: Path, after_row: Callable[[list[dict[str, Any]], dict[str, Any]], None]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return all rows, and the facts that they share; `after_row` is called with the rows and the facts after every row."""
    calibration, text = CalibrationText.read(), asked.text.read_text("utf-8")
    calibration.check_apart(text)
    rows: list[dict[str, Any]] = []
    extra: dict[str, Any] = {}
    work.mkdir(parents=True, exist_ok=True)
    dense, reference, windows = dense_model(asked.model, text)
    for arguments in map(str.strip, asked.rows.split(";")):
        folder = work / arguments.replace(" ", "").replace("--", "-")
        kept = folder.with_name(f"{folder.name}.json")
        if not kept.exists():
            row = run_row(arguments, asked.model, folder, calibration)
            row |= score_row(arguments, folder, dense, text)
            kept.write_text(json.dumps(row))
        rows.append(json.loads(kept.read_text()))
        extra = facts(rows, reference, windows)
        after_row(rows, extra)
    return rows, extra


def score_row(arguments: str, folder: Path, dense: Logits, text: str) -> dict[str, Any]:
    """Return the quality `weights` of a row, and also the quality `engine` if the row is in `AS_IT_RUNS`."""
    found = {}
    for name, dtype in (("weights", "fp32"), ("engine", None)):
        if name == "weights" or arguments in AS_IT_RUNS:
            with load(folder, device="cpu", dtype=dtype) as engine:
                found[name] = compare(engine, dense, text, seed=SEED).to_dict()
    return found


def facts(rows: list[dict[str, Any]], reference: Quality, windows: int) -> dict[str, Any]:
    """Return the facts that all rows share, and comparisons of rows."""
    avoided = {
        f"int{bits}-{name}": lost_less(rows, f"int{bits}-rtn", f"int{bits}-{name}")
        for bits in (4, 3, 2)
        for name in ("awq", "gptq")
    }
    return {
        "dense": reference.to_dict(),
        "windows": windows,
        "resamples": RESAMPLES,
        "bootstrap_seed": SEED,
        "loss_avoided_over_rtn": {name: share for name, share in avoided.items() if share is not None},
    }


HEADER = f"{'row':<26} {'bits':>5} {'perplexity, stored in fp32':>28} {'KL':>8} {'same token':>10}  as the engine runs it"


def line_of(row: dict[str, Any]) -> str:
    """Return a row as a line of text, in the columns of `HEADER`."""
    found, engine = row["weights"], percents(row["engine"]["change"]) if "engine" in row else "–"
    change = f"{percents(found['change']):>28} {found['kl']['value']:>8.5f} {found['agreement']['value']:>9.2%}"
    return f"{row['row']:<26} {row['bits_per_weight']:>5.2f} {change}  {engine}"


def percents(change: dict[str, Any]) -> str:
    """Return a change in percent and the interval of this change as a text."""
    low, high = change["interval"]
    return f"{change['value']:+.3f} % ({low:+.2f} to {high:+.2f})"


def main() -> None:
    """Measure, print the table, and write the record; the last line of the output is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL, help="a model with a tokenizer")
    parser.add_argument("--text", type=Path, default=TEXT, help="a UTF-8 text file (default: the built-in held-out sample)")
    parser.add_argument("--rows", default=";".join(ROWS), help="arguments of methods, separated by semicolons")
    parser.add_argument("--work", type=Path, help="keep the compressed directories in this folder")
    parser.add_argument("--save", type=Path, help="write the record to this JSON file too")
    asked = parser.parse_args()
    settings = {"model": asked.model, "text": asked.text.name, "device": "cpu"}

    def after_row(rows: list[dict[str, Any]], extra: dict[str, Any]) -> None:
        print(line_of(rows[-1]), flush=True)
        if asked.save:
            Record("compress_quality", settings, rows, extra=extra).save(asked.save)

    print(HEADER)
    with tempfile.TemporaryDirectory() as temporary:
        rows, extra = measure(asked, asked.work or Path(temporary), after_row)
    record = Record("compress_quality", settings, rows, extra=extra)
    print(json.dumps(record.to_dict()))


if __name__ == "__main__":
    main()
