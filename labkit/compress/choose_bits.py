"""Does the first step of mixed precision: measures the sensitivities, and chooses a number of bits for each matrix."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from torch import Tensor

from labkit.checkpoints import Checkpoint
from labkit.checkpoints.integer_weight import IntegerScheme
from labkit.checkpoints.output import Progress
from labkit.compress.dense_model import DenseModel
from labkit.compress.gptq import GptqOptions, refined_gptq
from labkit.compress.method import Method
from labkit.compress.mixed import choose_bits
from labkit.compress.sensitivity import BITS, WINDOWS, Damage, measure_sensitivity
from labkit.home import write_atomically
from labkit.json_file import read_json_object

SENSITIVITY = "sensitivity.json"
"""The file in the folder of a mixed-precision model that holds the damages and the chosen bits."""


def with_chosen_bits(
    checkpoint: Checkpoint, method: Method, ids: Sequence[Sequence[int]], file: Path, progress: Progress
) -> Method:
    """Fill in the schemes of all matrices if the method is mixed precision; return any other method unchanged.

    The damages are saved in `file` after each block, so that a stopped measurement can continue.
    """
    if method.average_bits is None:
        return method

    def keep(damages: list[Damage], chosen: Mapping[str, int]) -> None:
        values = {"bits": chosen, "damages": [asdict(each) for each in damages]}
        write_atomically(file, json.dumps(values, indent=1) + "\n")

    damages = measure(
        checkpoint,
        method,
        ids[:WINDOWS],
        known=_kept(file),
        after_block=lambda damages: keep(damages, {}),
        progress=progress,
    )
    chosen = choose_bits(damages, method.average_bits - method.bits_of_scales(checkpoint.config))
    keep(damages, chosen)
    return replace(method, schemes={name: replace(method.scheme, bits=bits) for name, bits in chosen.items()})


def measure(
    checkpoint: Checkpoint,
    method: Method,
    ids: Sequence[Sequence[int]],
    *,
    bits: Sequence[int] = BITS,
    known: Sequence[Damage] = (),
    after_block: Callable[[list[Damage]], None] = lambda damages: None,
    progress: Progress = lambda done, total, name: None,
) -> list[Damage]:
    """Measure the damage when each matrix or block alone is quantized with GPTQ, with the settings of `method`."""
    options = GptqOptions(method.damping, method.activation_order)

    def quantize(weight: Tensor, hessian: Tensor, scheme: IntegerScheme) -> Tensor:
        return refined_gptq(weight, hessian, scheme, options).dequantize()

    model, size = DenseModel(checkpoint), method.scheme.group_size
    return measure_sensitivity(model, ids, size, quantize, bits=bits, known=known, after_block=after_block, progress=progress)


def _kept(file: Path) -> list[Damage]:
    try:
        return [Damage(**each) for each in read_json_object(file)["damages"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
