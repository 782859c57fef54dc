"""The files of FasterTransformer's format: which tensors each `.bin` file holds, for which rank, and in which shape.

File names and layouts come from NVIDIA/FasterTransformer: `examples/pytorch/gptj/utils/huggingface_gptj_ckpt_convert.py` writes
the files, and `src/fastertransformer/models/gptj/GptJ*Weight.cc` reads them. Matrices that are split over ranks are stored as
[in, out], the transpose of Hugging Face's matrices; query, key and value share one array [in, 3, out]. The vocabulary is not
split.
"""

from __future__ import annotations

from dataclasses import dataclass

from labkit.checkpoints.checkpoint import expected_shapes
from labkit.checkpoints.megatron_names import LAYER_TENSORS, QKV, QKV_PARTS, layer_and_part
from labkit.checkpoints.split import Split, rectangle_of, share_shape, split_of
from labkit.config import GPTJConfig

_OUTSIDE_LAYERS = {
    "transformer.wte.weight": "model.wte.bin",
    "transformer.ln_f.weight": "model.final_layernorm.weight.bin",
    "transformer.ln_f.bias": "model.final_layernorm.bias.bin",
    "lm_head.weight": "model.lm_head.weight.bin",
    "lm_head.bias": "model.lm_head.bias.bin",
}


@dataclass(frozen=True)
class StoredFile:
    """One `.bin` file.

    `tensors` are Hugging Face's names of the tensors in the file: query, key and value share a file, and every other file has
    one tensor.

    rank: the tensor-parallel rank whose share the file holds, or None for a tensor that is not split. shape: the shape of the
    array in the file, in row-major order.
    """

    tensors: tuple[str, ...]
    rank: int | None
    shape: tuple[int, ...]

    @property
    def is_transposed(self) -> bool:
        """Whether the file holds the transpose, [in, out], of Hugging Face's matrix [out, in]."""
        return self.rank is not None and len(self.shape) > 1

    def rectangle_of(self, name: str, shape: tuple[int, ...], tensor_parallel: int) -> tuple[slice, slice | None]:
        """The rows and columns of the tensor `name` that this file holds. `shape` is the shape of the whole tensor."""
        return rectangle_of(name, shape, self.rank or 0, 1 if self.rank is None else tensor_parallel)


def files_of(config: GPTJConfig, tensor_parallel: int) -> dict[str, StoredFile]:
    """Every `.bin` file of the format at this tensor parallel size, by its name."""
    files = {}
    for name, shape in expected_shapes(config).items():
        layer, part = layer_and_part(name)
        if part in QKV_PARTS[1:]:
            continue  # key and value are in the query's file
        tensors = tuple(f"transformer.h.{layer}.{each}" for each in QKV_PARTS) if part in QKV_PARTS else (name,)
        if split_of(name) not in (Split.ROWS, Split.COLUMNS):
            files[_file_name(name, None)] = StoredFile(tensors, None, shape)
            continue
        for rank in range(tensor_parallel):
            array = share_shape(name, shape, rank, tensor_parallel)[::-1]
            array = (array[0], len(tensors), array[1]) if len(tensors) > 1 else array
            files[_file_name(name, rank)] = StoredFile(tensors, rank, array)
    return files


def _file_name(name: str, rank: int | None) -> str:
    if name in _OUTSIDE_LAYERS:
        return _OUTSIDE_LAYERS[name]
    layer, part = layer_and_part(name)
    stored = QKV if part in QKV_PARTS else LAYER_TENSORS[part]
    return f"model.layers.{layer}.{stored}.bin" if rank is None else f"model.layers.{layer}.{stored}.{rank}.bin"
