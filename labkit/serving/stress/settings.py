"""What load is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from labkit.errors import InvalidRequest
from labkit.serving.stress.lengths import Lengths

USUAL = Lengths(8, 64)


@dataclass(frozen=True)
class StressSettings:
    """Either `users`, each of whom asks again as soon as it is answered (closed loop), or `rate`: requests a second that
    come at random and wait for nobody (open loop).

    seconds: of what counts, after `warmup` seconds that do not. prompt_tokens, new_tokens: lengths. temperature: 0 is
    greedy. ttft_limit, itl_limit: seconds to the first token, and between tokens on average, that a good request keeps.
    timeout: seconds that a request may take. as_token_ids: prompts as token ids, for models without a tokenizer. seed: of
    prompts, lengths and arrivals. Raises `InvalidRequest` for what cannot be.
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
            raise InvalidRequest(f"users is {self.users} and rate {self.rate}; give one of them")
        for name, least in (("users", 1), ("rate", 0.001), ("warmup", 0), ("seconds", 0.1), ("timeout", 0.1)):
            value = getattr(self, name)
            if value is not None and not least <= value <= 1e6:
                raise InvalidRequest(f"{name} is {value}; {least} or more is accepted")

    @property
    def load(self) -> str:
        """Who asks, in words."""
        if self.users is not None:
            return f"{self.users} user{'s' * (self.users > 1)}"
        return f"{self.rate:g} requests/s"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, lengths as text."""
        lengths = {name: getattr(self, name) for name in ("prompt_tokens", "new_tokens")}
        return vars(self) | {name: f"{one.low} to {one.high}, {one.shape}" for name, one in lengths.items()}
