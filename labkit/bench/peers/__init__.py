"""The engines that labkit is measured against, each set up as is fastest for it.

A peer's package is loaded when the peer is built. Another peer is another file with a `BenchEngine` and its name here.
"""

from __future__ import annotations

from labkit.bench.engines import BenchEngine
from labkit.bench.peers.compiled import CompiledHuggingFaceEngine
from labkit.bench.peers.ctranslate2 import CTranslate2Engine
from labkit.bench.peers.huggingface import HuggingFaceEngine
from labkit.bench.peers.openvino import OpenVINOEngine

PEERS: dict[str, type[BenchEngine]] = {
    kind.name: kind for kind in (HuggingFaceEngine, CompiledHuggingFaceEngine, CTranslate2Engine, OpenVINOEngine)
}
"""The engines that `--against` can name."""

__all__ = ["PEERS", "CTranslate2Engine", "CompiledHuggingFaceEngine", "HuggingFaceEngine", "OpenVINOEngine"]
