"""OpenVINO and NNCF report their imports and conversions over the network unless this is called before they are loaded."""

from __future__ import annotations

import sys


def without_telemetry() -> None:
    """Hide the package that sends the reports; both then do without it, as they do where it is not installed."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
