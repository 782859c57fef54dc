"""Find the fastest kernel for every linear layer of a model and every batch size by measuring, and store the choice."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from labkit.config import GPTJConfig
from labkit.errors import InvalidRequest
from labkit.ops.kernels import linear
from labkit.ops.kernels.linear_kind import KINDS, GPUWeight, kind_named, quantizer
from labkit.ops.kernels.linear_plans import rows_bucket
from labkit.precision import compute_dtype

QUANTIZE: dict[str, Callable[[Tensor], GPUWeight]] = {name: quantizer(name) for name in KINDS}
"""The kinds of weight, each with the function that makes such a weight from a dense matrix."""

LAYERS = ("qkv", "out_proj", "fc_in", "fc_out", "lm_head")
"""The linear layers of a model by name."""


def linear_shapes(config: GPTJConfig, parts: int = 1) -> dict[str, tuple[int, int]]:
    """Return the sizes (in, out) of a model's linear layers by name, for one of `parts` tensor-parallel parts."""
    hidden, inner = config.hidden_size, config.intermediate_size
    return {
        "qkv": (hidden, 3 * hidden // parts),
        "out_proj": (hidden // parts, hidden),
        "fc_in": (hidden, inner // parts),
        "fc_out": (inner // parts, hidden),
        "lm_head": (hidden, config.vocab_size // parts),
    }


def tune(
    config: GPTJConfig,
    batches: Iterable[int] = (1, 2, 4, 8, 16, 32, 64),
    *,
    kind: str = "dense",
    dtype: torch.dtype = torch.float16,
    device: torch.device | None = None,
    parts: int = 1,
    layers: Sequence[str] = LAYERS,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Tune the linear layers of `config` for decode steps of `batches` sequences. Shapes that were tuned before are skipped.

    `kind` is the kind of weight, a key of `QUANTIZE`; `dtype` is the type of the activations; `parts` is the number of
    tensor-parallel parts; `layers` are the layers to tune; `report` is called with one line per shape. Tuning a shape takes a
    few seconds, mostly for compiling, and needs memory for one matrix in float32. Call this function before CUDA graphs are
    captured. Raises `InvalidRequest` for an unknown kind.
    """
    if kind not in QUANTIZE:
        raise InvalidRequest(f"kind of weight is {kind!r}; {', '.join(QUANTIZE)} are accepted")
    target = device or torch.device("cuda", torch.cuda.current_device())
    buckets = sorted({rows_bucket(rows) for rows in batches if rows <= kind_named(kind).streamed_rows})
    # The tuner measures on the current GPU.
    on_target = torch.cuda.device(target) if target.type == "cuda" else contextlib.nullcontext()
    with on_target, torch.inference_mode(), linear.tuner.tuning(report):
        shapes = linear_shapes(config, parts)
        for num_in, num_out in dict.fromkeys(shapes[name] for name in layers):
            for x, weight, bias in _layers(num_in, num_out, buckets, kind, dtype, target):
                linear.linear_triton(x, weight, bias)


def tune_model(
    config: GPTJConfig,
    precision: str,
    batches: Iterable[int],
    device: torch.device,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Tune the linear layers of a model stored in `precision` on a GPU. The head of an int4 model is tuned as an int8 layer."""
    kind = precision if precision in QUANTIZE else "dense"
    dtype, batches = compute_dtype(precision, device), list(batches)
    for layers, of_layers in ((LAYERS[:-1], kind), (LAYERS[-1:], kind_named(kind).head_name)):
        tune(config, batches, kind=of_layers, dtype=dtype, device=device, layers=layers, report=report)


def _layers(
    num_in: int, num_out: int, buckets: list[int], kind: str, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[Tensor, GPUWeight, Tensor]]:
    """Make random inputs, a random weight and a random bias of a layer for each number of rows.

    The numbers are not zeros, because a GPU would run at a higher clock rate with zeros.
    """
    dense = torch.randn(num_out, num_in, device=device, dtype=dtype) * num_in**-0.5
    weight = QUANTIZE[kind](dense)
    bias = torch.randn(num_out, device=device, dtype=dtype)
    for rows in buckets:
        yield torch.randn(rows, num_in, device=device, dtype=dtype), weight, bias
