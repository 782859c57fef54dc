"""A server's guardian is a small process: it must not load the large libraries that the rest of labkit uses."""

from __future__ import annotations

import subprocess
import sys

LARGE = {"torch", "numpy", "tritonclient", "grpc", "google", "matplotlib", "prometheus_client", "tokenizers", "safetensors"}

MODULES = "import sys; import labkit.serving.server.guardian; print(*sys.modules)"


def test_the_guardian_imports_no_large_library() -> None:
    found = subprocess.run([sys.executable, "-c", MODULES], capture_output=True, text=True, check=True)
    packages = {name.split(".")[0] for name in found.stdout.split()}
    assert "labkit" in packages
    assert not packages & LARGE
