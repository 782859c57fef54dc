"""Writes the submissions of cheats. The cheats know facts about the run that grades them."""

from __future__ import annotations

from pathlib import Path

import labkit
from labkit.grading.judge import SEEDS
from tests.gradebook.cheats.cheat import Cheat
from tests.gradebook.classes import EXERCISE, notebook, write

PACKAGE = Path(labkit.__file__).parent


def facts_of(root: Path, secret: str, honest: str, port: int) -> dict[str, str]:
    """The facts about the run that the cheats know, as listed in `tests.gradebook.cheats.cheat`. `root` is the folder of the
    class.
    """
    return {
        "$PACKAGE": str(PACKAGE),
        "$ROOT": str(PACKAGE.parent),
        "$OTHER": str(root / "submissions" / honest),
        "$GRADES": str(root / "grades"),
        "$HOME": str(root / "home"),
        "$TEMP": str(root / "temp"),
        "$SECRET": secret,
        "$PORT": str(port),
        "$TABLE": table(),
    }


def table() -> str:
    """Python code of a table with the right answers to the inputs that everybody can see."""
    rows = {}
    for case in (case for seed in SEEDS for case in EXERCISE.cases(seed)):
        config, lengths, size = case.args
        rows[config.num_layers, config.hidden_size, *lengths, size] = (
            2 * config.num_layers * config.hidden_size * sum(lengths) * size
        )
    return f"TABLE = {rows}"


def submit(root: Path, name: str, cheat: Cheat, facts: dict[str, str]) -> None:
    """Write the submission of a cheat."""

    def filled(text: str) -> str:
        for fact, value in facts.items():
            text = text.replace(fact, value)
        return text

    folder = root / "submissions" / name
    write(folder / "00.ipynb", notebook(filled(cheat.source)))
    for file, text in cheat.files.items():
        write(folder / file, text)
    for link, target in cheat.links.items():
        (folder / link).symlink_to(filled(target))
