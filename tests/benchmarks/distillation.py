"""Measures how much of a model's quality its students keep, on held-out text, and compares them with students trained without a
teacher.

    python -m tests.benchmarks.distillation [--layers 4] [--steps 350 | --minutes 6] [--work FOLDER] [--save FILE]

For each number of layers there are four training runs, with one seed and the same number of steps or the same time:

- `distilled` uses the defaults.
- `written text` uses the defaults, and also text that the teacher writes.
- `text only` begins with the same weights as `distilled`, but uses only the loss of the next token, and no teacher.
- `from random` begins with random weights, and also uses only the loss of the next token.

Two students are not trained: `first` has the weights with which `distilled` begins, and `spread` has DistilBERT's choice of
layers. The difference from `distilled` in bits per byte has a paired bootstrap interval. `seen` compares student and teacher on
training text: a student that has learned this text by heart would be much closer to its teacher on this text than on held-out
text. Students in the folder `--work` are used again. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from labkit.checkpoints import open_checkpoint
from labkit.compress.calibration import HELD_OUT, CalibrationText, windows_of
from labkit.compress.dense_model import DenseModel
from labkit.compress.distill import CHOOSING, STEPS, WINDOW, DistillOptions, distill
from labkit.compress.kept_quality import kept_quality, token_frequencies
from labkit.compress.student import chosen_layers, first_student, spread_layers
from labkit.engine import load
from labkit.engine.bootstrap import RESAMPLES, Bootstrap
from labkit.engine.evaluate import Logits, compare_windows
from labkit.engine.text_windows import TextWindow, text_windows
from labkit.measure import Record
from tests.benchmarks.compress_quality import remembered

MODEL, SEED = "gptj-tiny", 0
SEEN = 16_384
"""The number of characters of the training text on which students are also measured."""
ARMS: dict[str, dict[str, Any]] = {
    "distilled": {},
    "written text": {"continuations": 4},
    "text only": {"soft": 0.0, "hidden": 0.0, "hard": 1.0},
    "from random": {"soft": 0.0, "hidden": 0.0, "hard": 1.0, "from_teacher": False},
}


def nats_of(logits: Logits, windows: list[TextWindow]) -> torch.Tensor:
    """Return the loss of each window in nats, summed over the targets of the window."""
    found = []
    for part in windows:
        scores = torch.log_softmax(logits(part.seen)[part.first :].double(), -1)
        found.append(-scores.gather(1, torch.tensor(part.targets)[:, None]).sum())
    return torch.stack(found)


def main() -> None:
    """Train, measure, print one line for each row, and write the record; the last line of the output is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", default="4", help="numbers of layers, separated by commas")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help=f"of each training (default: {STEPS})")
    length.add_argument("--minutes", type=float, help="of each training, instead of --steps")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--calibration", type=Path, help="a UTF-8 text for the training (default: the built-in sample)")
    parser.add_argument("--work", type=Path, help="keep the students in this folder")
    parser.add_argument("--save", type=Path, help="write the record to this JSON file too")
    asked = parser.parse_args()
    length_of = {"steps": asked.steps if asked.steps or asked.minutes else STEPS, "minutes": asked.minutes}
    calibration, text = CalibrationText.read(asked.calibration), HELD_OUT.read_text("utf-8")
    calibration.check_apart(text)
    checkpoint = open_checkpoint(MODEL)
    tokenizer = checkpoint.tokenizer()
    windows = text_windows(tokenizer.encode(text), checkpoint.config.context_length)
    frequencies = token_frequencies(tokenizer.encode(CalibrationText.read().text), checkpoint.config.vocab_size)
    sizes = [float(sum(len(tokenizer.token_bytes(token)) for token in part.targets)) for part in windows]
    ids = windows_of(calibration, tokenizer, WINDOW, len(calibration.text), SEED)
    seen = calibration.text[:SEEN]
    seen_windows = text_windows(tokenizer.encode(seen), checkpoint.config.context_length)
    with load(MODEL, device="cpu", dtype="fp32") as engine:
        dense, dense_seen = remembered(engine.logits, windows), remembered(engine.logits, seen_windows)
    rows: list[dict[str, Any]] = []
    settings = {"model": MODEL, **length_of, "seed": SEED, "calibration": calibration.name, "text": HELD_OUT.name}
    extra = {"teacher_parameters": checkpoint.config.parameter_count, "windows": len(windows), "resamples": RESAMPLES}
    with tempfile.TemporaryDirectory() as temporary:
        work = asked.work or Path(temporary)
        for layers in map(int, asked.layers.split(",")):
            distilled: torch.Tensor | None = None
            for name in asked.arms.split(","):
                options = replace(DistillOptions(layers, **length_of), **ARMS[name])
                folder = work / f"{layers}-{name.replace(' ', '-')}"
                row: dict[str, Any] = {"layers": layers, "arm": name}
                if not folder.exists():
                    train(folder, options, calibration)
                row |= json.loads((folder / "row.json").read_text())
                with load(folder, device="cpu", dtype="fp32") as engine:
                    own = remembered(engine.logits, windows)
                    row["seen"] = compare_windows(engine.logits, dense_seen, seen_windows, tokenizer, seen, SEED).to_dict()
                row |= measured(own, dense, windows, tokenizer, text, frequencies)
                nats = nats_of(own, windows)
                distilled = nats if name == "distilled" else distilled
                if distilled is not None and name != "distilled":
                    bits = (nats - distilled) / math.log(2) * sum(sizes) / len(text.encode())
                    more = Bootstrap(len(windows), SEED).ratio(bits, torch.tensor(sizes, dtype=torch.float64, device="cpu"))
                    row["bits_more_than_distilled"] = more.to_dict()
                rows.append(row)
                _show(row)
                if asked.save:
                    Record("distillation", settings, rows, extra=extra).save(asked.save)
            teacher = DenseModel(checkpoint)
            choices = {
                "first": chosen_layers(teacher, layers, ids[:CHOOSING]),
                "spread": spread_layers(checkpoint.config.num_layers, layers),
            }
            for name, copied in choices.items():
                student = first_student(teacher, copied)
                with torch.no_grad():
                    found = measured(remembered(student.logits, windows), dense, windows, tokenizer, text, frequencies)
                row = {"layers": layers, "arm": name, "parameters": student.config.parameter_count, "seconds": 0.0}
                rows.append(row | {"copied": copied} | found)
                _show(rows[-1])
    if asked.save:
        Record("distillation", settings, rows, extra=extra).save(asked.save)
    print(json.dumps(Record("distillation", settings, rows, extra=extra).to_dict()))


