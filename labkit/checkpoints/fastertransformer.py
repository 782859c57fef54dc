"""FasterTransformer's form of a GPT-J, read a slice at a time: a folder `<TP>-gpu` of headerless arrays and `config.ini`.

File names and layouts are those of NVIDIA/FasterTransformer, `examples/pytorch/gptj/utils/huggingface_gptj_ckpt_convert.py`
(what writes them) and `src/fastertransformer/models/gptj/GptJ*Weight.cc` (what reads them). Matrices are stored as
[in, out], the transpose of Hugging Face's; query, key and value as one [in, 3, out]; each rank has its heads and its share
of the inner size, in a file of its own. FasterTransformer loads on with a warning when a file is missing or short; here
that is refused. Its converters write float32 always; its GPT-J loader heeds `weight_data_type` since release 5.1 only.

`config.ini` does not say how long a context the model has, nor its norms' epsilon. `labkit convert` adds a section
`[labkit]` with both, and with `end_ids` where several tokens end a text (FasterTransformer's `end_id` is the first of them),
which FasterTransformer does not look at; without it the context is 2048 and the epsilon is 1e-5, as in GPT-J 6B
(FasterTransformer itself computes with 1e-6 whatever the model).
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from labkit.checkpoints.checkpoint import Checkpoint, expected_shapes
from labkit.checkpoints.pieces import Piece, read_pieces
from labkit.checkpoints.split import check_tensor_parallel
from labkit.checkpoints.tensor_file import Entry, TensorFile
from labkit.checkpoints.tokenizer_files import find_tokenizer
from labkit.config import GPT_J_6B, GPTJConfig
from labkit.errors import CheckpointError, InvalidRequest
from labkit.tokenizer import Tokenizer

CONFIG = "config.ini"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
NO_TOKEN = -1
"""Written where a model has no such token; FasterTransformer ends when it finds the `None` that its converters write."""
FOLDER = re.compile(r"([1-9]\d*)-gpu")
_CONFIG_KEYS = ("head_num", "size_per_head", "inter_size", "num_layer", "rotary_embedding", "vocab_size")


def file_shapes(config: GPTJConfig, tensor_parallel: int) -> dict[str, tuple[int, ...]]:
    """Every `.bin` file of the form at this tensor parallel size, and the shape of the array in it (rows slowest)."""
    hidden, inner, vocab = config.hidden_size, config.intermediate_size, config.vocab_size
    head_part, inner_part = hidden // tensor_parallel, inner // tensor_parallel
    shapes: dict[str, tuple[int, ...]] = {"model.wte.bin": (vocab, hidden)}
    for layer in range(config.num_layers):
        prefix = f"model.layers.{layer}."
        shapes |= {f"{prefix}input_layernorm.{part}.bin": (hidden,) for part in ("weight", "bias")}
        for rank in range(tensor_parallel):
            shapes[f"{prefix}attention.query_key_value.weight.{rank}.bin"] = (hidden, 3, head_part)
            shapes[f"{prefix}attention.dense.weight.{rank}.bin"] = (head_part, hidden)
            shapes[f"{prefix}mlp.dense_h_to_4h.weight.{rank}.bin"] = (hidden, inner_part)
            shapes[f"{prefix}mlp.dense_h_to_4h.bias.{rank}.bin"] = (inner_part,)
            shapes[f"{prefix}mlp.dense_4h_to_h.weight.{rank}.bin"] = (inner_part, hidden)
        shapes[f"{prefix}mlp.dense_4h_to_h.bias.bin"] = (hidden,)
    shapes |= {f"model.final_layernorm.{part}.bin": (hidden,) for part in ("weight", "bias")}
    return shapes | {"model.lm_head.weight.bin": (vocab, hidden), "model.lm_head.bias.bin": (vocab,)}


def find_folder(path: Path) -> Path:
    """The `<TP>-gpu` folder that `path` is or holds; raises `InvalidRequest` when it holds several."""
    if (path / CONFIG).is_file():
        return path
    folders = sorted(folder for folder in path.iterdir() if is_folder(folder))
    if len(folders) != 1:
        names = ", ".join(folder.name for folder in folders) or "none"
        raise InvalidRequest(f"{path} holds several FasterTransformer folders ({names}); give the path of one of them")
    return folders[0]


def is_folder(path: Path) -> bool:
    """Whether this is a FasterTransformer folder `<TP>-gpu` by its name and its `config.ini`."""
    return FOLDER.fullmatch(path.name) is not None and (path / CONFIG).is_file()


class FasterTransformerCheckpoint(Checkpoint):
    """The weights of a `<TP>-gpu` folder, or of a folder that holds one.

    Opening looks at names and sizes only; reading opens the files that hold the rows and columns that are asked for.
    Raises `CheckpointError` naming the file that is missing, short or too long, and `InvalidRequest` for a `config.ini`
    that describes no GPT-J.
    """

    source_dtype: torch.dtype
    """What the weights were stored as before they were converted to this form, if that is known."""

    def __init__(self, path: Path) -> None:
        self.path = find_folder(path)
        self.name = str(path)
        values = _read_config(self.path / CONFIG)
        self.config = _config_of(self.path, values)
        self.weight_dtype = _dtype_of(self.path, values["gptj"].get("weight_data_type", "fp32"))
        self.source_dtype = DTYPES.get(values["labkit"].get("source_data_type", ""), self.weight_dtype)
        self.tensor_parallel = _tensor_parallel(self.path)
        check_tensor_parallel(self.config, self.tensor_parallel)
        self._files = self._open_files()

    def _open_files(self) -> dict[str, TensorFile]:
        assert self.path is not None
        files = {}
        for name, shape in file_shapes(self.config, self.tensor_parallel).items():
            path = self.path / name
            flat = shape if len(shape) < 3 else (shape[0], shape[1] * shape[2])
            entry = Entry(self.weight_dtype, flat, 0)
            if not path.is_file():
                raise CheckpointError(
                    f"{self.path} lacks {name} (shape {shape}); the checkpoint is incomplete, convert it again"
                )
            size = path.stat().st_size
            if size != entry.byte_count:
                kind = "short" if size < entry.byte_count else "too long"
                raise CheckpointError(
                    f"{path} is {kind}: it has {size} bytes, {self.weight_dtype} of shape {shape} takes {entry.byte_count}; "
                    f"either it is not whole or {CONFIG} has another shape or weight_data_type than the files"
                )
            files[name] = TensorFile(path, {name: entry})
        return files

    def _stored_dtype(self, name: str) -> torch.dtype:
        return self.weight_dtype

    def _read(self, name: str, rows: slice, columns: slice | None, target: Tensor) -> None:
        read_pieces(self._pieces(name), rows, columns, target)

    def _pieces(self, name: str) -> list[Piece]:
        """Where the parts of a tensor (Hugging Face's name) are."""
        whole = {
            "transformer.wte.weight": "model.wte",
            "transformer.ln_f.weight": "model.final_layernorm.weight",
            "transformer.ln_f.bias": "model.final_layernorm.bias",
            "lm_head.weight": "model.lm_head.weight",
            "lm_head.bias": "model.lm_head.bias",
        }
        shape = expected_shapes(self.config)[name]
        if name in whole:
            return [self._whole(f"{whole[name]}.bin", shape)]
        layer, part = name.removeprefix("transformer.h.").split(".", 1)
        prefix = f"model.layers.{layer}."
        if part in ("ln_1.weight", "ln_1.bias"):
            return [self._whole(f"{prefix}input_layernorm.{part.removeprefix('ln_1.')}.bin", shape)]
        if part == "mlp.fc_out.bias":
            return [self._whole(f"{prefix}mlp.dense_4h_to_h.bias.bin", shape)]
        return [self._of_rank(prefix, part, shape, rank) for rank in range(self.tensor_parallel)]

    def _whole(self, file: str, shape: tuple[int, ...]) -> Piece:
        columns = slice(0, shape[1]) if len(shape) == 2 else None
        return Piece(self._files[file], file, slice(0, shape[0]), columns)

    def _of_rank(self, prefix: str, part: str, shape: tuple[int, ...], rank: int) -> Piece:
        """A rank's share of a layer's tensor: of its outputs, or of its inputs for the two that follow a split one."""
        files = {
            "attn.out_proj.weight": "attention.dense.weight",
            "mlp.fc_in.weight": "mlp.dense_h_to_4h.weight",
            "mlp.fc_in.bias": "mlp.dense_h_to_4h.bias",
            "mlp.fc_out.weight": "mlp.dense_4h_to_h.weight",
        }
        file = f"{prefix}{files.get(part, 'attention.query_key_value.weight')}.{rank}.bin"
        by_inputs = part in ("attn.out_proj.weight", "mlp.fc_out.weight")
        length = shape[1 if by_inputs else 0] // self.tensor_parallel
        share = slice(rank * length, (rank + 1) * length)
        if part == "mlp.fc_in.bias":
            return Piece(self._files[file], file, share)
        rows, columns = (slice(0, shape[0]), share) if by_inputs else (share, slice(0, shape[1]))
        which = {"attn.q_proj.weight": 0, "attn.k_proj.weight": 1, "attn.v_proj.weight": 2}.get(part, 0)
        return Piece(self._files[file], file, rows, columns, 0, which * length, transposed=True)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer's files in the folder or beside it; the form itself has none."""
        assert self.path is not None
        beside = [self.path.parent] if is_folder(self.path) else []
        return find_tokenizer([self.path, *beside], self.config.vocab_size)


def _read_config(path: Path) -> Mapping[str, Mapping[str, str]]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise InvalidRequest(f"cannot read {path} as FasterTransformer's config.ini: {error!r}") from error
    if "gptj" not in parser:
        sections = ", ".join(parser.sections()) or "none"
        raise InvalidRequest(f"{path} has the sections {sections}; labkit runs GPT-J, whose section is [gptj]")
    return {name: dict(parser[name]) if name in parser else {} for name in ("gptj", "labkit")}


def _config_of(folder: Path, values: Mapping[str, Mapping[str, str]]) -> GPTJConfig:
    gptj, ours = values["gptj"], values["labkit"]
    missing = [key for key in _CONFIG_KEYS if key not in gptj]
    if missing:
        raise InvalidRequest(f"{folder / CONFIG} lacks {', '.join(missing)} in [gptj]; they are all needed")
    try:
        heads, size, inner, layers, rotary, vocab = (int(gptj[key]) for key in _CONFIG_KEYS)
        context = int(ours.get("context_length", GPT_J_6B.context_length))
        epsilon = float(ours.get("layer_norm_epsilon", GPT_J_6B.layer_norm_epsilon))
        start, end = (_token(gptj.get(key, "None")) for key in ("start_id", "end_id"))
        ends = [int(token) for token in ours["end_ids"].split(",")] if "end_ids" in ours else end
    except ValueError as error:
        raise InvalidRequest(f"{folder / CONFIG} has a value that is no number: {error}") from error
    try:
        return GPTJConfig(
            hidden_size=heads * size,
            num_layers=layers,
            num_heads=heads,
            rotary_dim=rotary,
            context_length=context,
            vocab_size=vocab,
            intermediate_size=inner,
            layer_norm_epsilon=epsilon,
            bos_token_id=start,
            eos_token_id=ends if isinstance(ends, int) or ends is None else tuple(ends),
        )
    except InvalidRequest as error:
        raise InvalidRequest(f"{folder / CONFIG}: {error}") from error


def _token(text: str) -> int | None:
    """A token id; none for the `None` of FasterTransformer's converters and for negative numbers."""
    token = None if text == "None" else int(text)
    return None if token is None or token < 0 else token


def _dtype_of(folder: Path, name: str) -> torch.dtype:
    if name not in DTYPES:
        raise InvalidRequest(f"{folder / CONFIG}: weight_data_type is {name!r}; fp32, fp16 or bf16 is accepted")
    return DTYPES[name]


def _tensor_parallel(folder: Path) -> int:
    """From the folder's name, as FasterTransformer has it; from the files where the folder was renamed."""
    named = FOLDER.fullmatch(folder.resolve().name)
    if named:
        return int(named[1])
    return max(1, len(list(folder.glob("model.layers.0.attention.query_key_value.weight.*.bin"))))
