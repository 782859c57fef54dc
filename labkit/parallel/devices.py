"""Which device a rank computes on: all on the CPU, or one GPU a rank; checked before a process starts."""

from __future__ import annotations

import os

import torch

from labkit.errors import InvalidRequest, NotAvailable
from labkit.parallel.layout import Layout
from labkit.precision import as_device

CPU = torch.device("cpu")


def rank_device(
    layout: Layout, device: str | torch.device | None, local_rank: int = 0, local_ranks: int | None = None
) -> torch.device:
    """The device of a rank: the CPU where none is named; of "cuda", GPU number `local_rank`.

    local_rank, local_ranks: which of the ranks on this host, and how many these are (left out: all). Raises `NotAvailable`
    when there are fewer GPUs here than ranks, with the numbers of ranks that there are GPUs for, and `InvalidRequest` for
    what is no device or names a single GPU.
    """
    if device is None:
        return CPU
    if str(device).startswith("cuda:"):
        raise InvalidRequest(
            f"device is {str(device)!r}, one GPU, and ranks take one each, from the first on; cuda or cpu is accepted"
        )
    if str(device) != "cuda":
        return as_device(device)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    here = layout.ranks if local_ranks is None else local_ranks
    if here > gpus:
        where = "" if local_ranks is None else f", {here} of them on this host"
        what = "tensor_parallel x pipeline_parallel" if local_ranks is None else "the ranks of a host"
        raise NotAvailable(
            f"{layout.ranks} ranks were asked for, one GPU each{where}, and {_gpus(gpus)} here; {_choice(what, gpus)}"
        )
    return torch.device("cuda", local_rank)


def torchrun_device(layout: Layout, device: str | torch.device | None) -> torch.device:
    """The same for a rank that torchrun started, which says how many it started on this host, and which of them this is.

    Raises `InvalidRequest` too, when what started the ranks says so much and no more than which rank this is.
    """
    if device in (None, "cpu"):
        return CPU
    if missing := [name for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE") if name not in os.environ]:
        raise InvalidRequest(
            f"{missing[0]} is not set: a rank on a GPU needs its number among the ranks of its host, and how many these are; "
            "set LOCAL_RANK and LOCAL_WORLD_SIZE as torchrun does, or choose device cpu"
        )
    return rank_device(layout, device, int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]))


def _gpus(count: int) -> str:
    return "1 GPU is" if count == 1 else f"{count or 'no'} GPUs are"


def _choice(what: str, gpus: int) -> str:
    numbers = {0: "", 1: "1", 2: "1 or 2"}.get(gpus, f"1 to {gpus}")
    return f"choose {what} = {numbers}, or device cpu" if gpus else "choose device cpu"