def train(folder: Path, options: DistillOptions, calibration: CalibrationText) -> None:
    """Train a student, and write the facts about its training that the record needs into its folder."""
    begun = time.process_time()
    result = distill(MODEL, folder, options, calibration=calibration, seed=SEED)
    used = {"seconds": result.seconds, "cpu_seconds": time.process_time() - begun}
    facts = {"steps": result.steps, "parameters": result.parameters, "copied": result.copied}
    (folder / "row.json").write_text(json.dumps(used | facts))


def measured(
    logits: Logits, dense: Logits, windows: list[TextWindow], tokenizer: Any, text: str, frequencies: torch.Tensor
) -> dict[str, Any]:
    """Return the quality of one student, compared with its teacher."""
    quality = compare_windows(logits, dense, windows, tokenizer, text, SEED)
    return {"quality": quality.to_dict(), "kept": kept_quality(logits, dense, windows, frequencies, SEED).to_dict()}


def _show(row: dict[str, Any]) -> None:
    quality, kept = row["quality"], row["kept"]
    more = row.get("bits_more_than_distilled")
    beside = f"  {more['value']:+.4f} {more['interval']} bits/byte against distilled" if more else ""
    print(
        f"{row['layers']} layers {row['arm']:<12} {row['seconds']:6.0f} s  {quality['bits_per_byte']['value']:.4f} bits/byte  "
        f"agrees {quality['agreement']['value']:.1%}  keeps {kept['kept']['value']:.2f} % {kept['kept']['interval']}  "
        f"information {kept['information']['value']:.2f} % {kept['information']['interval']}{beside}",
        flush=True,
    )


if __name__ == "__main__":
    main()
