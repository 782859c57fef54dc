"""Checks a `config.pbtxt`: says what is wrong, on which line, and what to do.

The server itself reports no line number, stops at the first mistake, and accepts some mistakes silently.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from labkit.serving.repository.checker.ensemble_faults import ensemble_faults
from labkit.serving.repository.checker.expected_faults import expected_faults
from labkit.serving.repository.checker.fault import Fault
from labkit.serving.repository.checker.model_faults import is_ensemble, model_faults
from labkit.serving.repository.checker.pbtxt import Node, read
from labkit.serving.repository.checker.tensor_faults import tensor_faults
from labkit.serving.repository.model_config import ModelConfig

NOT_UTF8 = "\ufffd"
"""Replaces bytes that are not UTF-8."""


def check_config(
    config: str | Path,
    *,
    expected: ModelConfig | None = None,
    others: Mapping[str, str | Path] | None = None,
    gpus: int | None = None,
) -> list[Fault]:
    """All faults of a `config.pbtxt`, in the order of its lines; an empty list if the file is correct.

    config: the text of the file, or its path. If a path is given, the file's folder must have the model's name. expected: the
    configuration that the model's code needs, for models that labkit knows. others: the other models of the repository by name;
    if left out, the models of an ensemble's steps are not checked. gpus: the number of GPUs of the server's machine; None if
    unknown. Raises `NotAvailable` if the package tritonclient is not installed, and `OSError` if a path cannot be read.
    """
    text = text_of(config)
    document = read(text)
    faults = [*document.faults, *_letters(text)]
    if document.root is not None:
        folder = config.resolve().parent.name if isinstance(config, Path) else None
        faults += _faults(document.root, expected, others, folder, gpus)
    return sorted(faults, key=lambda fault: fault.line)


def text_of(config: str | Path) -> str:
    """The text of a configuration, given as text or path. Bytes that are not UTF-8 become `NOT_UTF8`."""
    return config.read_text(encoding="utf-8", errors="replace") if isinstance(config, Path) else config


def _letters(text: str) -> Iterator[Fault]:
    if NOT_UTF8 in text:
        line = text[: text.index(NOT_UTF8)].count("\n") + 1
        yield Fault(line, "the file is not in UTF-8", "save it as UTF-8")


def _faults(
    root: Node,
    expected: ModelConfig | None,
    others: Mapping[str, str | Path] | None,
    folder: str | None,
    gpus: int | None,
) -> Iterator[Fault]:
    yield from model_faults(root, folder, gpus)
    batched = root.value("max_batch_size", 0) > 0 or (expected is not None and expected.max_batch_size > 0)
    yield from tensor_faults(root, batched or "max_batch_size" in root.refused)
    if expected is not None:
        yield from expected_faults(root, expected, gpus)
    if is_ensemble(root):
        yield from ensemble_faults(root, None if others is None else _nodes(others))


def _nodes(others: Mapping[str, str | Path]) -> dict[str, Node]:
    """The other models, parsed. A model that cannot be parsed becomes an empty node: its own check reports the faults."""
    roots = {name: read(text_of(config)).root for name, config in others.items()}
    return {name: root or Node(1) for name, root in roots.items()}
