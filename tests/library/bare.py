"""Makes an environment that has labkit's own dependencies and nothing else, without a network.

It is a new virtual environment. Instead of packages that pip would download, it has links to the packages of the environment
that runs the tests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
BUILDERS = ("pip", "setuptools")


def requirements(*extras: str) -> list[str]:
    """The requirements in `pyproject.toml`: labkit's own requirements and the requirements of these extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return [*project["dependencies"], *(each for extra in extras for each in project["optional-dependencies"][extra])]


def with_all_they_need(wanted: Iterable[str]) -> list[Distribution]:
    """The distributions of these requirements, and of everything that these distributions require."""
    found: dict[tuple[str, frozenset[str]], Distribution] = {}

    def visit(text: str, extras_of_parent: frozenset[str]) -> None:
        need = Requirement(text)
        if need.marker and not any(need.marker.evaluate({"extra": extra}) for extra in extras_of_parent or {""}):
            return
        key = (re.sub(r"[-_.]+", "-", need.name).lower(), frozenset(need.extras))
        if key in found:
            return
        found[key] = distribution(need.name)
        for each in found[key].requires or ():
            visit(each, frozenset(need.extras))

    for text in wanted:
        visit(text, frozenset())
    return list(found.values())


def link_packages(environment: Path, extras: Iterable[str] = ()) -> None:
    """Link packages into a virtual environment: the packages that pip would download for labkit with these extras, and build
    tools.
    """
    site = environment / "lib" / PYTHON / "site-packages"
    for each in with_all_they_need([*requirements(*extras), *there(BUILDERS)]):
        for name in top_level(each):
            place = site / name
            if not place.exists():
                place.symlink_to(Path(str(each.locate_file(name))))


def there(names: Iterable[str]) -> Iterator[str]:
    """Yield the names whose distributions are installed in the environment that runs the tests."""
    for name in names:
        try:
            distribution(name)
        except PackageNotFoundError:
            continue
        yield name


def top_level(each: Distribution) -> set[str]:
    """The top-level files and folders of a distribution in site-packages."""
    return {file.parts[0] for file in each.files or () if file.parts[0] not in ("..", "__pycache__")}


def bare_environment(folder: Path, extras: Iterable[str] = ()) -> Path:
    """Make a virtual environment with labkit's dependencies but without labkit. Return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    link_packages(folder, extras)
    return folder / "bin" / "python"


def link_server(environment: Path) -> None:
    """Make the same files as `labkit serve --install`, from the server of this environment. Only the packages' path differs."""
    here, place = Path(sys.prefix).resolve() / "triton-server", environment.resolve() / "triton-server"
    if not here.exists():
        return  # this environment has no server of its own: it uses a tritonserver on PATH
    packages = place / "overlay" / "lib" / PYTHON / "site-packages"
    packages.mkdir(parents=True)
    for name in ("server", "backends"):
        (place / name).symlink_to(here / name)
    for path in (here / "overlay").rglob("*"):
        target = place / path.relative_to(here)
        if path.is_dir() and not path.is_symlink():
            target.mkdir(exist_ok=True)
        elif path.is_symlink():
            target.symlink_to(os.readlink(path))
        else:
            shutil.copy2(path, target)
    purelib = str(environment.resolve() / "lib" / PYTHON / "site-packages")
    (packages / "main.pth").write_text(f"import site; site.addsitedir({purelib!r})\n", "utf-8")
    receipt = json.loads((here / "receipt.json").read_text("utf-8"))
    sizes = {name: (place / name).stat().st_size for name in receipt["sizes"]}
    (place / "receipt.json").write_text(json.dumps(receipt | {"packages": purelib, "sizes": sizes}), "utf-8")
