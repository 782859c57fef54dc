"""Known ways to cheat, or to harm the run, with the exercise `kv_cache_bytes`. They run only in the sandbox.

The cheats do not compute the number of bytes, except those that are only possible with the right number.
"""

from __future__ import annotations

from tests.gradebook.cheats import ends_early, harms, hides, inputs, patches, reads, values

CHEATS = ends_early.CHEATS | patches.CHEATS | values.CHEATS | reads.CHEATS | harms.CHEATS | inputs.CHEATS | hides.CHEATS
"""All cheats by name."""
