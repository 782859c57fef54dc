"""A repository with a single small model, which returns its input."""

from __future__ import annotations

from pathlib import Path

CONFIG = """
name: "mine"
backend: "python"
input [ { name: "A" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "B" data_type: TYPE_INT32 dims: [ 1 ] } ]
"""

ECHO = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("B", r.inputs()[0].as_numpy())]) for r in requests]
"""


def write_repository_of_one(folder: Path, code: str | None = ECHO) -> Path:
    """Write a repository with the model `mine` to a folder; return the folder. code: the text of model.py, or None."""
    (folder / "mine" / "1").mkdir(parents=True)
    (folder / "mine" / "config.pbtxt").write_text(CONFIG)
    if code is not None:
        (folder / "mine" / "1" / "model.py").write_text(code)
    return folder
