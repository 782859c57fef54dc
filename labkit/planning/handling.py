"""The time that a server needs in addition to the steps of the model, to accept requests and to send tokens.

On a machine whose cores also run the server, and perhaps the clients, this time is as long as a step of a small model. The time
is measured, because nothing on a data sheet predicts it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial

from labkit.errors import InvalidRequest
from labkit.planning.deployment import Deployment
from labkit.planning.fit import Fit
from labkit.planning.latency import Work, step_parts


@dataclass(frozen=True)
class Handling:
    """Seconds in which no step of the model runs: for each accepted request, for each step, and for each token that is sent."""

    request: float = 0.0
    step: float = 0.0
    token: float = 0.0

    def seconds(self, accepted: int, sent: int) -> float:
        """The seconds of handling for one step, with `accepted` new requests before the step and `sent` tokens after it."""
        return self.request * accepted + self.step + self.token * sent


@dataclass(frozen=True)
class Served:
    """Median seconds until the first token, and of a whole request, when `users` users each wait for their answer."""

    users: int
    first_token: float
    latency: float


def measured_handling(plan: Deployment, found: Fit, one: Served, several: Served) -> Handling:
    """Find the time that a server needs beyond the steps that `found` predicts, measured with one user and with several.

    The times between the tokens of one user give the sum of `step` and `token`, and the time to the first token then gives
    `request`. If there are n users, a step sends n tokens, and while one request lasts, n prompts are computed, one after the
    other or together. The latency of a request with n users therefore gives `token`. A time that would be below 0 is set to 0.
    `plan` has the lengths of the requests. Raises `InvalidRequest` unless `one` has one user, `several` has more than one user,
    and the requests have at least 2 new tokens.
    """
    if one.users != 1 or several.users < 2 or plan.output_tokens < 2:
        raise InvalidRequest(
            f"the measurements are of {one.users} and {several.users} users, with {plan.output_tokens} new tokens; give one of "
            "1 user and one of at least 2 users, with at least 2 new tokens"
        )
    users, new = several.users, plan.output_tokens
    decode, prompt = (partial(work, plan.input_tokens, new) for work in (_decode, _prompt_and_decode))

    def seconds(work: Work) -> float:
        return float(step_parts(plan, work, found.found).total)

    both = max(0.0, (one.latency - one.first_token) / (new - 1) - seconds(decode(1)))
    request = max(0.0, one.first_token - seconds(prompt(0)) - both)
    prompts = users * (seconds(prompt(users - 1)) - seconds(decode(users - 1)) + request)
    between = (several.latency - prompts) / new
    token = min(both, max(0.0, (between - seconds(decode(users)) - both) / (users - 1)))
    return Handling(request, both - token, token)


def _decode(prompt: int, new: int, sequences: int) -> Work:
    """A decode step of sequences that have generated half of their new tokens."""
    return Work.decode(sequences, prompt + new / 2)


def _prompt_and_decode(prompt: int, new: int, sequences: int) -> Work:
    """A step that computes one prompt and decodes other sequences."""
    one, others = Work.prefill(1, prompt), _decode(prompt, new, sequences)
    return Work(*(getattr(one, part.name) + getattr(others, part.name) for part in fields(Work)))
