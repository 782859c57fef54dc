"""Checks a whole model repository: `NAME/config.pbtxt` and `NAME/VERSION/` of each model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from labkit.errors import InvalidRequest
from labkit.serving.repository.checker.check_config import check_config, text_of
from labkit.serving.repository.checker.fault import Fault
from labkit.serving.repository.checker.pbtxt import read
from labkit.serving.repository.served_models import served_models

CONFIG = "config.pbtxt"
MISSING_CODE = "there is no such file, and the server would wait for it forever"


def check_repository(path: Path, *, gpus: int | None = None) -> list[Fault]:
    """The faults of all models, sorted by folder and line. The file of each fault is relative to the repository.

    gpus: the number of GPUs of the server's machine; None if unknown. If a model has the name of one of labkit's models, its
    configuration is also compared with the needs of labkit's code. Raises `InvalidRequest` if there is no such folder, and
    `NotAvailable` if the package tritonclient is not installed.
    """
    if not path.is_dir():
        raise InvalidRequest(f"there is no folder {path}; give a model repository: a folder with one folder per model")
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if not folders:
        return [Fault(0, "the repository has no model", f"make a folder NAME with {CONFIG} and 1/ for each", file=path.name)]
    configs = {folder.name: folder / CONFIG for folder in folders if (folder / CONFIG).is_file()}
    known = served_models({})
    faults: list[Fault] = []
    for folder in folders:
        if folder.name not in configs:
            faults.append(Fault(0, f"there is no {CONFIG}", "write one", file=folder.name))
            continue
        others = {name: config for name, config in configs.items() if name != folder.name}
        found = check_config(configs[folder.name], expected=known.get(folder.name), others=others, gpus=gpus)
        faults += [replace(fault, file=f"{folder.name}/{CONFIG}") for fault in found]
        faults += _versions(folder, text_of(configs[folder.name]))
    return faults


def _versions(folder: Path, config: str) -> Iterator[Fault]:
    versions = [each for each in folder.iterdir() if each.is_dir() and each.name.isdecimal() and int(each.name) > 0]
    if not versions:
        do = "make one; for an ensemble it stays empty"
        yield Fault(0, "there is no folder for a version, such as 1/", do, file=folder.name)
    root = read(config).root
    if root is None or root.value("backend") != "python":
        return
    code = root.value("default_model_filename", "model.py")
    for version in versions:
        if not (version / code).is_file():
            yield Fault(0, MISSING_CODE, "write the model's code there", file=f"{folder.name}/{version.name}/{code}")
