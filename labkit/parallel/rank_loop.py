"""What every rank but the first does: one task after another."""

from __future__ import annotations

from collections.abc import Callable

from labkit.model.kv_cache import KVCache
from labkit.parallel.ledger import encode_entries
from labkit.parallel.links import Links
from labkit.parallel.rank_forward import RankForward
from labkit.parallel.task_messages import DONE, OCCUPY, PREFIX, REPORT, decode, decode_occupy, decode_prefix, kind_of


def serve(forward: RankForward, links: Links, say: Callable[[int], None]) -> None:
    """Do task after task; returns when told to end. `say` is told the number of each step."""
    model = forward.model
    caches: dict[int, KVCache] = {}

    def cache_of(number: int, slots: int) -> KVCache:
        if number not in caches:
            caches[number] = KVCache(model.config, slots, device=model.device, dtype=model.dtype, part=model.part)
        return caches[number]

    while (received := links.receive_task()) is not None:
        header, body = received
        if kind_of(header) == REPORT:
            links.gather_bytes(encode_entries(forward.ledger.take()))
        elif kind_of(header) == OCCUPY:
            cache_of(*decode_occupy(header)).occupy()
            links.gather_bytes(DONE)
        elif kind_of(header) == PREFIX:
            prefix = decode_prefix(header, body)
            cache_of(prefix.cache, prefix.num_slots).write_prefix_prompt(prefix.slots, prefix.given)
        else:
            task = decode(header, body, model.config.hidden_size)
            say(task.number)
            for number in task.freed:
                caches.pop(number, None)
            forward(task.batch, cache_of(task.cache, task.slots), task.number)
