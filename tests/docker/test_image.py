"""The learner's image: buildah builds it on a bare Debian, an ordinary user starts it, and a client uses it over HTTP.

Buildah keeps everything in a temporary folder that is deleted at the end. The bare Debian is made once and kept in the
user's cache. The settings of pip and apt on this machine (indexes, certificates, a proxy) are used inside the image as well.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request

import pytest

from labkit.serving.channels import open_url
from tests.kept import KEPT
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
RELEASE = "bookworm"
BASE, IMAGE = "localhost/labkit-test-base", "localhost/labkit-test-course"
CERTIFICATES = "/mnt/certificates.pem"
BUSY = "sealing memfd copy: Device or resource busy"
"""What buildah says now and then when it starts itself anew, before anything of the image runs: then it is asked once more."""


def can_build() -> bool:
    tools = ("buildah", "debootstrap", "apt-get", "dpkg")
    return sys.platform == "linux" and os.geteuid() == 0 and all(shutil.which(tool) for tool in tools)


pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not can_build(), reason="not measured here: no image builder (buildah and debootstrap)"),
]


def output(*command: str | Path) -> str:
    """The output of a command. If the command fails, the test fails with the end of the output."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


# The bare Debian ------------------------------------------------------------------------------------------------------
def bare_debian() -> Path:
    """Debian's smallest system as a tar file. It is taken from the user's cache or made now."""
    architecture = output("dpkg", "--print-architecture").strip()
    packed = KEPT / f"{RELEASE}-{architecture}.tar"
    if not packed.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="labkit-debian-") as folder:
            made, part = Path(folder) / "root", Path(folder) / "root.tar"
            output("debootstrap", "--variant=minbase", RELEASE, made, *apt_mirror())
            left_out = [f"--exclude={path}" for path in ("./dev/*", "./var/cache/apt/*", "./var/lib/apt/lists/*")]
            output("tar", "--create", "--file", part, "--directory", made, *left_out, ".")
            shutil.move(part, packed.with_suffix(".part"))
        packed.with_suffix(".part").replace(packed)
    return packed


def apt_mirror() -> list[str]:
    """The address from which this machine gets the same release of Debian; empty if there is none."""
    wanted = ("Created-By: Packages", f"Codename: {RELEASE}", "Component: main")
    return output("apt-get", "indextargets", "--format", "$(REPO_URI)", *wanted).split()[:1]


def apt_settings() -> str:
    """apt's settings on this machine: its proxy, and whether it checks the dates of Debian's lists."""
    lines = output("apt-config", "dump").splitlines()
    return "".join(f"{line}\n" for line in lines if re.match(r"Acquire::(https?::proxy|check-)", line, re.IGNORECASE))


# What pip is told -----------------------------------------------------------------------------------------------------
def pip_settings() -> dict[str, str]:
    """pip's options on this machine, by the names of their environment variables. Later sections of pip's list win."""
    found: dict[str, dict[str, str]] = {}
    for line in output(sys.executable, "-m", "pip", "config", "list").splitlines():
        if match := re.match(r"(global|install|:env:)\.([\w-]+)=(.+)", line):
            found.setdefault(match[1], {})[f"PIP_{match[2].upper().replace('-', '_')}"] = ast.literal_eval(match[3])
    return found.get("global", {}) | found.get("install", {}) | found.get(":env:", {})


def pip_arguments() -> list[str]:
    """Arguments for `buildah build`: pip's options that the Dockerfile takes, and read-only mounts of the files they name."""
    settings = pip_settings()
    taken = re.findall(r"^ARG (PIP_\w+)", DOCKERFILE.read_text("utf-8"), re.MULTILINE)
    arguments: list[str] = []
    certificates = settings.get("PIP_CERT") or ssl.get_default_verify_paths().cafile
    if certificates and Path(certificates).is_file():
        settings["PIP_CERT"] = CERTIFICATES  # a new path: apt installs Debian's certificates at the usual one
        arguments += ["--volume", f"{certificates}:{CERTIFICATES}:ro"]
    for name in sorted(set(taken) & set(settings)):
        arguments += ["--build-arg", f"{name}={' '.join(settings[name].split())}"]
        folders = {folder_of(word) for word in settings[name].split()}
        for folder in sorted(folder for folder in folders if folder):
            arguments += ["--volume", f"{folder}:{folder}:ro"]
    return arguments


def folder_of(word: str) -> Path | None:
    """The folder that an option of pip names.

    For an index it is the parent, because the pages refer to files beside the index.
    """
    is_url = word.startswith("file:")
    path = Path(urlsplit(word).path if is_url else word)
    if not path.is_absolute() or not path.is_dir():
        return None
    return path.parent if is_url else path


# The image and a container of it --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Container:
    """A container of the learner's image, the command that the image starts, and the folder of the volume."""

    buildah: tuple[str | Path, ...]
    name: str
    start: list[str]
    volume: Path

    def command(self, *command: str) -> list[str]:
        """The command line that runs a command in the container, with the image's user, folder and environment."""
        return [*map(str, self.buildah), "run", "--volume", f"{self.volume}:/home/learner/course", self.name, "--", *command]


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    folder = Path(tempfile.mkdtemp(prefix="labkit-image-"))
    buildah = ("buildah", "--storage-driver", "vfs", "--root", folder / "storage", "--runroot", folder / "run")
    try:
        build(buildah, folder)
        config = json.loads(output(*buildah, "inspect", "--type", "image", IMAGE))["OCIv1"]["config"]
        name = output(*buildah, "from", "--pull-never", "--isolation", "chroot", "--network", "host", IMAGE).strip()
        volume = folder / "volume"
        volume.mkdir()
        os.chown(volume, 1000, 1000)
        yield Container(buildah, name, config["Cmd"], volume)
    finally:
        subprocess.run([*buildah, "rm", "--all"], capture_output=True)
        mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines() if str(folder) in line]
        assert not mounted, f"still mounted, so not removed: {mounted}"
        shutil.rmtree(folder)


