"""Cheats that know, keep or change the inputs."""

from __future__ import annotations

from tests.gradebook.cheats.cheat import RIGHT, WRONG, Cheat, body

CHEATS = {
    "knows-the-inputs": Cheat(
        "It has a table of the answers to the inputs that the check in the notebook uses.",
        "$TABLE\n" + body("return TABLE.get((config.num_layers, config.hidden_size, *lengths, element_bytes), 0)"),
        WRONG,
    ),
    "keeps-by-address": Cheat(
        "It works once, and afterwards returns what it kept for the address of the input.",
        "KEPT = {}\n"
        + body("KEPT.setdefault(id(lengths), next(iter(KEPT.values()), 0) or " + RIGHT + ")", "return KEPT[id(lengths)]"),
        WRONG,
    ),
    "empties-the-inputs": Cheat(
        "It changes the inputs so that 0 is the right number.",
        body("lengths.clear()", "return 0"),
        WRONG,
    ),
    "changes-the-inputs": Cheat(
        "It returns the right number, and changes the input that the next call uses.",
        body(f"found = {RIGHT}", "lengths.append(1)", "return found"),
        "changes its argument 'lengths'",
    ),
}
