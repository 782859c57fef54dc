"""Measures the effect of 2:4 sparsity on the quality of a model on held-out text, and how much magnitude the masks keep when
the channels are permuted.

    python -m tests.benchmarks.sparse_quality [--rows "2:4-magnitude;2:4-wanda --permute"] [--work FOLDER] [--save FILE]

Every row describes a directory that `labkit compress` writes. `weights` is the quality of the stored numbers in a float32
forward pass, and `engine` is the quality of the directory as `labkit.load` runs it. `labkit.engine.compare` measures both
against the dense model in fp32, each with a 95 % interval from a seeded bootstrap over the windows. `better` compares two rows
on the same windows: it is the change of perplexity from the first method to the second. `kept` is the share of each matrix's
magnitude that a 2:4 mask keeps, with the channels in their original order and permuted. `seconds` is the time that `compress`
took, on a machine that may have been busy. With `--work FOLDER`, directories and rows are kept in this folder, and the next run
uses them again. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import shlex
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from labkit.checkpoints import open_checkpoint
from labkit.compress import CalibrationText, compress, recipe_named
from labkit.compress.block import MATRICES
from labkit.compress.channel_permutation import SearchOptions
from labkit.compress.permuted_checkpoint import PermutedCheckpoint, search_orders
from labkit.compress.two_four import kept_magnitude
from labkit.engine import compare, load
from labkit.engine.bootstrap import RESAMPLES
from labkit.engine.evaluate import Logits
from labkit.measure import Record
from tests.benchmarks.compress_quality import dense_model, percents
from tests.benchmarks.perplexity import MODEL, SEED, TEXT

LONG = "--permute --steps 600 --continuations 4"
"""The options of the best recovery: more steps, with text that the dense model writes."""
ROWS = (
    "2:4-magnitude",
    "2:4-magnitude --permute",
    "2:4-wanda",
    "2:4-wanda --permute",
    "2:4-sparsegpt",
    "2:4-sparsegpt --permute",
    "2:4-sparsegpt+int8",
    "2:4-sparsegpt+int4",
    "2:4-sparsegpt-recovered",
    f"2:4-sparsegpt-recovered {LONG}",
)
PAIRS = (
    ("2:4-magnitude", "2:4-wanda"),
    ("2:4-wanda", "2:4-sparsegpt"),
    ("2:4-magnitude", "2:4-magnitude --permute"),
    ("2:4-wanda", "2:4-wanda --permute"),
    ("2:4-sparsegpt", "2:4-sparsegpt --permute"),
)
"""Pairs of rows that are compared with each other."""
HEADER = f"{'row':<72} {'bits':>5} {'perplexity, stored in fp32':>28} {'KL':>8} {'same token':>10}  as the engine runs it"


def run_row(arguments: str, model: str, folder: Path, calibration: CalibrationText) -> dict[str, Any]:
    """Compress the model with the method and options of a row. Return its bits per weight, its bytes and how it was made."""
    parser = argparse.ArgumentParser()
    parser.add_argument("method")
    parser.add_argument("--permute", action="store_true", default=None)
    parser.add_argument("--group-size", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--continuations", type=int)
    words = vars(parser.parse_args(shlex.split(arguments)))
    recipe, begun = recipe_named(words.pop("method"), **words), time.monotonic()
    taken = None
    if not folder.exists():
        compress(model, folder, recipe, calibration=calibration)
        taken = time.monotonic() - begun
    made = json.loads((folder / "compression.json").read_text())
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    bits = recipe.bits_per_weight(open_checkpoint(model).config)
    return {"row": arguments, "bits_per_weight": bits, "bytes": size, "compress_seconds": taken, "made": made}


def score(folder: Path, dense: Logits, text: str) -> dict[str, Any]:
    """The quality of the stored numbers, and of what the engine's kernels compute with them."""
    found = {}
    for name, dtype in (("weights", "fp32"), ("engine", None)):
        with load(folder, device="cpu", dtype=dtype) as engine:
            found[name] = compare(engine, dense, text, seed=SEED).to_dict()
            found[f"{name}_precision"] = engine.model.precision
    return found


