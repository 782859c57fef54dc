"""Makes a wider model that computes the same function, for measurements in which reading weights takes most of the time.

The method is that of Net2Net (T. Chen, I. Goodfellow and J. Shlens 2016, https://arxiv.org/abs/1511.05641): every hidden
unit, head and neuron exists N times, and every matrix divides its inputs by N. The mean and variance over N equal copies are
those of one copy, so layer norms do not change, and the results differ only by rounding. The wide model predicts the same as
the narrow one; only the number of bytes that are read for a token grows, by a factor of about N^2.

    python -m tests.benchmarks.wide_teacher FOLDER [--model gptj-tiny] [--times 8]
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from labkit.checkpoints import Checkpoint, open_checkpoint
from labkit.checkpoints.output import copy_beside
from labkit.checkpoints.safetensors_writer import write_safetensors

MODEL, TIMES = "gptj-tiny", 8


def widened(name: str, tensor: Tensor, times: int) -> Tensor:
    """Make a tensor of the wide model from one of the narrow model."""
    if name == "lm_head.bias":
        return tensor
    if name == "transformer.wte.weight":
        return tensor.repeat(1, times)
    if name == "lm_head.weight":
        return tensor.repeat(1, times) / times
    return tensor.repeat(times) if tensor.dim() == 1 else tensor.repeat(times, times) / times


def write_wide(checkpoint: Checkpoint, folder: Path, times: int) -> None:
    """Write the wide model in float32."""
    config, partial = checkpoint.config, folder.with_name(f".{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    wide = replace(
        config,
        hidden_size=config.hidden_size * times,
        num_heads=config.num_heads * times,
        intermediate_size=config.intermediate_size * times,
    )
    names = checkpoint.tensor_names()
    tensors = {name: widened(name, checkpoint.read(name, dtype=torch.float32), times) for name in names}
    write_safetensors(partial / "model.safetensors", tensors)
    copy_beside(checkpoint.path, partial)
    (partial / "config.json").write_text(json.dumps(wide.to_dict() | {"dtype": "float32"}, indent=2) + "\n")
    partial.replace(folder)


def main() -> None:
    """Write the wide model to the folder of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--times", type=int, default=TIMES)
    asked = parser.parse_args()
    write_wide(open_checkpoint(asked.model), asked.folder, asked.times)


if __name__ == "__main__":
    main()
