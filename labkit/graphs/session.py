"""Opens a graph in ONNX Runtime with a chosen optimisation level, number of threads and execution provider."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.errors import CheckpointError, InvalidRequest, NotAvailable
from labkit.graphs.packages import graph_package

LEVELS = {
    "none": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
"""The optimisation levels, weakest first, with ONNX Runtime's names for them.

none: the graph is not changed. basic: constants are folded and redundant nodes are removed; the graph still uses only ONNX's
own operators. extended: nodes are also fused into operators of ONNX Runtime. all: the layout of tensors is also changed to suit
the processor.
"""

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""The ways to run a graph, each with the name of ONNX Runtime's execution provider."""


REASON = 240
"""Only this many characters from the end of ONNX Runtime's message are shown, because it begins with a C++ signature."""


@dataclass(frozen=True)
class SessionSettings:
    """Settings for running a graph.

    level: a key of `LEVELS`. threads: the number of threads of an operation; None means all cores. provider: a key of
    `PROVIDERS`; "tensorrt" runs the nodes that TensorRT supports in TensorRT, and the other nodes with CUDA. optimised: a file
    to which the optimised graph is also written. profile: the beginning of the name of the file in which the profiler lists
    every kernel. A profiled session does not pack weights, because the profiler does not see packed weights.
    """

    level: str = "all"
    threads: int | None = None
    provider: str = "cpu"
    optimised: Path | None = None
    profile: Path | None = None


def missing_provider(provider: str) -> str:
    """Return a sentence that says why a provider cannot be used here, or "" if the provider can be used.

    The sentence begins with "not measured here". Raises `InvalidRequest` for an unknown provider.
    """
    if provider not in PROVIDERS:
        raise InvalidRequest(f"provider is {provider!r}; {', '.join(PROVIDERS)} are accepted")
    found = graph_package("onnxruntime").get_available_providers()
    if PROVIDERS[provider] in found:
        return ""
    return (
        f"not measured here: this ONNX Runtime has no {PROVIDERS[provider]}; on a machine with a GPU, the package "
        "onnxruntime-gpu has it"
    )


def open_session(path: Path, settings: SessionSettings | None = None) -> Any:
    """Open an `onnxruntime.InferenceSession` for a graph. ONNX Runtime maps or reads the weights itself.

    Raises `InvalidRequest` for an unknown level, `NotAvailable` for a missing package or provider, and `CheckpointError` if the
    file is missing, is not ONNX, or cannot be loaded; the message contains ONNX Runtime's reason.
    """
    chosen = settings or SessionSettings()
    if chosen.level not in LEVELS:
        raise InvalidRequest(f"level is {chosen.level!r}; {', '.join(LEVELS)} are accepted")
    ort = graph_package("onnxruntime")
    if why := missing_provider(chosen.provider):
        raise NotAvailable(why)
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only, because warnings would go directly to stderr
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[chosen.level])
    if chosen.threads is not None:
        options.intra_op_num_threads = chosen.threads
    if chosen.optimised is not None:
        options.optimized_model_filepath = str(chosen.optimised)
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{chosen.optimised.name}.data"
        )
    if chosen.profile is not None:
        options.enable_profiling = True
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.profile_file_prefix = str(chosen.profile)
    order = {"cpu": ["cpu"], "cuda": ["cuda", "cpu"], "tensorrt": ["tensorrt", "cuda", "cpu"]}[chosen.provider]
    try:
        return ort.InferenceSession(str(path), options, providers=[PROVIDERS[name] for name in order])
    except Exception as error:  # ONNX Runtime raises its own exception classes
        raise CheckpointError(_refusal(path, error)) from error


def _refusal(path: Path, error: Exception) -> str:
    """Return the error message: a sentence that names the graph, its operator set, ONNX Runtime's reason, and what to do."""
    from labkit.graphs.exported import opset_of, read_graph

    opset = opset_of(read_graph(path))  # raises for a file that is missing or is not ONNX
    reason = " ".join(str(error).split())[-REASON:]
    version = graph_package("onnxruntime").__version__
    return (
        f"{path}: ONNX Runtime {version} cannot load this graph of operator set {opset} (... {reason}); export the model again "
        "with labkit export, which writes an operator set that ONNX Runtime knows"
    )
