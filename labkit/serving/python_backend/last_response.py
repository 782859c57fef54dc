"""Sends the last response to a request, so that its client does not wait for ever if the shared memory is full.

Each response passes through a region of shared memory, which grows if it must. If the region cannot grow, `sender.send` raises.
A sender that has tried to send a response marked as final is closed even if it raised: nothing can answer the request after
that. If memory is short, the response and the mark are therefore sent one after the other.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from labkit.errors import LabkitError
from labkit.serving.python_backend.triton_error import as_triton_error

FOLDER = Path("/dev/shm")
SPARE_BYTES = 16 * 2**20
"""Memory is short if, without the response, fewer bytes than this are free. A region grows in steps of 2**20 bytes."""


def send_last(sender: Any, response: Any, names_kind: bool = False) -> LabkitError | None:
    """Send a response and end its request. Call this once for each sender.

    If memory is short, the mark that ends the request follows in a message without outputs. A client of a stream then learns of
    the end only if it asks for an empty final response, or from `finish_reason`.

    If the response cannot be sent, an error is sent in its place, if the model may send a second response; otherwise Triton
    itself reports an error. Returns the error with which the request ended in the place of the response; None if the response
    was sent. names_kind: as in `as_triton_error`. Never raises: the thread that sends must continue, because other requests
    need it.
    """
    failure = None
    try:
        if not _is_short(response):
            sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            return None
        try:
            sender.send(response)
        except Exception as error:
            failure = not_sent(error)
            sender.send(pb_utils.InferenceResponse(error=as_triton_error(failure, names_kind)))
    except Exception as error:
        failure = failure or not_sent(error)
    try:
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    except Exception as error:
        failure = failure or not_sent(error)
    return failure


def not_sent(error: Exception) -> LabkitError:
    """The error for a request whose response could not be sent because of `error`; it is also written to the log."""
    found = LabkitError(f"a response could not be sent: {error}")
    print(found, file=sys.stderr, flush=True)
    return found


def _is_short(response: Any) -> bool:
    needed: int = sum(tensor.as_numpy().nbytes for tensor in response.output_tensors())
    found = os.statvfs(FOLDER)
    return found.f_bavail * found.f_frsize < SPARE_BYTES + needed
