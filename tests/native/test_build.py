"""The commands that build the native library for other machines. A script replaces the compiler and logs the commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit import native
from labkit.native import build, library

COMPILER = """\
if [ "$1" = -dumpmachine ]; then echo {target}; exit; fi
case "$*" in *"-fopenmp "*) {openmp} ;; esac
echo "$*" >> "{log}"
while [ "$1" != -o ]; do shift; done
echo made > "$2"
"""


def commands(folder: Path, monkeypatch: pytest.MonkeyPatch, target: str, openmp: str = "true") -> dict[str, list[str]]:
    """Build with a compiler for `target`. Return the words of the command for each source, and of the link command."""
    script, log = folder / "compiler.sh", folder / "log"
    script.write_text(COMPILER.format(target=target, openmp=openmp, log=log))
    monkeypatch.setenv("CXX", f"sh '{script}'")
    assert build.build(folder / "library.so").read_text() == "made\n"
    found = {}
    for words in map(str.split, log.read_text().splitlines()):
        name = Path(words[words.index("-c") + 1]).name if "-c" in words else "link" if "-shared" in words else "probe"
        found[name] = words
    return found


@pytest.mark.parametrize("target", ["aarch64-linux-gnu", "arm64-apple-darwin23.5.0"])
def test_for_64_bit_arm_each_neon_file_gets_its_extensions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    found = commands(tmp_path, monkeypatch, target)
    marches = {name: [w for w in words if w.startswith("-m")] for name, words in found.items() if name.startswith("kernels")}
    assert marches == {
        "kernels_neon.cpp": [],
        "kernels_neon_dotprod.cpp": ["-march=armv8.2-a+dotprod"],
        "kernels_neon_bf16.cpp": ["-march=armv8.2-a+dotprod+i8mm+bf16"],
        "kernels_portable.cpp": [],
    }
    assert all("-fopenmp" in words for words in found.values())


def test_a_compiler_without_openmps_threads_still_gets_its_simd_loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = commands(tmp_path, monkeypatch, "arm64-apple-darwin23.5.0", openmp="exit 1")
    assert all("-fopenmp-simd" in words and "-fopenmp" not in words for words in found.values())


def test_for_x86_no_neon_file_is_compiled_and_for_other_machines_only_the_portable_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kernels(target: str) -> list[str]:
        folder = tmp_path / target
        folder.mkdir()
        return sorted(name for name in commands(folder, monkeypatch, target) if name.startswith("kernels"))

    assert kernels("x86_64-linux-gnu") == [
        "kernels_avx2.cpp",
        "kernels_avx512_bf16.cpp",
        "kernels_avx512_vnni.cpp",
        "kernels_portable.cpp",
    ]
    assert kernels("riscv64-linux-gnu") == ["kernels_portable.cpp"]


def test_a_compiler_that_does_not_exist_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(build.BuildError, match=r"no-such-compiler.*set CXX"):
        build.build(tmp_path / "library.so")


def test_a_library_that_was_built_from_another_interface_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    if not native.available():
        pytest.skip(f"not measured here: {native.why_not()}")
    monkeypatch.setattr(build, "interface", lambda: "0123456789abcdef")
    found, reason = library._load.__wrapped__()
    assert found is None
    assert reason == "it was built from other sources; run `python -m labkit.native.build` to build it again"
