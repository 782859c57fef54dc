"""Stops OpenVINO and NNCF from sending usage reports over the network; call `without_telemetry` before they are loaded."""

from __future__ import annotations

import sys


def without_telemetry() -> None:
    """Hide the package that sends the usage reports. OpenVINO and NNCF work without this package."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
