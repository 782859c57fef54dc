"""Reads the `quantization_config` of a `config.json`: the schemes of the quantized weights in a directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.checkpoints.eight_bit_scheme import FORMS, EightBitScheme, scheme_of_group
from labkit.checkpoints.integer_weight import IntegerScheme
from labkit.errors import CheckpointError, InvalidRequest
from labkit.json_file import read_json_object

COMPRESSED_TENSORS, GPTQ = "compressed-tensors", "gptq"
PACK_QUANTIZED = "pack-quantized"
SPARSE_24 = "sparse-24-bitmask"
CONFIG, OLDER_CONFIG = "config.json", "quantize_config.json"
"""The file that has a `quantization_config`, and the file in which older versions of AutoGPTQ stored these settings."""


@dataclass(frozen=True)
class StoredQuantization:
    """The settings of a directory's quantized weights.

    `method` is "compressed-tensors" or "gptq". `schemes` are the possible schemes of the packed matrices. `zero_offset` is the
    number that must be added to a stored zero point: the first version of the GPTQ format stores each zero point minus 1.
    `eight_bit` are the schemes of the config groups with 8-bit numbers, which are not packed. `sparse` is True if matrices can
    be 2:4 sparse and stored with bitmasks. `cache` is True if the settings also say how a KV cache is quantized.
    """

    method: str
    schemes: tuple[IntegerScheme, ...]
    zero_offset: int = 0
    eight_bit: tuple[EightBitScheme, ...] = ()
    sparse: bool = False
    cache: bool = False


def stored_quantization(folder: Path) -> StoredQuantization | None:
    """The quantization settings of a directory; None if its weights are dense or in a format that labkit does not read.

    The settings are in `config.json`, or, in directories of older versions of AutoGPTQ, in `quantize_config.json`.

    Raises `CheckpointError`, with the reason, if labkit reads the format but not this scheme.
    """
    file, said = _settings(folder)
    if not isinstance(said, dict):
        return None
    try:
        if said.get("quant_method") == COMPRESSED_TENSORS:
            return parsed_quantization(said)
        if said.get("quant_method") == GPTQ and "bits" in said:
            return _gptq(said)
    except (InvalidRequest, ValueError, TypeError) as error:
        what = "a quantization_config" if file.name == CONFIG else "settings"
        raise CheckpointError(f"{file} has {what} that labkit does not read: {error}") from error
    return None


def _settings(folder: Path) -> tuple[Path, Any]:
    """The file with the quantization settings of a folder, and the settings; None if the folder has none."""
    try:
        said = read_json_object(folder / CONFIG).get("quantization_config")
        if said is None and (folder / OLDER_CONFIG).is_file():
            return folder / OLDER_CONFIG, {"quant_method": GPTQ} | read_json_object(folder / OLDER_CONFIG)
    except (OSError, ValueError):
        return folder / CONFIG, None  # the code that needs the file reports what is wrong with it
    return folder / CONFIG, said


def parsed_quantization(said: dict[str, Any]) -> StoredQuantization:
    """Parse a `quantization_config` of compressed-tensors.

    Raises `ValueError` or `InvalidRequest` for schemes that labkit cannot read, and for transforms of the activations.
    """
    transforms = said.get("transform_config") or {}
    if not isinstance(transforms, dict) or any(transforms.values()):
        raise ValueError("its transform_config transforms activations, such as by a Hadamard matrix; labkit runs no transforms")
    groups, sparse = said.get("config_groups") or {}, _is_sparse(said)
    if not isinstance(groups, dict) or not (groups or sparse):
        raise ValueError("it has no config_groups")
    packed: list[IntegerScheme] = []
    eight_bit: list[EightBitScheme] = []
    for group in groups.values():
        form = group.get("format") or said.get("format")
        if form == PACK_QUANTIZED:
            packed.append(_scheme(group))
        elif form in FORMS:
            eight_bit.append(scheme_of_group(group, form))
        else:
            raise ValueError(f"its format is {form!r:.80}; {', '.join((PACK_QUANTIZED, *FORMS))} are accepted")
    cache = bool(said.get("kv_cache_scheme"))
    return StoredQuantization(COMPRESSED_TENSORS, tuple(packed), eight_bit=tuple(eight_bit), sparse=sparse, cache=cache)


def _is_sparse(said: dict[str, Any]) -> bool:
    """Whether matrices are stored with bitmasks.

    A sparse model that stores its zeros has the format "dense" and does not count as sparse here.
    """
    found = said.get("sparsity_config")
    if found is None or found == {}:
        return False
    form = found.get("format") if isinstance(found, dict) else found
    if form not in (SPARSE_24, "dense"):
        raise ValueError(f"the format of its sparsity_config is {form!r:.80}; {SPARSE_24} and dense are accepted")
    return bool(form == SPARSE_24)


def _scheme(group: dict[str, Any]) -> IntegerScheme:
    weights = group.get("weights")
    if not isinstance(weights, dict) or weights.get("type", "int") != "int":
        raise ValueError("its weights are not integers; weights of type int are accepted")
    for name in ("input_activations", "output_activations"):
        if group.get(name) is not None:
            raise ValueError(f"it quantizes activations as well ({name}); only weights can be quantized")
    strategy = weights.get("strategy") or ("group" if weights.get("group_size") else "channel")
    if strategy not in ("channel", "group"):
        raise ValueError(f"its strategy is {strategy!r:.80}; channel and group are accepted")
    size = _whole(weights, "group_size") if strategy == "group" else None
    return IntegerScheme(_whole(weights, "num_bits"), size, bool(weights.get("symmetric", True)))


def _gptq(said: dict[str, Any]) -> StoredQuantization:
    size, form = said.get("group_size", -1), said.get("checkpoint_format", "gptq")
    if form not in ("gptq", "gptq_v2"):
        raise ValueError(f"its checkpoint_format is {form!r:.80}; gptq and gptq_v2 are accepted")
    if said.get("is_marlin_format"):
        raise ValueError("its is_marlin_format is true, which is the memory layout of one GPU kernel; false is accepted")
    scheme = IntegerScheme(_whole(said, "bits"), None if size in (-1, None) else _whole(said, "group_size"), symmetric=False)
    return StoredQuantization(GPTQ, (scheme,), 1 if form == "gptq" else 0)


def _whole(values: dict[str, Any], name: str) -> int:
    value = values.get(name)
    if type(value) is not int or not 1 <= value < 2**31:
        raise ValueError(f"its {name} is {value!r:.80}; a whole number of at least 1 is accepted")
    return value
