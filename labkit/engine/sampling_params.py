"""What a caller may ask of one prompt's continuation, and every refusal that can be made without seeing the model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from labkit.config import GPTJConfig
from labkit.engine import argument_forms as forms
from labkit.errors import InvalidRequest

DEFAULT_NEW_TOKENS = 64
"""New tokens at most where the caller does not say."""
MOST_LENGTH_PENALTY = 64
MOST_PROPOSALS = 64
"""Tokens that can be guessed a step at most."""
LEAST, MOST = 1e-10, 1e10
"""Between these a factor of a logit leaves it finite in float32, other factors included; `MOST` bounds differences, too."""
MOST_SEED = 2**64 - 1


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to continue a prompt.

    Numbers and arrays may be Python's, numpy's or torch's. Lists may be any collection; one text is a list of one, and
    None an empty one. What is kept is plain: whole numbers, floats, booleans and tuples.

    Length and end
    max_new_tokens: tokens to make at most; left out: 64, or fewer where the context ends.
    min_new_tokens: until so many are made, the end of text and the stop tokens cannot be chosen, and `stop` does nothing.
    stop: strings, or sequences of token ids, that end the text just before them, however it is cut into tokens. A special
        token is no text, but a string with its name (`<|endoftext|>`) is met by it. stop_token_ids: tokens that end it.
    end_token_id: the token that ends the text in place of the model's own end of text.
    ignore_eos: go on past the end of text.
    start_token_id: the token that an empty prompt begins with; without it an empty prompt is refused.

    Sampling
    temperature: 0 is greedy; logits are divided by it otherwise (1e-10 to 1e10).
    top_k: keep the k likeliest tokens; 0 keeps all.
    top_p: keep the smallest set of tokens whose probability reaches p, in [1e-10, 1].
    top_k and top_p choose among draws. With temperature 0 nothing is drawn: the text is greedy, and a warning says so. Other
        libraries whose default temperature is 1 draw then; give `temperature=1.0` for the same here.
    top_p_decay, top_p_min, top_p_reset_ids: factual-nucleus sampling (Lee et al. 2022): top_p is multiplied by
        `top_p_decay` after each token, down to `top_p_min`, and is itself again after a token of `top_p_reset_ids`
        (a full stop, say).
    seed: equal seeds (0 to 2**64 - 1) give equal text; left out, every call draws its own.
    num_samples: continuations of this prompt, each with its own random draws (of beam search: its best ones).

    Penalties and bans
    repetition_penalty: logits of tokens in prompt or continuation are divided (if positive) or multiplied (if
        negative) by it (Keskar et al. 2019), 1e-10 to 1e10; 1 is off.
    presence_penalty: subtracted from the logits of tokens already in the continuation, -1e10 to 1e10; 0 is off.
    bad_words: strings that the text does not hold anywhere, inside a word neither (`the` bans `other`), however it is cut
    into tokens; nor does one begin in the prompt and end in the text. Of sequences of token ids, the last token is
    banned where the others stand before it. A text ends with the reason "banned" where no token is left.

    Beam search (no draw is made: `temperature` divides the logits, 0 leaves them; penalties and bans work on
    log-probabilities, as in transformers)
    num_beams: continuations that are followed at once; 1 is no beam search.
    length_penalty: a hypothesis' score is its log-probability divided by its number of new tokens to this power.
    early_stopping: True ends when `num_beams` hypotheses have ended; False when the best running beam, at its present
        length, scores no better than the worst of them; "never" when it cannot at any length up to the limit.
    num_beam_groups, diversity_penalty: groups of beams, each penalized by `diversity_penalty` for every beam of an
        earlier group that took the same token in this step (Vijayakumar et al. 2016).
    diversity_rate: the r-th likeliest child of a beam (r from 0) is ranked r times this lower (Li et al. 2016); 0 is off.

    What is reported
    logprobs: None for none, 0 for the chosen tokens' log-probabilities, n for the n likeliest as well; of the
        model's own distribution, before penalties and temperature. prompt_logprobs: the same of the prompt's tokens.

    What stands before the prompt, and what is remembered
    soft_prompt: embeddings `[tokens, hidden_size]` in front of the prompt's.
    prefix_prompt: keys and values `[num_layers, 2, num_heads, prefix_len, head_dim]` of the first `prefix_len` positions.
    memory_len: the last so many tokens are attended to and kept in the cache; the prompt must fit. None remembers all.

    Speed
    speculate: up to so many tokens are guessed a step where the last ones occurred before, and kept as far as they are
        what would have been made without guessing (Saxena 2023); 0 is off. The text does not depend on it. Nothing is
        guessed with `memory_len`.

    Order of work on the logits: repetition penalty, presence penalty, bad words and minimum length, temperature,
    top-k, top-p. Raises `InvalidRequest` naming the parameter, what was given and what is accepted.
    """

    max_new_tokens: int | None = None
    min_new_tokens: int = 0
    stop: Sequence[str | Sequence[int]] = ()
    stop_token_ids: Sequence[int] = ()
    end_token_id: int | None = None
    ignore_eos: bool = False
    start_token_id: int | None = None
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    top_p_decay: float = 1.0
    top_p_min: float = 0.0
    top_p_reset_ids: Sequence[int] = ()
    seed: int | None = None
    num_samples: int = 1
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    bad_words: Sequence[str | Sequence[int]] = ()
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    diversity_rate: float = 0.0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    soft_prompt: Tensor | None = field(default=None, compare=False)
    prefix_prompt: Tensor | None = field(default=None, compare=False)
    memory_len: int | None = None
    speculate: int = 0

    def __post_init__(self) -> None:
        self._take_forms()
        self._check_beams()
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise InvalidRequest(
                f"min_new_tokens {self.min_new_tokens} is above max_new_tokens {self.max_new_tokens}; lower it"
            )
        if self.num_samples > 1 and self.temperature == 0 and self.num_beams == 1:
            raise InvalidRequest(
                f"num_samples {self.num_samples} with temperature 0 would give equal texts; set a temperature above 0, "
                "or num_beams"
            )
        if self.temperature == 0 and (self.top_p < 1 or self.top_k > 1):
            name = "top_p" if self.top_p < 1 else "top_k"
            warnings.warn(
                f"{name} is {getattr(self, name)}, but temperature is 0: the text is greedy, and {name} changes nothing; set a "
                f"temperature above 0 to draw tokens (other libraries draw at 1.0), or leave {name} out",
                stacklevel=3,
            )

    def _take_forms(self) -> None:
        """Put each value in its plain form; raises `InvalidRequest` for one that has none, or is out of its range."""
        kept: dict[str, Any] = {}
        for name, (least, most) in _WHOLE.items():
            value = getattr(self, name)
            kept[name] = None if value is None and name in _MAY_BE_NONE else forms.whole(name, value, least, most)
        for name in ("stop_token_ids", "top_p_reset_ids"):
            kept[name] = forms.token_ids(name, getattr(self, name))
        for name in ("stop", "bad_words"):
            kept[name] = forms.words(name, getattr(self, name))
        for name, (accepted, ok) in _NUMBERS.items():
            kept[name] = forms.number(name, getattr(self, name), accepted, ok)
        top_p = kept["top_p"]
        kept["top_p_min"] = forms.number("top_p_min", self.top_p_min, f"0 to top_p ({top_p})", lambda p: 0 <= p <= top_p)
        never = isinstance(self.early_stopping, str) and self.early_stopping == "never"
        kept["early_stopping"] = (
            "never" if never else forms.flag("early_stopping", self.early_stopping, 'True, False or "never"')
        )
        kept["ignore_eos"] = forms.flag("ignore_eos", self.ignore_eos)
        if self.soft_prompt is not None:
            kept["soft_prompt"] = forms.floats("soft_prompt", self.soft_prompt, ("tokens", "hidden_size"))
        if self.prefix_prompt is not None:
            shape = ("num_layers", "2", "num_heads", "prefix_len", "head_dim")
            kept["prefix_prompt"] = forms.floats("prefix_prompt", self.prefix_prompt, shape)
        for name, value in kept.items():
            object.__setattr__(self, name, value)

    def _check_beams(self) -> None:
        if self.num_beams % self.num_beam_groups:
            raise InvalidRequest(f"num_beams {self.num_beams} does not divide into num_beam_groups {self.num_beam_groups}")
        if (self.num_beam_groups > 1) != (self.diversity_penalty > 0):
            raise InvalidRequest(
                f"num_beam_groups {self.num_beam_groups} with diversity_penalty {self.diversity_penalty}: groups need a "
                "penalty above 0 to differ, and a penalty needs groups"
            )
        if self.num_beams == 1:
            return
        if self.num_samples > self.num_beams:
            raise InvalidRequest(f"num_samples is {self.num_samples}; {self.num_beams} beams give at most so many texts")
        for name, off in (("top_k", 0), ("top_p", 1), ("speculate", 0), ("prompt_logprobs", None)):
            if getattr(self, name) != off:
                raise InvalidRequest(
                    f"{name} is {getattr(self, name)} with num_beams {self.num_beams}; beam search has no use for it: leave "
                    f"{name} out"
                )

    @property
    def prefix_len(self) -> int:
        """Positions that `prefix_prompt` takes."""
        return 0 if self.prefix_prompt is None else self.prefix_prompt.shape[3]

    @property
    def soft_len(self) -> int:
        """Positions that `soft_prompt` takes."""
        return 0 if self.soft_prompt is None else self.soft_prompt.shape[0]

    @property
    def needs_tokenizer(self) -> bool:
        """Whether a stop or a bad word is given as text."""
        return any(isinstance(word, str) for word in (*self.stop, *self.bad_words))

    def fit(self, config: GPTJConfig, prompt_tokens: int) -> int:
        """The number of new tokens to make at most for a prompt of `prompt_tokens` (soft and prefix prompt not counted).

        Raises `InvalidRequest` when the parameters do not fit the model: token ids out of range, a soft or prefix prompt
        of another model's shape, a memory too short for the prompt, or more new tokens than the context holds. The last
        new token is never fed back, so a full context still yields one.
        """
        self._check_token_ids(config)
        self._check_shapes(config)
        before = self.prefix_len + self.soft_len + prompt_tokens
        behind = f"a prompt of {prompt_tokens}" + (f" and {before - prompt_tokens} in front" if before > prompt_tokens else "")
        if self.memory_len is not None and before > self.memory_len:
            raise InvalidRequest(f"memory_len is {self.memory_len}, but {behind} must fit it; shorten it or remember more")
        room = config.context_length - before + 1
        wanted = max(self.max_new_tokens or min(DEFAULT_NEW_TOKENS, room), self.min_new_tokens)
        if wanted > room or wanted < 1:
            raise InvalidRequest(
                f"{max(wanted, 1)} new tokens do not fit behind {behind}: the context of "
                f"{config.context_length} leaves room for {max(room, 0)}; ask for fewer or shorten the prompt"
            )
        return wanted

    def _check_token_ids(self, config: GPTJConfig) -> None:
        ids: list[tuple[str, Sequence[int]]] = [(name, getattr(self, name)) for name in ("stop_token_ids", "top_p_reset_ids")]
        ids += [("end_token_id", () if self.end_token_id is None else (self.end_token_id,))]
        ids += [("start_token_id", () if self.start_token_id is None else (self.start_token_id,))]
        ids += [("stop", word) for word in self.stop if not isinstance(word, str)]
        ids += [("bad_words", word) for word in self.bad_words if not isinstance(word, str)]
        for name, tokens in ids:
            for token in tokens:
                if token >= config.vocab_size:
                    raise InvalidRequest(
                        f"{name} holds {token}, but the vocabulary has {config.vocab_size} tokens (0 to "
                        f"{config.vocab_size - 1})"
                    )

    def _check_shapes(self, config: GPTJConfig) -> None:
        soft, prefix = self.soft_prompt, self.prefix_prompt
        if soft is not None and soft.shape[1] != config.hidden_size:
            raise InvalidRequest(
                f"soft_prompt has rows of {soft.shape[1]}, but the model's hidden_size is {config.hidden_size}"
            )
        if prefix is None:
            return
        expected = (config.num_layers, 2, config.num_heads, prefix.shape[3], config.head_dim)
        if tuple(prefix.shape) != expected:
            raise InvalidRequest(
                f"prefix_prompt has shape {list(prefix.shape)}; this model needs [num_layers {config.num_layers}, 2, "
                f"num_heads {config.num_heads}, prefix_len, head_dim {config.head_dim}]"
            )


