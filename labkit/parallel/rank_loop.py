"""The loop that runs on every rank except rank 0. It carries out the tasks that rank 0 sends, one after another."""

from __future__ import annotations

from collections.abc import Callable

from labkit.launch.ledger import encode_entries
from labkit.model.kv_cache import KVCache
from labkit.parallel.links import Links
from labkit.parallel.rank_forward import RankForward
from labkit.parallel.task_messages import (
    DONE,
    OccupyHeader,
    PrefixHeader,
    ReportHeader,
    StepHeader,
    decode_prefix,
    decode_step,
)


def run_tasks(forward: RankForward, links: Links, on_step: Callable[[int], None], kv_cache_dtype: str | None = None) -> None:
    """Do one task after another until rank 0 ends the loop. When a step begins, `on_step` is called with its number.

    `kv_cache_dtype`: the format of the caches, as in `Engine`.
    """
    model = forward.model
    caches: dict[int, KVCache] = {}

    def cache_of(number: int, slots: int) -> KVCache:
        if number not in caches:
            caches[number] = model.new_cache(slots, kv_cache_dtype)
        return caches[number]

    while (received := links.receive_task()) is not None:
        header, body = received
        match header:
            case StepHeader():
                task = decode_step(header, body, model.config.hidden_size)
                on_step(task.number)
                for number in task.freed:
                    caches.pop(number, None)
                forward(task.batch, cache_of(task.cache, task.slots), task.number)
            case ReportHeader():
                links.gather_bytes(encode_entries(forward.ledger.take()))
            case OccupyHeader():
                cache_of(header.cache, header.num_slots).occupy()
                links.gather_bytes(DONE)
            case PrefixHeader():
                prefix = decode_prefix(header, body)
                cache_of(prefix.cache, prefix.num_slots).write_prefix_prompt(prefix.slots, prefix.given)
