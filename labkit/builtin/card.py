"""Writes the model card for the directory of a trained `gptj-tiny`: data, steps, loss curve, quality and unedited samples.

    python -m labkit.builtin.card labkit/builtin/gptj-tiny

The script reads `training.json` next to the weights, draws the curve, and generates the samples with labkit's engine.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

PROMPTS = ("In the beginning", "It was a truth", "The condition of our country")
SAMPLE_TOKENS = 80


def draw_loss_curve(record: dict[str, Any], path: Path) -> None:
    """Draw the training loss, in nats per token, against the number of training tokens."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    tokens_per_step = record["recipe"]["tokens_per_step"]
    seen = [step * tokens_per_step / 1e6 for step, _ in record["loss_curve"]]
    loss = [nats for _, nats in record["loss_curve"]]
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    axes.plot(seen, loss, linewidth=0.8, color="#0072B2")
    axes.set(xlabel="training tokens (millions)", ylabel="loss (nats per token)")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def samples(directory: Path) -> list[tuple[str, str]]:
    """Generate one unedited continuation per prompt, at temperature 0.8 and top-p 0.95 with the seeds 0, 1 and 2."""
    import labkit

    engine = labkit.load(str(directory))
    written = []
    for seed, prompt in enumerate(PROMPTS):
        params = labkit.SamplingParams(max_new_tokens=SAMPLE_TOKENS, temperature=0.8, top_p=0.95, seed=seed)
        written.append((prompt, engine.generate(prompt, params)[0].text))
    return written


def card(record: dict[str, Any], written: list[tuple[str, str]]) -> str:
    """Return the Markdown of the card."""
    recipe = record["recipe"]
    sources = "\n".join(
        f"| {row['name']} | {row['package']} | {row['licence']} | {row['bytes']:,} | {row['held_out_bytes']:,} |"
        for row in record["corpus"]
    )
    texts = "\n\n".join(f"> **{prompt}**{text}".replace("\n", "\n> ") for prompt, text in written)
    return f"""---
license: cc0-1.0
language: en
library_name: transformers
pipeline_tag: text-generation
---
# gptj-tiny

A GPT-J of {record["parameters"]:,} parameters ({recipe["n_layer"]} layers, width {recipe["n_embd"]}, {recipe["n_head"]} heads of
{recipe["n_embd"] // recipe["n_head"]}, rotary positions on {recipe["rotary_dim"]} of each, context {recipe["n_positions"]}, byte-level BPE of {recipe["vocab_size"]:,}
entries), trained from random weights on public-domain English. It is small enough to run in every test and on every laptop. Its
predictions are good enough to measure the effects of quantization, pruning and distillation. It knows no facts and follows
no instructions.

`transformers.AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` load this directory unchanged.

## Data
| text | package | licence | bytes | held out |
| --- | --- | --- | --- | --- |
{sources}

Hard line breaks were removed, typographic quotes and dashes replaced by plain ones, and tables dropped (`labkit/builtin/corpus.py`). Each
source is cut into pieces of about 32 KB; every 40th piece is held out and never trained on. `held_out_sample.txt` is a part of
the held-out text, under the same licence, for measuring quality.

## Training
{record["steps"]:,} steps of {recipe["tokens_per_step"]:,} tokens ({record["train_tokens_seen"]:,} tokens seen); Muon for the matrices and AdamW for the rest;
a constant learning rate, then a linear decay over the last {recipe["decay_fraction"]:.0%} of the steps; seed {recipe["seed"]}; matrix products in bfloat16 (weights and sums in float32); two CPU cores.

    python -m labkit.builtin.train --work-dir build/gptj-tiny --steps {record["steps"]}

![Training loss against tokens](loss_curve.png)

## Quality
| text | bits per byte (weights rounded to fp16, sliding window of {recipe["n_positions"]}) |
| --- | --- |
| all held-out pieces | {record["held_out_bits_per_byte"]:.4f} |
| `held_out_sample.txt` | {record["held_out_sample_bits_per_byte"]:.4f} |

Bits per byte depend on the text: the King James Bible is easier to predict than the Jargon File. `training.json` holds the recipe,
the corpus figures and the whole loss curve.

## Three samples
Temperature 0.8, top-p 0.95, {SAMPLE_TOKENS} tokens, seeds 0, 1 and 2. Each sample is the first draw, unedited, with the prompt in bold.

{texts}
"""


def main() -> None:
    """Write `README.md` and `loss_curve.png` into the directory of a trained model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args().directory
    record = json.loads((directory / "training.json").read_text())
    draw_loss_curve(record, directory / "loss_curve.png")
    (directory / "README.md").write_text(card(record, samples(directory)), "utf-8")


if __name__ == "__main__":
    main()
