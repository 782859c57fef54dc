"""What every rank but the first does: compute task after task."""

from __future__ import annotations

from collections.abc import Callable

from labkit.engine.kv_cache import KVCache
from labkit.parallel.links import Links
from labkit.parallel.rank import RankForward
from labkit.parallel.wire import decode


def serve(forward: RankForward, links: Links, say: Callable[[int], None]) -> None:
    """Compute task after task; returns when told to end. `say` is told the number of each."""
    model = forward.model
    caches: dict[int, KVCache] = {}
    while (received := links.receive_task()) is not None:
        task = decode(*received, model.config.hidden_size)
        say(task.number)
        for number in task.freed:
            caches.pop(number, None)
        if task.cache not in caches:
            caches[task.cache] = KVCache(model.config, task.slots, device=model.device, dtype=model.dtype, part=model.part)
        forward(task.batch, caches[task.cache])
        links.take_accounts()
