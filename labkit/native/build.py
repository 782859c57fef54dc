"""Builds the native library with the machine's C++ compiler: `python -m labkit.native.build`.

This script does not import labkit, so it can run while the package itself is built, before anything is installed.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).with_name("src")
TARGET = Path(__file__).with_name("_native.so")
_COMMON = ["-std=c++17", "-O3", "-fPIC", "-pthread", "-fvisibility=hidden", "-fno-math-errno"]
_QUIET = ["-Wno-psabi", "-Wno-unknown-pragmas"]
_AVX2 = ["-mavx2", "-mfma", "-mf16c"]
_AVX512 = [*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni"]
_FLAGS = {
    "kernels_avx2.cpp": _AVX2,
    "kernels_avx512_vnni.cpp": _AVX512,
    "kernels_avx512_bf16.cpp": [*_AVX512, "-mavx512bf16"],
}


class BuildError(Exception):
    """The library cannot be built here; the message holds the compiler's output."""


def build(target: Path = TARGET) -> Path:
    """Compile the sources and link them into the file `target`. If the build fails, raise `BuildError` and keep the old file.

    The variable `CXX` names the compiler; by default it is g++, clang++ or c++.
    """
    compiler = os.environ.get("CXX") or next((c for c in ("g++", "clang++", "c++") if shutil.which(c)), None)
    if compiler is None:
        raise BuildError("no C++ compiler was found: install g++ or clang++, or set CXX to the name of one")
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    sources = [s for s in sorted(SOURCES.glob("*.cpp")) if x86 or s.name not in _FLAGS]
    with tempfile.TemporaryDirectory() as folder:
        openmp = next(([flag] for flag in ("-fopenmp", "-fopenmp-simd") if _compiles(compiler, [flag], folder)), [])
        objects = [Path(folder, source.stem + ".o") for source in sources]
        commands = [
            [compiler, *_COMMON, *_QUIET, *openmp, *_FLAGS.get(source.name, []), "-c", str(source), "-o", str(object_)]
            for source, object_ in zip(sources, objects, strict=True)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        linked = Path(folder, "linked.so")
        _run([compiler, "-shared", "-pthread", *openmp, "-o", str(linked), *map(str, objects)])
        beside = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.copyfile(linked, beside)
        os.replace(beside, target)  # a process that has loaded the old file continues to use it
    return target


def _compiles(compiler: str, flags: list[str], folder: str) -> bool:
    probe = Path(folder, "probe.cpp")
    probe.write_text("int main() { return 0; }\n")
    command = [compiler, *flags, str(probe), "-o", str(Path(folder, "probe"))]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{' '.join(command)}\n{done.stderr}")


if __name__ == "__main__":
    try:
        print(build())
    except BuildError as error:
        sys.exit(str(error))
