"""A checkpoint in CTranslate2's format, made by its own converter of transformers' models, without a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from labkit.bench.peers.huggingface import transformers_model
from labkit.bench.peers.room import check_room
from labkit.checkpoints import Checkpoint


class NumberedTokens:
    """Stands in for a tokenizer: token 17 is written "17". The converter asks for nothing else."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.bos_token = self.eos_token = self.unk_token = "0"

    def get_vocab(self) -> dict[str, int]:
        """The number of every token by its text."""
        return {str(token): token for token in range(self._count)}


def convert(checkpoint: Checkpoint, folder: Path, quantization: str) -> Path:
    """Write the converted model beside its `config.json` into `folder` and give its own folder.

    Weights are read as float32 where they stay that and as they are stored otherwise, since the converter rounds from
    float32 by itself. Raises `InsufficientResources` when memory or disk do not suffice.
    """
    from ctranslate2.converters import TransformersConverter

    dtype = torch.float32 if quantization == "float32" else checkpoint.weight_dtype
    bits = {"float32": 32, "bfloat16": 16, "float16": 16}.get(quantization, 8)
    check_room(checkpoint, dtype, bits, folder)

    class Converter(TransformersConverter):  # type: ignore[misc]
        """The converter, given the checkpoint instead of a folder of weights and a tokenizer."""

        def load_model(self, *arguments: Any, **options: Any) -> Any:
            return transformers_model(checkpoint, torch.device("cpu"), dtype)

        def load_tokenizer(self, *arguments: Any, **options: Any) -> NumberedTokens:
            return NumberedTokens(checkpoint.config.vocab_size)

    (folder / "config.json").write_text(json.dumps(checkpoint.config.to_dict()), "utf-8")
    converted = folder / "converted"
    Converter(str(folder)).convert(str(converted), quantization=quantization)
    return converted
