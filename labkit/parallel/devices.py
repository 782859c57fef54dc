"""Chooses the device of a rank, which is the CPU or a separate GPU, and checks the device before a process is started."""

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
    """The device of a rank: the CPU if `device` is None or "cpu", and GPU number `local_rank` if `device` is "cuda".

    local_rank: the number of this rank among the ranks of this host. local_ranks: how many ranks this host has; by default all
    ranks of the layout. Raises `NotAvailable` if this host has fewer GPUs than ranks; the message says which numbers of ranks
    would work. Raises `InvalidRequest` for a string that does not name a device, and for a single GPU such as "cuda:1".
    """
    if device is None:
        return CPU
    if str(device).startswith("cuda:"):
        raise InvalidRequest(
            f"device is {str(device)!r}, which is one GPU, but each rank needs its own GPU; cuda or cpu is accepted"
        )
    if str(device) != "cuda":
        return as_device(device)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    here = layout.ranks if local_ranks is None else local_ranks
    if here > gpus:
        where = "" if local_ranks is None else f", {here} of them on this host"
        what = "tensor_parallel x pipeline_parallel" if local_ranks is None else "the ranks of a host"
        raise NotAvailable(
            f"{layout.ranks} ranks were asked for, one GPU each{where}, but {_gpus(gpus)} available; {_choice(what, gpus)}"
        )
    return torch.device("cuda", local_rank)


def torchrun_device(layout: Layout, device: str | torch.device | None) -> torch.device:
    """The device of a rank that torchrun started; it is chosen as in `rank_device`.

    torchrun sets `LOCAL_RANK` and `LOCAL_WORLD_SIZE`: the rank's number on this host, and how many ranks this host has.

    Also raises `InvalidRequest` if the program that started the ranks has not set both variables.
    """
    if device in (None, "cpu"):
        return CPU
    if missing := [name for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE") if name not in os.environ]:
        raise InvalidRequest(
            f"{missing[0]} is not set: a rank on a GPU must know its number on its host and how many ranks the host has; "
            "set LOCAL_RANK and LOCAL_WORLD_SIZE as torchrun does, or choose device cpu"
        )
    return rank_device(layout, device, int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]))


def _gpus(count: int) -> str:
    return "1 GPU is" if count == 1 else f"{count or 'no'} GPUs are"


def _choice(what: str, gpus: int) -> str:
    numbers = {0: "", 1: "1", 2: "1 or 2"}.get(gpus, f"1 to {gpus}")
    return f"choose {what} = {numbers}, or device cpu" if gpus else "choose device cpu"
