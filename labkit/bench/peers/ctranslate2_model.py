"""Converts a checkpoint to CTranslate2's format with CTranslate2's own converter, without a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from labkit.bench.peers.conversion_space import check_conversion_fits
from labkit.bench.peers.huggingface import transformers_model
from labkit.checkpoints import Checkpoint


class NumberedTokens:
    """A vocabulary that replaces a tokenizer: token 17 has the text "17". The converter needs nothing else."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.bos_token = self.eos_token = self.unk_token = "0"

    def get_vocab(self) -> dict[str, int]:
        """Map the text of every token to its id."""
        return {str(token): token for token in range(self._count)}


def convert(checkpoint: Checkpoint, folder: Path, quantization: str) -> Path:
    """Write `config.json` and the converted model into `folder`; return the folder of the converted model.

    Weights are read as float32 if the result is float32. Otherwise they are read as they are stored, because the converter
    rounds them itself. Raises `InsufficientResources` when memory or disk space is too small.
    """
    from ctranslate2.converters import TransformersConverter

    dtype = torch.float32 if quantization == "float32" else checkpoint.weight_dtype
    bits = {"float32": 32, "bfloat16": 16, "float16": 16}.get(quantization, 8)
    check_conversion_fits(checkpoint, dtype, bits, folder)

    class Converter(TransformersConverter):  # type: ignore[misc]
        """CTranslate2's converter, but with a checkpoint instead of a folder with weights and a tokenizer."""

        def load_model(self, *arguments: Any, **options: Any) -> Any:
            return transformers_model(checkpoint, torch.device("cpu"), dtype)

        def load_tokenizer(self, *arguments: Any, **options: Any) -> NumberedTokens:
            return NumberedTokens(checkpoint.config.vocab_size)

    (folder / "config.json").write_text(json.dumps(checkpoint.config.to_dict()), "utf-8")
    converted = folder / "converted"
    Converter(str(folder)).convert(str(converted), quantization=quantization)
    return converted
