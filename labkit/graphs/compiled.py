"""Runs `torch.compile` on the plain graph, and reports graph breaks, generated kernels and the time to compile."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from labkit.checkpoints import Checkpoint
from labkit.graphs.plain_gptj import PlainGPTJ, load_weights, weight_reader
from labkit.precision import DTYPES
from labkit.torch_state import gradients_restored


@dataclass(frozen=True)
class Compiled:
    """The result of `torch.compile` for a decode step.

    graphs: how many graphs torch traced. breaks: how many times a graph ended early. operations: how many operations the graphs
    have. kernels: how many kernels inductor generated, not counting calls of matrix multiplications in libraries.
    compile_seconds: the time of the first step minus the time of the second step.
    """

    graphs: int
    breaks: int
    operations: int
    kernels: int
    compile_seconds: float


def plain_model(checkpoint: Checkpoint, precision: str, device: torch.device) -> PlainGPTJ:
    """The whole model as plain torch operations, with the checkpoint's weights."""
    dtype = DTYPES[precision]
    model = PlainGPTJ(checkpoint.config, dtype=dtype, device=device).eval()
    load_weights(
        model, weight_reader(checkpoint.config, lambda name: checkpoint.read(name, device=device, dtype=dtype), device)
    )
    return model


def compiled_step(model: PlainGPTJ) -> Any:
    """The model compiled by `torch.compile` with dynamic sizes, because the cache grows by a token at each step."""
    compiled: Any = torch.compile(model, dynamic=True)
    return compiled


@gradients_restored()
@torch.no_grad()
def examine(model: PlainGPTJ, *, batch: int = 1, past: int = 64) -> Compiled:
    """Compile a decode step and return the result. All code that torch compiled before in this process is dropped."""
    import torch._dynamo
    import torch.compiler.config
    from torch._inductor import metrics

    torch._dynamo.reset()
    cache, token = _decode_inputs(model, batch, past)
    explained: Any = torch._dynamo.explain(model)(token, cache)  # type: ignore[no-untyped-call]
    torch._dynamo.reset()
    metrics.reset()
    step = compiled_step(model)
    seconds = []
    config: Any = torch.compiler.config
    # The compile cache is off, because an earlier process may have compiled the same graph. torch warns that the cache is off.
    with warnings.catch_warnings(action="ignore"), config.patch(force_disable_caches=True):
        for _ in range(2):
            before = time.perf_counter()
            step(token, cache)
            if token.device.type == "cuda":
                torch.cuda.synchronize(token.device)
            seconds.append(time.perf_counter() - before)
    return Compiled(
        graphs=int(explained.graph_count),
        breaks=int(explained.graph_break_count),
        operations=int(explained.op_count),
        kernels=int(metrics.generated_kernel_count),
        compile_seconds=seconds[0] - seconds[1],
    )


def _decode_inputs(model: PlainGPTJ, batch: int, past: int) -> tuple[list[Tensor], Tensor]:
    empty = model.empty_past(batch)
    device = empty[0].device
    prompt = torch.ones(batch, past, dtype=torch.int64, device=device)
    _, *cache = model(prompt, empty)
    return list(cache), torch.ones(batch, 1, dtype=torch.int64, device=device)
