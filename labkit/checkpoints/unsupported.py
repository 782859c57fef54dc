"""Refuses formats of weights that labkit recognizes but does not read, and says what to do instead."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from labkit.errors import CheckpointError
from labkit.json_file import read_json_object

_ADVICE = (
    "labkit reads weights of 16, 32 or 64 bits, and integers in the formats pack-quantized (compressed-tensors) and GPTQ: take "
    "the model's unquantized checkpoint and choose dtype int8 or int4"
)
_SETTINGS = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
"""Files that older quantizers write beside the weights, and the quantization method that each file belongs to."""
_NAMES = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors (llm-compressor)",
    "fp8": "8-bit floating-point",
}
_TENSORS = (
    ((".g_idx",), "GPTQ"),
    ((".qweight", ".qzeros"), "GPTQ or AWQ"),
    ((".SCB", ".absmax", ".quant_map", ".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4"), "bitsandbytes"),
    ((".weight_packed", ".weight_scale"), "compressed-tensors (llm-compressor)"),
    ((".weight_scale_inv",), "8-bit floating-point"),
)
"""Endings of tensor names that quantizers write, each with the quantization method."""
_FILES = {
    ".gguf": ("GGUF (llama.cpp)", "take the model's Hugging Face checkpoint"),
    ".ggml": ("GGML (llama.cpp)", "take the model's Hugging Face checkpoint"),
    ".msgpack": ("Flax", "load it with transformers (from_flax=True) and save it"),
    ".h5": ("TensorFlow", "load it with transformers (from_tf=True) and save it"),
    ".ot": ("rust-bert", "take the model's Hugging Face checkpoint"),
    ".onnx": ("ONNX", "take the model's Hugging Face checkpoint"),
}
"""File endings of other formats, each with the name of the format and how to get a checkpoint that labkit reads."""


def refuse_quantized(folder: Path) -> None:
    """Raise `CheckpointError`, with the method's name, if the settings in a folder say that its weights are quantized."""
    said = _object(folder / "config.json").get("quantization_config")
    if said is not None:
        method = said.get("quant_method") if isinstance(said, dict) else said
        older = isinstance(said, dict) and method is None and bool(said.get("load_in_8bit") or said.get("load_in_4bit"))
        _refuse(folder, "bitsandbytes" if older else method, "its config.json has a quantization_config")
    for file, method in _SETTINGS.items():
        if (folder / file).is_file():
            found = _object(folder / file).get("quant_method", method)
            _refuse(folder, found, f"there is a {file}")


def refuse_quantized_tensors(folder: Path, names: Iterable[str]) -> None:
    """Raise `CheckpointError`, with the method's name, if a quantizer has written some of the tensors."""
    for ends, method in _TENSORS:
        if found := next((name for name in sorted(names) if name.endswith(ends)), None):
            raise CheckpointError(
                f"{folder} holds weights in {method} form (the tensor {found}), which labkit does not read; {_ADVICE}"
            )


def refuse_file(path: Path) -> None:
    """Raise `CheckpointError`, with the name of the format, if the file holds weights in another program's format."""
    if path.is_file() and path.suffix in _FILES:
        form, advice = _FILES[path.suffix]
        raise CheckpointError(f"{path} is a {form} file, which labkit does not read; {advice} and give its directory")


def refuse_files(folder: Path) -> None:
    """Raise `CheckpointError`, with the name of the format, if a folder holds weights in another program's format."""
    for path in sorted(folder.iterdir()):
        refuse_file(path)


def _refuse(folder: Path, method: Any, why: str) -> None:
    name = _NAMES.get(method, f"{method!r:.80}") if isinstance(method, str) else "a form without a name"
    if method == "gptq":  # with the number of bits, the weights would have been read
        why += " without a number of bits"
    raise CheckpointError(f"{folder} holds weights quantized by {name} ({why}), which labkit does not read; {_ADVICE}")


def _object(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except (OSError, ValueError):
        return {}  # the code that needs the file reports what is wrong with it
