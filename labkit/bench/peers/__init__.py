"""The engines that labkit is compared with, each in its fastest configuration.

A peer's package is loaded when the peer is built. To add a peer, write a file with a subclass of `BenchEngine`, and add the
subclass to `PEERS`.
"""

from __future__ import annotations

from labkit.bench.engines import BenchEngine
from labkit.bench.peers.compiled_huggingface import CompiledHuggingFaceEngine
from labkit.bench.peers.ctranslate2 import CTranslate2Engine
from labkit.bench.peers.huggingface import HuggingFaceEngine
from labkit.bench.peers.llama_cpp import LlamaCppEngine, LlamaCppQ4KMEngine
from labkit.bench.peers.onnx_runtime import OnnxRuntimeEngine, UnoptimisedOnnxRuntimeEngine
from labkit.bench.peers.openvino import OpenVINOEngine
from labkit.bench.peers.plain_graph import CompiledPlainGraphEngine, PlainGraphEngine
from labkit.bench.peers.vllm import VLLMEngine

PEERS: dict[str, type[BenchEngine]] = {
    kind.name: kind
    for kind in (
        HuggingFaceEngine,
        CompiledHuggingFaceEngine,
        CTranslate2Engine,
        OpenVINOEngine,
        LlamaCppEngine,
        LlamaCppQ4KMEngine,
        VLLMEngine,
        OnnxRuntimeEngine,
        UnoptimisedOnnxRuntimeEngine,
        PlainGraphEngine,
        CompiledPlainGraphEngine,
    )
}
"""The engines that the option `--against` of `labkit bench` accepts, by name."""

__all__ = [
    "PEERS",
    "CTranslate2Engine",
    "CompiledHuggingFaceEngine",
    "CompiledPlainGraphEngine",
    "HuggingFaceEngine",
    "LlamaCppEngine",
    "LlamaCppQ4KMEngine",
    "OnnxRuntimeEngine",
    "OpenVINOEngine",
    "PlainGraphEngine",
    "UnoptimisedOnnxRuntimeEngine",
    "VLLMEngine",
]