def kept(model: str) -> list[dict[str, Any]]:
    """The share of each matrix's magnitude that a 2:4 mask keeps, before and after the search for a better channel order."""
    checkpoint = open_checkpoint(model)
    permuted = PermutedCheckpoint(checkpoint, search_orders(checkpoint, SearchOptions(), lambda done, total, name: None))
    rows = []
    for layer in range(checkpoint.config.num_layers):
        for module in MATRICES:
            name = f"transformer.h.{layer}.{module}.weight"
            before, after = (kept_magnitude(each.read(name, dtype=torch.float32)) for each in (checkpoint, permuted))
            rows.append({"matrix": name.removesuffix(".weight"), "in_order": before, "permuted": after})
    return rows


def better(folders: dict[str, Path], text: str) -> list[dict[str, Any]]:
    """For each pair in `PAIRS` whose folders exist, return how the second folder differs from the first."""
    found = []
    for first, second in PAIRS:
        if first in folders and second in folders:
            with (
                load(folders[first], device="cpu", dtype="fp32") as one,
                load(folders[second], device="cpu", dtype="fp32") as two,
            ):
                found.append(
                    {"from": first, "to": second, "change": compare(two, one.logits, text, seed=SEED).to_dict()["change"]}
                )
    return found


def line_of(row: dict[str, Any]) -> str:
    """A row as text, in the columns of `HEADER`."""
    found = row["weights"]
    change = f"{percents(found['change']):>28} {found['kl']['value']:>8.5f} {found['agreement']['value']:>9.2%}"
    engine = f"{row['engine_precision']}: {percents(row['engine']['change'])}"
    return f"{row['row']:<72} {row['bits_per_weight']:>5.2f} {change}  {engine}"


def measure(asked: argparse.Namespace, work: Path, after_row: Callable[[list[dict[str, Any]]], None]) -> dict[str, Any]:
    """Measure all rows and return the facts that they share. After each row, `after_row` gets the rows so far."""
    calibration, text = CalibrationText.read(), asked.text.read_text("utf-8")
    calibration.check_apart(text)
    rows: list[dict[str, Any]] = []
    folders: dict[str, Path] = {}
    work.mkdir(parents=True, exist_ok=True)
    dense, reference, windows = dense_model(asked.model, text)
    for arguments in map(str.strip, asked.rows.split(";")):
        folder = folders[arguments] = work / arguments.replace(" ", "").replace(":", "").replace("--", "-")
        file = folder.with_suffix(".json")
        if not file.exists():
            file.write_text(json.dumps(run_row(arguments, asked.model, folder, calibration) | score(folder, dense, text)))
        rows.append(json.loads(file.read_text()))
        after_row(rows)
    return {
        "dense": reference.to_dict(),
        "windows": windows,
        "resamples": RESAMPLES,
        "bootstrap_seed": SEED,
        "better": better(folders, text),
        "kept": kept(asked.model),
    }


def main() -> None:
    """Measure, print the table, write the record; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL, help="a model with a tokenizer")
    parser.add_argument("--text", type=Path, default=TEXT, help="a UTF-8 text file (default: the built-in held-out sample)")
    parser.add_argument("--rows", default=";".join(ROWS), help="methods and their options, separated by semicolons")
    parser.add_argument("--work", type=Path, help="keep the compressed directories in this folder")
    parser.add_argument("--save", type=Path, help="write the record to this JSON file too")
    asked = parser.parse_args()
    settings, found = {"model": asked.model, "text": asked.text.name, "device": "cpu"}, []

    def after_row(rows: list[dict[str, Any]]) -> None:
        found[:] = rows
        print(line_of(rows[-1]), flush=True)

    print(HEADER)
    with tempfile.TemporaryDirectory() as temporary:
        extra = measure(asked, asked.work or Path(temporary), after_row)
    for each in extra["better"]:
        print(f"{each['from']} -> {each['to']}: {percents(each['change'])}")
    more = sum(each["permuted"] > each["in_order"] for each in extra["kept"])
    print(f"permutation keeps more magnitude of {more} of {len(extra['kept'])} matrices")
    record = Record("sparse_quality", settings, found, extra=extra)
    if asked.save:
        record.save(asked.save)
    print(json.dumps(record.to_dict()))


if __name__ == "__main__":
    main()
