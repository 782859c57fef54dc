"""Known ways to cheat in the exercise `kv_cache_bytes`, or to harm the run that grades it. The cheats run only in the sandbox.

A cheat does not compute the right number of bytes, unless the cheat is only possible with this number.
"""

from __future__ import annotations

from tests.gradebook.cheats import ends_early, harms, hides, inputs, patches, reads, values

CHEATS = ends_early.CHEATS | patches.CHEATS | values.CHEATS | reads.CHEATS | harms.CHEATS | inputs.CHEATS | hides.CHEATS
"""All cheats by name."""
