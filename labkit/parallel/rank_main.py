"""A rank's process: reads its part of the model, then computes what rank 0 sends, until it is told to end.

Started by `Ranks` as `python -m labkit.parallel.rank_main RUN_FOLDER RANK`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from labkit.checkpoints import open_checkpoint
from labkit.errors import RankFailed
from labkit.parallel.devices import CPU
from labkit.parallel.heartbeat import Pulse
from labkit.parallel.layout import Layout
from labkit.parallel.links import Links
from labkit.parallel.rank_forward import RankForward
from labkit.parallel.rank_loop import serve
from labkit.parallel.rank_processes import LOST_OTHERS


def main(folder: Path, rank: int) -> int:
    """Run the rank; what stops it is written to the run's folder for rank 0 to read."""
    end_with_parent()
    spec: dict[str, Any] = json.loads((folder / "run.json").read_text())
    layout = Layout(**spec["layout"])
    pulse = Pulse(Path(spec["pulse"]), layout.ranks)
    pulse.beat(rank)
    try:
        torch.set_num_threads(spec["threads"])
        device = CPU if spec["device"] == "cpu" else torch.device(spec["device"], rank)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        meeting = Path(spec["meeting"])
        links = Links.shared(layout, rank, spec["groups"], spec["timeout"], device=device, meeting=meeting)
        links.connect()
        checkpoint = open_checkpoint(spec["model"], seed=spec["seed"])
        forward = RankForward.load(checkpoint, spec["precision"], links, spec["threads"])
        pulse.say_ready(rank)
        serve(forward, links, lambda step: pulse.say_step(rank, step))
    except RankFailed:
        return LOST_OTHERS
    except Exception as error:
        note_failure(folder, rank, f"{type(error).__name__}: {error}")
        raise
    return 0


def note_failure(folder: Path, rank: int, cause: str) -> None:
    """Leave the cause where rank 0 looks for it, whole or not at all."""
    beside = folder / f"failure-{rank}.part"
    beside.write_text(json.dumps({"rank": rank, "cause": cause}))
    beside.replace(folder / f"failure-{rank}.json")


def end_with_parent() -> None:
    """End this process soon after the one that started it, however that ends."""
    parent = os.getppid()

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(0.25)
        os._exit(1)

    threading.Thread(target=look, daemon=True, name="labkit parent").start()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
