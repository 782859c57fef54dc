"""Imports the packages of labkit's extra `graphs`, or raises an error that says which package is missing."""

from __future__ import annotations

import importlib
from typing import Any

from labkit.errors import NotAvailable
from labkit.extras import what_is_missing


def graph_package(name: str) -> Any:
    """Import and return the module `name` (onnx, onnx_ir, onnxscript, onnxruntime, or a module in them).

    Raises `NotAvailable`, which names the extra, if the package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise NotAvailable(what_is_missing(error) or str(error)) from error
