"""Finds a Triton Inference Server on PATH, or installs one from a wheel into this Python environment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from labkit.errors import NotAvailable

REQUIREMENTS = Path(__file__).parent / "server_requirements.txt"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
DOWNLOAD_MEGABYTES = 75

Progress = Callable[[str], None]
"""A function that is called with a few words about the current step."""


@dataclass(frozen=True)
class ServerProgram:
    """A `tritonserver`: its executable, arguments that every start needs, and environment variables that it needs."""

    executable: Path
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        """Where the server comes from, in words."""
        return "installed by labkit from a wheel" if self.environment else str(self.executable)


def find_server() -> ServerProgram | None:
    """The `tritonserver` on PATH (as in NVIDIA's container), else the server that `install_server` installed, else None."""
    if on_path := shutil.which("tritonserver"):
        return ServerProgram(Path(on_path))
    place = _place()
    whole = _expected(place)
    return _installed(place) if whole is not None and _receipt(place) == whole else None


def install_server(progress: Progress = lambda words: None) -> ServerProgram:
    """Return the server that `find_server` finds. If there is none, download a server, unpack it, and run it once as a test.

    The server is installed in the folder of this Python environment, with a numpy of its own. An interrupted download leaves
    nothing that labkit would later mistake for a complete server. Raises a `NotAvailable` that says what the machine lacks.
    """
    if found := find_server():
        return found
    if sys.platform != "linux":
        raise NotAvailable(f"Triton Inference Server runs on Linux, and this is {sys.platform}; use the course's container")
    place = _place()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".triton-server-", dir=place.parent))
    except OSError as error:
        raise NotAvailable(
            f"the server is installed in {place}, which cannot be written ({error}); run this as the owner of that folder"
        ) from error
    try:
        _fill(part, progress)
        if place.exists():
            shutil.rmtree(place)
        part.chmod(0o755)  # in a container image, one user installs the server and another runs it
        part.rename(place)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    (place / "receipt.json").write_text(json.dumps(_expected(place)))
    return _installed(place)


def need_server() -> ServerProgram:
    """Return the server that `find_server` finds.

    If there is no server, raises `NotAvailable` with the command that installs one. Also raises `NotAvailable` if the path of
    labkit's folder has letters outside ASCII: the Python in Triton's backend always starts in the C locale, and cannot import
    from such a folder.
    """
    for path in (Path(__file__).resolve().parents[2], Path(sys.prefix).resolve()):
        if not str(path).isascii():
            raise NotAvailable(
                f"Triton Inference Server cannot read {path}, because its path has letters outside ASCII; move the course to a "
                "folder without them (spaces do no harm), then run `make env` there"
            )
    found = find_server()
    if found is None:
        raise NotAvailable(
            f"there is no Triton Inference Server: none on PATH and none in {_place()}; "
            "`labkit serve --install` installs it (75 MB), or use the course's container"
        )
    return found


def _place() -> Path:
    return Path(sys.prefix).resolve() / "triton-server"


