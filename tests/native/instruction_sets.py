"""The instruction sets of this machine's architecture, the best first. The machine's CPU can lack some of these sets."""

from __future__ import annotations

import platform

X86 = ("avx512_bf16", "avx512_vnni", "avx2", "portable")
ARM = ("neon_bf16", "neon_dotprod", "neon", "portable")
SETS = ARM if platform.machine().lower() in ("aarch64", "arm64") else X86
