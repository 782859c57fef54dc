"""Measures how much 8-bit weights and activations change the quality of a model that the engine runs, on held-out text.

    python -m tests.benchmarks.eight_bit_quality [--rows "w8a8;w8a8-smoothquant --alpha 0.6"] [--work FOLDER] [--save FILE]

Each row of the result is one directory that `labkit compress` writes. The CPU's kernels run it, so activations are rounded as
well. `labkit.engine.compare` compares it with the dense model in fp32; each measure has a 95 % interval. The row `bf16` is the
dense model in bf16; all other rows also compute in bf16, except for the matrix products. Quality does not depend on the load of
the machine. With `--work`, directories and rows are kept in the folder and used again. The last line of the output is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import shlex
import tempfile
from pathlib import Path
from typing import Any

from labkit.checkpoints import open_checkpoint
from labkit.compress import compress, recipe_named
from labkit.compress.calibration import CalibrationText
from labkit.engine import compare, load
from labkit.engine.bootstrap import RESAMPLES
from labkit.engine.text_windows import text_windows
from labkit.measure import Record
from tests.benchmarks.compress_quality import percents, remembered
from tests.benchmarks.perplexity import MODEL, SEED, TEXT

CALIBRATORS = ("minmax", "percentile", "entropy", "mse")
ROWS = (
    "bf16",
    "w8a8",
    "w8a8-smoothquant",
    *(f"w8a8 --activations static --calibrator {name}" for name in CALIBRATORS),
    *(f"w8a8-smoothquant --activations static --calibrator {name}" for name in CALIBRATORS),
    "fp8",
    "fp8 --weight-scales tensor",
    "fp8 --activations static",
    "fp8_e5m2",
)


def options_of(words: list[str]) -> tuple[str, dict[str, Any]]:
    """Return the method of a row, and its options for `recipe_named`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("method")
    for name in ("--activations", "--calibrator", "--weight-scales"):
        parser.add_argument(name)
    parser.add_argument("--alpha", type=float)
    found = vars(parser.parse_args(words))
    return found.pop("method"), found


def run_row(arguments: str, model: str, folder: Path, calibration: CalibrationText) -> tuple[str | Path, dict[str, Any]]:
    """Return the model that the engine loads for a row, and facts about the row.

    The model is a directory, which is made if it does not exist yet; for the row `bf16`, it is the dense model.
    """
    if arguments == "bf16":
        return model, {"row": arguments, "bits_per_weight": 16.0}
    name, options = options_of(shlex.split(arguments))
    recipe = recipe_named(name, **options)
    if not folder.exists():
        compress(model, folder, recipe, calibration=calibration)
    made = json.loads((folder / "compression.json").read_text())
    return folder, {"row": arguments, "bits_per_weight": recipe.bits_per_weight(open_checkpoint(model).config), "made": made}


def main() -> None:
    """Measure, print one line for each row, and write the record; the last line of the output is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL, help="a model with a tokenizer")
    parser.add_argument("--text", type=Path, default=TEXT, help="a UTF-8 text file (default: the built-in held-out sample)")
    parser.add_argument("--rows", default=";".join(ROWS), help="arguments of methods, separated by semicolons")
    parser.add_argument("--work", type=Path, help="keep directories and rows in this folder")
    parser.add_argument("--save", type=Path, help="write the record to this JSON file too")
    asked = parser.parse_args()
    calibration, text = CalibrationText.read(), asked.text.read_text("utf-8")
    calibration.check_apart(text)
    with load(asked.model, device="cpu", dtype="fp32") as engine:
        assert engine.tokenizer is not None
        parts = text_windows(engine.tokenizer.encode(text), engine.config.context_length)
        dense = remembered(engine.logits, parts)
    rows: list[dict[str, Any]] = []
    settings = {"model": asked.model, "text": asked.text.name, "device": "cpu"}
    tokens = sum(len(part.targets) for part in parts)
    extra = {"tokens": tokens, "windows": len(parts), "resamples": RESAMPLES, "bootstrap_seed": SEED}
    with tempfile.TemporaryDirectory() as temporary:
        work = asked.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        for arguments in map(str.strip, asked.rows.split(";")):
            folder = work / arguments.replace(" ", "").replace("--", "-")
            kept = folder.with_suffix(".json")
            if not kept.exists():
                source, row = run_row(arguments, asked.model, folder, calibration)
                with load(source, device="cpu", dtype="bf16" if arguments == "bf16" else None) as engine:
                    row["engine"] = compare(engine, dense, text, seed=SEED).to_dict()
                kept.write_text(json.dumps(row))
            rows.append(json.loads(kept.read_text()))
            found = rows[-1]["engine"]
            change, kl, same = percents(found["change"]), found["kl"]["value"], found["agreement"]["value"]
            print(f"{arguments:<60} {change:>28} {kl:>8.5f} {same:>8.2%}", flush=True)
            if asked.save:
                Record("eight_bit_quality", settings, rows, extra=extra).save(asked.save)
    print(json.dumps(Record("eight_bit_quality", settings, rows, extra=extra).to_dict()))


if __name__ == "__main__":
    main()
