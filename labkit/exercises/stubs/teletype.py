"""A streaming model for exercise 4.6. It sends the words of its prompt one by one, and waits after each word until the reader
has read it.

The first word of the prompt is the path of a folder. After N pieces, the reader writes the file `N` into this folder. The model
writes the file `late` if its reader does not read in time, `cancelled` if its client has left, and `ended` at the end.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

PATIENCE = 2.0
"""How many seconds the model waits for its reader. After the reader has been late once, the model no longer waits."""
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """Serves each request in its own thread."""

    def execute(self, requests: list[Any]) -> None:
        """Start one thread for each request."""
        for request in requests:
            tensors = [pb_utils.get_input_tensor_by_name(request, name) for name in ("text_input", "max_new_tokens", "stream")]
            prompt, count = tensors[0].as_numpy().reshape(-1)[0].decode(), int(tensors[1].as_numpy().reshape(-1)[0])
            streams = tensors[2] is not None and bool(tensors[2].as_numpy().reshape(-1)[0])
            threading.Thread(target=run, args=(request.get_response_sender(), prompt, count, streams), daemon=True).start()


def run(sender: Any, prompt: str, count: int, streams: bool) -> None:
    """Send `count` words of the prompt. The word `!` causes an error.

    If the prompt ends with the word `+`, the last piece is sent in the final response.
    """
    folder, *words = prompt.split(" ")
    ends_with_text = words[-1] == "+"
    words = words[: len(words) - ends_with_text]
    place = Path(folder)
    pieces = [f" {word}" for word in words[:count]]
    if not streams:
        pieces = ["".join(pieces)]
    for number, piece in enumerate(pieces):
        if not _wait(sender, place, number):
            sender.send(flags=FINAL)
            return
        if piece == " !":
            sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("the machine is out of paper")), flags=FINAL)
            return
        flags = FINAL if ends_with_text and number == len(pieces) - 1 else 0
        text = pb_utils.Tensor("text_output", np.array([piece.encode()], np.object_))
        sender.send(pb_utils.InferenceResponse([text]), flags=flags)
    if not ends_with_text:
        sender.send(flags=FINAL)
    _note(place, "ended")


def _wait(sender: Any, place: Path, read: int) -> bool:
    """Wait until the reader has read `read` pieces or is late. Returns False if the client has left."""
    until = time.monotonic() + PATIENCE
    while read and not ((place / str(read)).exists() or (place / "late").exists()):
        if sender.is_cancelled():
            _note(place, "cancelled")
            return False
        if time.monotonic() > until:
            _note(place, "late")
            break
        time.sleep(0.002)
    return True


def _note(place: Path, what: str) -> None:
    if place.is_dir():
        (place / what).touch()
