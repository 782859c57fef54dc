"""Turns a learner's quantizer into a model directory that the engine runs."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import labkit
from labkit.checkpoints.integer_weight import IntegerScheme, IntegerWeight
from labkit.compress import CompressResult, compress
from labkit.compress.method import Method, Rounding
from labkit.engine import Engine
from labkit.errors import InvalidRequest
from labkit.exercises.lab05.tensors import MODEL

Quantizer = Callable[[Tensor, int, int], Any]
"""A learner's `quantize_weight(weight, bits, group_size)`."""

_folders: list[tempfile.TemporaryDirectory[str]] = []
"""The folders of this process's models; they are removed when the process ends."""


def make(quantize_weight: Quantizer, bits: int, group_size: int | None) -> CompressResult:
    """Compress gptj-tiny with a learner's quantizer; the result's `path` is a new model directory.

    group_size: None for one scale per row. The learner's function quantizes the matrices of the blocks, and labkit quantizes
    the head to int8. Raises `InvalidRequest` if the learner's function returns something that cannot be stored.
    """
    _folders.append(tempfile.TemporaryDirectory(prefix="labkit-lab05-"))
    target = Path(_folders[-1].name) / f"{MODEL}-int{bits}"
    return compress(MODEL, target, Method(IntegerScheme(bits, group_size), "rtn", rounding=as_rounding(quantize_weight)))


def load(made: CompressResult) -> Engine:
    """An engine that runs a model that `make` has written. The warning that a format has no kernel is hidden, because the lab
    explains why there is none.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "labkit has no kernels")
        return labkit.load(made.path)


def as_rounding(quantize_weight: Quantizer) -> Rounding:
    """A learner's quantizer in the form that `labkit.compress` calls. Its scales are stored in float16."""

    def rounding(weight: Tensor, scheme: IntegerScheme) -> IntegerWeight:
        size = scheme.group_of(weight.shape[1])
        answer = quantize_weight(weight.clone(), scheme.bits, size)
        integers, scales = _checked(answer, weight, scheme)
        return IntegerWeight(scheme, integers.to(torch.int8).contiguous(), scales.detach().to(torch.float16).contiguous())

    return rounding


def _checked(answer: Any, weight: Tensor, scheme: IntegerScheme) -> tuple[Tensor, Tensor]:
    """Return the two tensors of a quantizer's answer. Raises `InvalidRequest` if they cannot be stored."""
    shapes = tuple(weight.shape), (weight.shape[0], scheme.groups(weight.shape[1]))
    is_pair = isinstance(answer, tuple | list) and len(answer) == 2 and all(isinstance(part, Tensor) for part in answer)
    if not is_pair or (tuple(answer[0].shape), tuple(answer[1].shape)) != shapes:
        raise InvalidRequest(
            f"quantize_weight must return integers {list(shapes[0])} and scales {list(shapes[1])} for this weight; check it with "
            "check(quantize_weight)"
        )
    integers, scales = answer
    if integers.min() < scheme.lowest or integers.max() > scheme.highest or not bool(torch.isfinite(scales).all()):
        raise InvalidRequest(
            f"quantize_weight returned integers from {int(integers.min())} to {int(integers.max())}; {scheme.bits} bits hold "
            f"{scheme.lowest} to {scheme.highest}, and scales must be finite"
        )
    return integers, scales
