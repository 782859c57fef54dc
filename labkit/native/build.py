"""Builds the native library with the machine's C++ compiler: `python -m labkit.native.build`.

This script does not import labkit, so it can run while the package itself is built, before anything is installed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
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
    "x86_64": {
        "kernels_avx2.cpp": _AVX2,
        "kernels_avx512_vnni.cpp": _AVX512,
        "kernels_avx512_bf16.cpp": [*_AVX512, "-mavx512bf16"],
    },
    "aarch64": {
        "kernels_neon.cpp": [],
        "kernels_neon_dotprod.cpp": ["-march=armv8.2-a+dotprod"],
        "kernels_neon_bf16.cpp": ["-march=armv8.2-a+dotprod+i8mm+bf16"],
    },
}
"""For each architecture, the sources that are compiled only for this architecture, with their flags."""
_OTHER_NAMES = {"amd64": "x86_64", "arm64": "aarch64"}


class BuildError(Exception):
    """The library cannot be built here; the message says why, or contains the compiler's output."""


def build(target: Path = TARGET) -> Path:
    """Compile the sources and link them into the file `target`. If the build fails, raise `BuildError` and keep the old file.

    The environment variable `CXX` names the compiler, possibly with options. The default is g++, clang++ or c++.
    """
    compiler = find_compiler()
    with tempfile.TemporaryDirectory() as folder:
        openmp = openmp_flags(compiler, Path(folder))
        objects = compile_sources(compiler, Path(folder), openmp)
        linked = Path(folder, "linked.so")
        _run([*compiler, "-shared", "-pthread", *openmp, "-o", str(linked), *map(str, objects)])
        beside = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.copyfile(linked, beside)
        os.replace(beside, target)  # a process that has loaded the old file continues to use it
    return target


def interface() -> str:
    """A checksum of the C interface `src/native.h`. A library that was built with another interface cannot be called."""
    return hashlib.sha256((SOURCES / "native.h").read_bytes()).hexdigest()[:16]


def find_compiler() -> list[str]:
    """Return the first words of each compile command: the compiler that `CXX` names, or else g++, clang++ or c++.

    Raises `BuildError` if there is no compiler.
    """
    named = shlex.split(os.environ.get("CXX", ""))
    found = named or [name for name in ("g++", "clang++", "c++") if shutil.which(name)][:1]
    if not found:
        raise BuildError("no C++ compiler was found: install g++ or clang++, or set CXX to the name of a compiler")
    return found


def compile_sources(compiler: list[str], folder: Path, flags: list[str], more: tuple[Path, ...] = ()) -> list[Path]:
    """Compile the sources that the compiler's target needs, and the files `more`. Returns the object files, in `folder`.

    Raises `BuildError` with the compiler's output if the compiler fails.
    """
    special = {name: options for of_one in _FLAGS.values() for name, options in of_one.items()}
    wanted = _FLAGS.get(architecture(compiler), {})
    sources = [s for s in sorted(SOURCES.glob("*.cpp")) if s.name in wanted or s.name not in special]
    objects = [Path(folder, source.stem + ".o") for source in (*sources, *more)]
    common = [*compiler, *_COMMON, *_QUIET, f'-DLK_INTERFACE="{interface()}"', *flags]
    commands = [
        [*common, *wanted.get(source.name, []), "-c", str(source), "-o", str(object_)]
        for source, object_ in zip((*sources, *more), objects, strict=True)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_run, commands))
    return objects


def architecture(compiler: list[str]) -> str:
    """The architecture for which the compiler generates code: x86_64, aarch64 or another one.

    This can differ from the architecture of this machine, because a compiler can be a cross compiler.
    """
    try:
        done = subprocess.run([*compiler, "-dumpmachine"], capture_output=True, text=True, check=False)
        name = done.stdout.strip().partition("-")[0].lower() if done.returncode == 0 else ""
    except OSError:
        name = ""
    name = name or platform.machine().lower()
    return _OTHER_NAMES.get(name, name)


def openmp_flags(compiler: list[str], folder: Path) -> list[str]:
    """Return `-fopenmp`, or `-fopenmp-simd` for a compiler without OpenMP threads (Apple's clang), or no flag."""
    return next((["-fopenmp" + end] for end in ("", "-simd") if _compiles(compiler, ["-fopenmp" + end], folder)), [])


def _compiles(compiler: list[str], flags: list[str], folder: Path) -> bool:
    probe = folder / "probe.cpp"
    probe.write_text("#ifdef _OPENMP\n#include <omp.h>\n#endif\nint main() { return 0; }\n")
    command = [*compiler, *flags, str(probe), "-o", str(folder / "probe")]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"the C++ compiler cannot be started: {error}; set CXX to the name of a C++ compiler") from error
    if done.returncode:
        raise BuildError(f"{' '.join(command)}\n{done.stderr}")


if __name__ == "__main__":
    try:
        print(build())
    except BuildError as error:
        sys.exit(str(error))
