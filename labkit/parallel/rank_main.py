"""The process of a rank. It reads its part of the model, then carries out the tasks of rank 0 until it is told to stop.

`LocalRanks` starts the process as `python -m labkit.parallel.rank_main RUN_FOLDER RANK`.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch

from labkit.checkpoints import open_checkpoint
from labkit.errors import RankFailed
from labkit.launch.processes import end_with_parent
from labkit.parallel.devices import CPU
from labkit.parallel.heartbeats import Heartbeats
from labkit.parallel.layout import Layout
from labkit.parallel.links import Links
from labkit.parallel.local_ranks import LOST_OTHERS, RUN
from labkit.parallel.rank_forward import RankForward
from labkit.parallel.rank_loop import run_tasks


def main(folder: Path, rank: int) -> int:
    """Run the rank. If the rank fails, write the cause to the run's folder, where rank 0 reads it."""
    end_with_parent()
    spec: dict[str, Any] = json.loads((folder / RUN).read_text())
    layout = Layout(**spec["layout"])
    heartbeats = Heartbeats(Path(spec["heartbeats"]), layout.ranks)
    heartbeats.start_beating(rank)
    try:
        torch.set_num_threads(spec["threads"])
        device = CPU if spec["device"] == "cpu" else torch.device(spec["device"], rank)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        meeting = Path(spec["meeting"])
        links = Links.shared(layout, rank, spec["groups"], math.inf, device=device, meeting=meeting)
        links.connect()
        checkpoint = open_checkpoint(spec["model"], seed=spec["seed"])
        forward = RankForward.load(checkpoint, spec["precision"], links, spec["threads"])
        heartbeats.set_ready(rank)
        run_tasks(forward, links, lambda step: heartbeats.set_step(rank, step), spec["kv_cache_dtype"])
    except RankFailed:
        return LOST_OTHERS
    except Exception as error:
        write_failure(folder, rank, f"{type(error).__name__}: {error}")
        raise
    return 0


def write_failure(folder: Path, rank: int, cause: str) -> None:
    """Write the cause into the file where rank 0 looks for it. Rank 0 never sees a half-written file."""
    partial = folder / f"failure-{rank}.part"
    partial.write_text(json.dumps({"rank": rank, "cause": cause}))
    partial.replace(folder / f"failure-{rank}.json")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
