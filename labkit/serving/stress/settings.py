"""The settings of a stress test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from labkit.errors import InvalidRequest
from labkit.plurals import counted
from labkit.serving.stress.lengths import Lengths

USUAL = Lengths(8, 64)


@dataclass(frozen=True)
class StressSettings:
    """The load is given either by `users` or by `rate`.

    users: the number of users. Each user sends its next request as soon as its previous request is answered (closed loop).
    rate: the number of requests per second; they arrive at random times and do not wait for one another (open loop). seconds:
    the length of the measurement, after `warmup` seconds that do not count. prompt_tokens, new_tokens: distributions of
    lengths. temperature: 0 means greedy decoding. ttft_limit, itl_limit: the longest time to the first token and the longest
    average time between tokens that a request may have to count as good, both in seconds. timeout: the longest time of a
    request in seconds. as_token_ids: send prompts as token ids, for models without a tokenizer. seed: the seed of the random
    prompts, lengths and arrival times. Raises `InvalidRequest` for impossible settings.
    """

    users: int | None = None
    rate: float | None = None
    seconds: float = 10.0
    warmup: float = 2.0
    prompt_tokens: Lengths = USUAL
    new_tokens: Lengths = USUAL
    temperature: float = 0.0
    ttft_limit: float = 0.5
    itl_limit: float = 0.05
    timeout: float = 60.0
    as_token_ids: bool = False
    model: str = "gptj"
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.users is None) == (self.rate is None):
            raise InvalidRequest(f"users is {self.users} and rate {self.rate}; give exactly one of them")
        for name, least in (("users", 1), ("rate", 0.001), ("warmup", 0), ("seconds", 0.1), ("timeout", 0.1)):
            value = getattr(self, name)
            if value is not None and not least <= value <= 1e6:
                raise InvalidRequest(f"{name} is {value}; {least} or more is accepted")

    @property
    def offered_load(self) -> str:
        """The load in words: "4 users" or "8 requests/s"."""
        if self.users is not None:
            return counted(self.users, "user")
        return f"{self.rate:g} requests/s"

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as numbers, texts and None; the distributions of lengths become texts."""
        lengths = {name: getattr(self, name) for name in ("prompt_tokens", "new_tokens")}
        return vars(self) | {name: f"{one.low} to {one.high}, {one.shape}" for name, one in lengths.items()}
