"""Makes the reference from the docstrings: one page for each package of the library. It imports none of these packages."""

from __future__ import annotations

import ast

from docs.site import ROOT

NOT_FOR_LIBRARY_USERS = ("answers", "course", "exercises", "grading", "gradebook", "session", "cli", "ops", "native", "model")
"""Folders that are part of the course, or that only the engine uses."""
MODULES = ("labkit.config", "labkit.environment", "labkit.errors", "labkit.serving.repository.writer")
"""Modules that belong to the library but are not in a package with its own `__all__`."""


def packages() -> list[str]:
    """The dotted names of the modules in `MODULES`, and of the library's packages that define an `__all__`."""
    found = list(MODULES)
    for file in sorted((ROOT / "labkit").rglob("__init__.py")):
        parts = file.relative_to(ROOT).parent.parts
        if not set(parts) & set(NOT_FOR_LIBRARY_USERS) and "__all__" in file.read_text("utf-8"):
            found.append(".".join(parts))
    return sorted(found)


def reference_page(name: str) -> str:
    """The Markdown of the page of a package or a module. The MkDocs plugin mkdocstrings adds the docstrings to the page."""
    path = ROOT.joinpath(*name.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    has_door = file.name == "__init__.py"
    members = f"\n    options:\n      members: {_door(ast.parse(file.read_text('utf-8')))}" if has_door else ""
    return f"# {name}\n\n::: {name}{members}\n"


def _door(tree: ast.Module) -> list[str]:
    """The names in a package's `__all__` that do not begin with an underscore."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return [name for name in ast.literal_eval(node.value) if not name.startswith("_")]
    return []
