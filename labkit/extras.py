"""Which of labkit's extras brings a package that is missing."""

from __future__ import annotations

EXTRA_OF = {
    "IPython": "lab",
    "ctranslate2": "peers",
    "grpc": "serve",
    "ipywidgets": "lab",
    "jupyter_server": "lab",
    "jupyterlab": "lab",
    "jupytext": "lab",
    "matplotlib": "lab",
    "nbclient": "lab",
    "nbformat": "lab",
    "nncf": "peers",
    "openvino": "peers",
    "openvino_genai": "peers",
    "prometheus_client": "serve",
    "pynvml": "gpu",
    "transformers": "lab",
    "triton": "lab",
    "tritonclient": "serve",
}
"""The extra by the name under which a package is imported; the packages that labkit always needs are not here."""


def what_is_missing(error: ImportError) -> str | None:
    """One sentence that names the missing package and its extra; None when the import failed for another reason."""
    package = (error.name or "").partition(".")[0]
    extra = EXTRA_OF.get(package)
    if extra is None or not isinstance(error, ModuleNotFoundError):
        return None
    return (
        f"the package {package} is not installed; labkit's extra {extra!r} brings it: pip install 'labkit[{extra}]' "
        "(`make env` installs every extra)"
    )
