"""labkit as a library: what `import labkit` loads, and the page `docs/library.md` in an environment without extras."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from labkit.extras import EXTRA_OF
from tests.library.bare import PYTHON, ROOT, bare_environment

PAGE = (ROOT / "docs" / "library.md").read_text("utf-8")
BLOCKS = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
"""The Python code block of each section of the page, by the section's title."""
IN_THE_BARE_ENVIRONMENT = ("Load and generate", "Stream", "Bench")


def run(python: Path, code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code with another Python in this folder, without this process's settings for imports."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["LABKIT_HOME"] = str(folder / "home")
    file = folder / "mine.py"
    file.write_text(code, "utf-8")
    return subprocess.run([python, file], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_page_has_a_script_for_each_task() -> None:
    assert list(BLOCKS) == ["Load and generate", "Stream", "Several ranks", "Serve", "Bench"]
    assert PAGE.count("```python") == len(BLOCKS)


def test_import_labkit_loads_nothing_but_the_standard_library() -> None:
    code = "import sys; before = set(sys.modules); import labkit; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.split() if name.partition(".")[0] not in sys.stdlib_module_names}
    assert loaded == {"labkit"}


def test_dir_shows_the_public_names_and_the_errors_are_offered_before_the_first_load() -> None:
    code = "import labkit; print(set(labkit.__all__) <= set(dir(labkit)), labkit.errors.InvalidRequest.__name__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "InvalidRequest"]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare environment in which labkit itself is a link to this repository."""
    folder = tmp_path_factory.mktemp("bare")
    found = bare_environment(folder)
    (folder / "lib" / PYTHON / "site-packages" / "labkit").symlink_to(ROOT / "labkit")
    return found


def test_the_bare_environment_has_no_package_of_an_extra(python: Path, tmp_path: Path) -> None:
    code = f"import importlib.util as u; print(*(n for n in {sorted(EXTRA_OF)} if u.find_spec(n)))"
    done = run(python, code, tmp_path)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


def test_the_page_runs_in_the_bare_environment(python: Path, tmp_path: Path) -> None:
    """Each script runs in a namespace of its own; one process runs them all, because loading torch takes seconds."""
    scripts = json.dumps([BLOCKS[name] for name in IN_THE_BARE_ENVIRONMENT])
    code = f"import json\nfor script in json.loads({scripts!r}):\n    exec(script, {{'__name__': '__main__'}})\n"
    done = run(python, code, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "(length, log-probability -" in done.stdout
    assert len(re.findall(r"^batch [14]: [\d.]+ ms per step, \d+ tokens a second$", done.stdout, re.MULTILINE)) == 2
    assert json.loads((tmp_path / "bench.json").read_text("utf-8"))["kind"] == "bench"
