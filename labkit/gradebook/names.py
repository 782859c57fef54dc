"""Makes names and texts that come from learners safe to show and to use in file names."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

_KEPT = "\n\t"
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories of characters that cannot be seen, that change the direction of a text, or that are not text at all."""

_CYRILLIC_AND_GREEK = dict(zip("аеорсухіјѕһԁѵԛԝαικνορτυχβμ", "aeopcyxijshdvqwaiknoptuxbu", strict=True))
_DIGITS = {"0": "o", "1": "l", "|": "l"}
_LOOKS_LIKE = str.maketrans(_CYRILLIC_AND_GREEK | _DIGITS)
"""Letters of other scripts, and digits, that look like Latin letters.

The table is short, because it is used only for a warning.
"""


def visible(text: str) -> str:
    """The text with each hidden character (control characters, direction marks, lone surrogates) written as its number.

    Line ends and tabs are kept. The result can be encoded as UTF-8.
    """
    return "".join(_escaped(char) if char not in _KEPT and unicodedata.category(char) in _HIDDEN else char for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def one_line(text: str) -> str:
    """The visible text on one line, for sentences."""
    return visible(text).replace("\n", " ").replace("\t", " ")


def shown(name: str) -> str:
    """A name in the form that is shown to people.

    Unlike `visible`, this function also writes line ends and tabs as their numbers, so different names stay different.
    """
    return visible(name).replace("\n", "\\n").replace("\t", "\\t")


def name_of_folder(folder_name: str) -> str:
    """The learner's name: the name of the learner's folder, as valid text.

    If a name is not valid UTF-8, the numbers of the invalid bytes are written in their place. Nothing else is changed, so two
    folders with different names belong to two different learners.
    """
    return folder_name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def look_alikes(names: Iterable[str]) -> list[list[str]]:
    """Groups of different names that a person could take for the same name."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_skeleton(name), []).append(name)
    return [sorted(group) for _, group in sorted(groups.items()) if len(group) > 1]


def spelled(name: str) -> str:
    """The name with each character that is not ASCII written as its number, so that look-alike names can be told apart."""
    return name.encode("ascii", "backslashreplace").decode("ascii")


def _skeleton(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).casefold().translate(_LOOKS_LIKE)
    return " ".join("".join(char for char in plain if unicodedata.category(char) not in ("Mn", *_HIDDEN)).split())


def page_name(learner: str) -> str:
    """The file name of a learner's page. It contains a hash of the name, so that look-alike names have different pages."""
    plain = unicodedata.normalize("NFKD", learner).encode("ascii", "ignore").decode("ascii").lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-") or "learner"
    return f"{words}-{hashlib.sha256(learner.encode()).hexdigest()[:12]}.html"