_WHOLE = {
    "max_new_tokens": (1, forms.LARGEST),
    "min_new_tokens": (0, forms.LARGEST),
    "end_token_id": (0, forms.LARGEST),
    "start_token_id": (0, forms.LARGEST),
    "top_k": (0, forms.LARGEST),
    "seed": (0, MOST_SEED),
    "num_samples": (1, forms.LARGEST),
    "num_beams": (1, forms.LARGEST),
    "num_beam_groups": (1, forms.LARGEST),
    "logprobs": (0, forms.LARGEST),
    "prompt_logprobs": (0, forms.LARGEST),
    "memory_len": (1, forms.LARGEST),
    "speculate": (0, MOST_PROPOSALS),
}
_MAY_BE_NONE = {"max_new_tokens", "end_token_id", "start_token_id", "seed", "logprobs", "prompt_logprobs", "memory_len"}
_NUMBERS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "temperature": (f"0 (greedy), or {LEAST:g} to {MOST:g},", lambda t: t == 0 or LEAST <= t <= MOST),
    "top_p": (f"above 0 ({LEAST:g} or more) and at most 1", lambda p: LEAST <= p <= 1),
    "top_p_decay": ("above 0 and at most 1 (1 is off)", lambda d: 0 < d <= 1),
    "repetition_penalty": (f"above 0, from {LEAST:g} to {MOST:g} (1 is off),", lambda r: LEAST <= r <= MOST),
    "presence_penalty": (f"-{MOST:g} to {MOST:g} (0 is off)", lambda p: abs(p) <= MOST),
    # A length to the power of the penalty is a float.
    "length_penalty": (
        f"-{MOST_LENGTH_PENALTY} to {MOST_LENGTH_PENALTY} (0 is off)",
        lambda p: abs(p) <= MOST_LENGTH_PENALTY,
    ),
    "diversity_penalty": (f"0 (off) to {MOST:g}", lambda d: 0 <= d <= MOST),
    "diversity_rate": (f"0 (off) to {MOST:g}", lambda d: 0 <= d <= MOST),
}