def _fill(part: Path, progress: Progress) -> None:
    progress(f"[1/3] Triton Inference Server, {DOWNLOAD_MEGABYTES} MB to download")
    _pip(part / "server", "nvidia-pytriton")
    progress("[2/3] the Python that runs its models")
    _run([sys.executable, "-m", "venv", "--without-pip", str(part / "overlay")], "the environment of the models")
    packages = _site_packages(part)
    _pip(packages, "numpy")
    # All packages but numpy come from the main environment. The .pth files of the main environment, such as the .pth file of an
    # editable labkit, are read too.
    (packages / "main.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n", "utf-8")
    triton = part / "server/pytriton/tritonserver"
    stub = triton / "python_backend_stubs" / PYTHON / "triton_python_backend_stub"
    if not stub.is_file():
        raise NotAvailable(f"the server has no stub for Python {PYTHON}; use Python 3.11 or 3.12")
    backend = part / "backends/python"
    shutil.copytree(triton / "backends/python", backend, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(stub, backend)
    progress("[3/3] testing that it runs here")
    _try_out(_installed(part), backend / stub.name)


def _pip(target: Path, package: str) -> None:
    """Install one package of `REQUIREMENTS`; pip compares its files with the hashes given there."""
    lines = REQUIREMENTS.read_text().split("\n" + package + "==")[1].split("\n")
    count = next(number for number, line in enumerate(lines) if not line.endswith("\\"))
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as wanted:
        wanted.write(f"{package}==" + "\n".join(lines[: count + 1]) + "\n")
        wanted.flush()
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--only-binary=:all:"]
        command += ["--require-hashes", "--target", str(target), "--requirement", wanted.name]
        _run([*command, *([] if sys.stderr.isatty() else ["--quiet"])], package, shown=sys.stderr.isatty())


def _run(command: list[str], what: str, *, shown: bool = False) -> None:
    """Run a step of the installation. shown: let pip draw its progress bar on the terminal."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if shown:
        done = subprocess.run(command, stdout=sys.stderr, env=environ, check=False, text=True)
    else:
        done = subprocess.run(command, capture_output=True, env=environ, check=False, text=True)
    if done.returncode:
        said = "" if shown else ":\n" + (done.stderr or done.stdout).strip()[-1500:]
        raise NotAvailable(f"{what} could not be installed (status {done.returncode}); nothing was installed; try again{said}")


def _try_out(server: ServerProgram, stub: Path) -> None:
    """Run `tritonserver --help`, and list the libraries of the stub, to find out what the machine lacks."""
    environ = os.environ | server.environment
    done = subprocess.run([server.executable, "--help"], capture_output=True, text=True, env=environ, check=False)
    if "--model-repository" not in done.stdout + done.stderr:
        raise NotAvailable(f"tritonserver does not run on this machine (it needs glibc 2.35): {done.stderr.strip()[-500:]}")
    done = subprocess.run(["ldd", str(stub)], capture_output=True, text=True, env=environ, check=False)
    missing = [line.split()[0] for line in done.stdout.splitlines() if "not found" in line]
    missing = [name for name in missing if not name.startswith("libcuda")]  # needed only on a machine with a GPU
    if missing:
        raise NotAvailable(
            f"the server's Python stub lacks {', '.join(missing)}; on Debian and Ubuntu: sudo apt-get install libpython{PYTHON}"
        )


def _installed(place: Path) -> ServerProgram:
    libraries = [str(place / "server/nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR")]
    return ServerProgram(
        executable=place / "server/pytriton/tritonserver/bin/tritonserver",
        arguments=(f"--backend-directory={place / 'backends'}",),
        environment={
            "PATH": os.pathsep.join([str(place / "overlay/bin"), os.environ.get("PATH", "")]),
            "LD_LIBRARY_PATH": os.pathsep.join([*libraries, os.environ.get("LD_LIBRARY_PATH", "")]).rstrip(os.pathsep),
        },
    )


def _site_packages(place: Path) -> Path:
    return place / "overlay/lib" / f"python{PYTHON}" / "site-packages"


def _receipt(place: Path) -> object:
    try:
        return json.loads((place / "receipt.json").read_text())
    except (OSError, ValueError):
        return None


def _expected(place: Path) -> dict[str, object] | None:
    """Return the receipt that a complete installation must have for this labkit and this Python; None if files are missing."""
    files = [
        place / "server/pytriton/tritonserver/bin/tritonserver",
        place / "backends/python/triton_python_backend_stub",
        place / "backends/python/libtriton_python.so",
        _site_packages(place) / "numpy/__init__.py",
        _site_packages(place) / "main.pth",
    ]
    if not all(file.is_file() for file in files):
        return None
    sizes = {str(file.relative_to(place)): file.stat().st_size for file in files}
    return {
        "requirements": REQUIREMENTS.read_text(),
        "python": PYTHON,
        "packages": sysconfig.get_path("purelib"),
        "sizes": sizes,
    }
