"""Finds the extra of labkit that installs a missing package."""

from __future__ import annotations

EXTRA_OF = {
    "IPython": "lab",
    "ctranslate2": "peers",
    "dask": "grade",
    "distributed": "grade",
    "grpc": "serve",
    "ipywidgets": "lab",
    "jupyter_server": "lab",
    "jupyterlab": "lab",
    "jupytext": "lab",
    "matplotlib": "lab",
    "nbclient": "lab",
    "nbformat": "lab",
    "nbgrader": "grade",
    "nncf": "peers",
    "onnx": "graphs",
    "onnx_ir": "graphs",
    "onnxruntime": "graphs",
    "onnxscript": "graphs",
    "openvino": "peers",
    "openvino_genai": "peers",
    "prometheus_client": "serve",
    "pynvml": "gpu",
    "transformers": "lab",
    "triton": "lab",
    "tritonclient": "serve",
}
"""The extra of each optional package, by the name under which the package is imported."""


def how_to_install(extra: str) -> str:
    """How to install an extra of labkit, in words.

    Labkit is named by its files: a public index may have another package of the same name.
    """
    return f"pip install -e '.[{extra}]' in labkit's repository, or pip install './WHEEL[{extra}]' with the file of its wheel"


def what_is_missing(error: ImportError) -> str | None:
    """A sentence that names the missing package and its extra; None if the import failed for another reason."""
    package = (error.name or "").partition(".")[0]
    extra = EXTRA_OF.get(package)
    if extra is None or not isinstance(error, ModuleNotFoundError):
        return None
    return (
        f"the package {package} is not installed; labkit's extra {extra!r} installs it: {how_to_install(extra)} "
        "(`make env` installs every extra)"
    )