def build(buildah: tuple[str | Path, ...], folder: Path) -> None:
    """Make the base image, and from it the learner's image, as `make docker` does."""
    settings = folder / "apt.conf"
    settings.write_text(apt_settings())
    scratch = output(*buildah, "from", "scratch").strip()
    output(*buildah, "add", "--quiet", scratch, bare_debian(), "/")
    output(*buildah, "add", "--quiet", scratch, settings, "/etc/apt/apt.conf.d/90-host")
    output(*buildah, "commit", "--quiet", "--rm", scratch, BASE)
    how = ("--isolation", "chroot", "--network", "host", "--layers=false", "--format", "docker", "--pull-never")
    what: tuple[str | Path, ...] = ("--build-arg", f"BASE={BASE}", *pip_arguments(), "--file", DOCKERFILE, "--tag", IMAGE)
    output(*buildah, "build", *how, *what, ROOT)


# A running JupyterLab -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Server:
    """JupyterLab in the container: its port on loopback and its token."""

    port: int
    token: str

    def ask(self, path: str, *, method: str = "GET", body: Any = None, token: str | None = None) -> tuple[int, Any]:
        """Status and JSON (or text) of an answer. `token=""` sends the request without a token."""
        token = self.token if token is None else token
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"token {token}"} if token else {})
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"http://127.0.0.1:{self.port}{path}", data=data, headers=headers, method=method)
        try:
            with open_url(request, timeout=PATIENCE) as answer:
                text = answer.read().decode()
                status = answer.status
        except HTTPError as error:
            text, status = error.read().decode(), error.code
        return status, json.loads(text) if text.startswith(("{", "[")) else text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def begun(command: list[str], log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Wait until a process of JupyterLab answers; return its token."""
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    return process, wait_for_token(process, log)


@contextmanager
def running(container: Container, log: Path) -> Iterator[Server]:
    """JupyterLab, started by the image's own command. At the end it is asked to stop, and killed if it does not."""
    port = free_port()
    command = container.command(*container.start, "--port", str(port))
    process, token = begun(command, log)
    if not token and BUSY in log.read_text():
        process, token = begun(command, log)
    try:
        assert token, f"JupyterLab does not answer; it said\n{log.read_text()[-3000:]}"
        server = Server(port, token)
        yield server
        server.ask("/api/shutdown", method="POST")
        process.wait(PATIENCE)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for_token(process: subprocess.Popen[bytes], log: Path) -> str:
    """The token from the address that JupyterLab prints, if JupyterLab answers there; empty if it does not."""
    end = time.monotonic() + 3 * PATIENCE
    while time.monotonic() < end and process.poll() is None:
        if match := re.search(r"http://127\.0\.0\.1:(\d+)/\S*token=(\w+)", log.read_text()):
            try:
                if Server(int(match[1]), match[2]).ask("/api")[0] == 200:
                    return match[2]
            except OSError:
                pass
        time.sleep(0.3)
    return ""


# What is promised -----------------------------------------------------------------------------------------------------
def test_its_user_is_ordinary_and_cannot_change_the_course(container: Container) -> None:
    script = "id -u; pwd; touch /opt/course/labkit/x 2>/dev/null && echo changed; touch made && ls -n made"
    assert output(*container.command("sh", "-c", script)).splitlines()[:2] == ["1000", "/home/learner/course"]
    assert (container.volume / "made").stat().st_uid == 1000


def test_it_generates_text(container: Container) -> None:
    said = output(*container.command("labkit", "generate", "In the beginning", "--max-new-tokens", "5", "--json"))
    assert json.loads(said[said.index("{") :])


def test_progress_is_on_the_volume(container: Container) -> None:
    hint = "from labkit.grading.check import hint; hint('parameter_count')"
    assert "Hint 1 of 3" in output(*container.command("python", "-c", hint))
    assert json.loads((container.volume / ".labkit" / "progress.json").read_text())


def test_jupyterlab_serves_the_labs_and_keeps_what_the_learner_wrote(container: Container, tmp_path: Path) -> None:
    offered = {path.name for path in (ROOT / "labs").glob("*.ipynb")}
    with running(container, tmp_path / "first.log") as server:
        assert server.ask("/api/contents/labs", token="")[0] == 403
        assert server.ask("/api/contents/labs", token="wrong")[0] == 403
        assert server.ask("/lab")[0] == 200
        status, labs = server.ask("/api/contents/labs")
        assert status == 200
        assert {item["name"] for item in labs["content"]} == offered
        lab = f"/api/contents/labs/{min(offered)}"
        notebook = server.ask(lab)[1]["content"]
        notebook["cells"][0]["source"] = "What I wrote myself"
        assert server.ask(lab, method="PUT", body={"type": "notebook", "content": notebook})[0] == 200
    with running(container, tmp_path / "second.log") as server:
        assert server.ask(lab)[1]["content"]["cells"][0]["source"] == "What I wrote myself"
