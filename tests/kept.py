"""The folder where tests keep files that take long to make and can be reused in the next run."""

from __future__ import annotations

import os
from pathlib import Path

KEPT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "labkit-tests"
"""The folder is in the user's cache. If it is deleted, the tests only take longer."""
