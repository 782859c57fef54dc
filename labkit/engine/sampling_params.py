"""The parameters for continuing one prompt, and all checks of these parameters that are possible without the model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from labkit.config import GPTJConfig
from labkit.engine import argument_forms
from labkit.errors import InvalidRequest
from labkit.sampling_vocabulary import PARAMETERS, of_kind

DEFAULT_NEW_TOKENS = 64
"""The limit on new tokens if the caller gives no limit."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to continue a prompt. `labkit.sampling_vocabulary` states the meaning and the range of each parameter.

    Numbers and arrays can come from Python, numpy or torch. Where a list is expected, any collection is accepted. One string
    stands for a list with this string; None stands for an empty list. The fields hold plain values: whole numbers, floats,
    booleans and tuples.

    `top_k` and `top_p` limit a random draw. With temperature 0 nothing is drawn: decoding is greedy, `top_k` and `top_p` have
    no effect, and a warning says so. Other libraries often draw tokens at random by default, with temperature 1; write
    `temperature=1.0` to get the same behaviour.

    Beam search draws nothing either. In beam search the temperature divides the logits (0 leaves them unchanged), and penalties
    and bans apply to log-probabilities, as in transformers.

    The logits are changed in this order: repetition penalty, presence penalty, bad words and minimum length, temperature,
    top-k, top-p. A value that is not accepted raises `InvalidRequest`, which names the parameter, the value and what is
    accepted.
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
                f"min_new_tokens {self.min_new_tokens} is above max_new_tokens {self.max_new_tokens}; lower min_new_tokens"
            )
        if self.num_samples > 1 and self.temperature == 0 and self.num_beams == 1:
            raise InvalidRequest(
                f"num_samples {self.num_samples} with temperature 0 would give equal texts; set a temperature above 0, or "
                "set num_beams"
            )
        if self.num_beams > 1:
            return
        drawing = {"top_p": self.top_p < 1, "top_k": self.top_k > 1, "top_p_decay": self.top_p_decay < 1}
        if self.temperature == 0 and any(drawing.values()):
            name = next(name for name, given in drawing.items() if given)
            warnings.warn(
                f"{name} is {getattr(self, name)}, but temperature is 0: the text is greedy, and {name} changes nothing; set a "
                f"temperature above 0 to draw tokens (other libraries draw at 1.0), or leave {name} out",
                stacklevel=3,
            )
        for name, off in (("length_penalty", 1), ("early_stopping", False), ("diversity_rate", 0)):
            if getattr(self, name) != off:
                warnings.warn(
                    f"{name} is {getattr(self, name)}, but num_beams is 1: there is no beam search, and {name} changes "
                    f"nothing; set num_beams above 1, or leave {name} out",
                    stacklevel=3,
                )

    def _take_forms(self) -> None:
        """Turn each value into its plain form. Raises `InvalidRequest` for a value of the wrong type or outside its range."""
        kept: dict[str, Any] = {}
        for each in of_kind("whole number"):
            value = getattr(self, each.name)
            kept[each.name] = (
                None if value is None and each.may_be_none else argument_forms.whole(each.name, value, *each.limits)
            )
        for each in of_kind("token ids"):
            kept[each.name] = argument_forms.token_ids(each.name, getattr(self, each.name))
        for each in of_kind("words"):
            kept[each.name] = argument_forms.words(each.name, getattr(self, each.name))
        for each in of_kind("number"):
            if each.name != "top_p_min":
                kept[each.name] = argument_forms.number(each.name, getattr(self, each.name), each.accepted, each.allows)
        top_p = kept["top_p"]
        kept["top_p_min"] = argument_forms.number(
            "top_p_min", self.top_p_min, f"0 to top_p ({top_p})", lambda p: 0 <= p <= top_p
        )
        never = isinstance(self.early_stopping, str) and self.early_stopping == "never"
        kept["early_stopping"] = (
            "never" if never else argument_forms.flag("early_stopping", self.early_stopping, 'True, False or "never"')
        )
        kept["ignore_eos"] = argument_forms.flag("ignore_eos", self.ignore_eos)
        for each in of_kind("tensor"):
            if getattr(self, each.name) is not None:
                kept[each.name] = argument_forms.floats(each.name, getattr(self, each.name), each.shape)
        for name, value in kept.items():
            object.__setattr__(self, name, value)

    def _check_beams(self) -> None:
        if self.num_beams % self.num_beam_groups:
            raise InvalidRequest(f"num_beams {self.num_beams} must be a multiple of num_beam_groups {self.num_beam_groups}")
        if (self.num_beam_groups > 1) != (self.diversity_penalty > 0):
            raise InvalidRequest(
                f"num_beam_groups {self.num_beam_groups} with diversity_penalty {self.diversity_penalty}: several groups "
                "need a penalty above 0 to differ, and a penalty above 0 needs several groups"
            )
        if self.num_beams == 1:
            return
        if self.num_samples > self.num_beams:
            raise InvalidRequest(
                f"num_samples is {self.num_samples}; {self.num_beams} beams return at most {self.num_beams} texts"
            )
        for name, off in (("top_k", 0), ("top_p", 1), ("speculate", 0), ("prompt_logprobs", None)):
            if getattr(self, name) != off:
                raise InvalidRequest(
                    f"{name} is {getattr(self, name)} with num_beams {self.num_beams}; beam search does not use it: leave "
                    f"{name} out"
                )

    @property
    def prefix_len(self) -> int:
        """The number of positions that `prefix_prompt` occupies."""
        return 0 if self.prefix_prompt is None else self.prefix_prompt.shape[3]

    @property
    def soft_len(self) -> int:
        """The number of positions that `soft_prompt` occupies."""
        return 0 if self.soft_prompt is None else self.soft_prompt.shape[0]

    @property
    def needs_tokenizer(self) -> bool:
        """Whether a stop word or a bad word is given as text."""
        return any(isinstance(word, str) for word in (*self.stop, *self.bad_words))

    def fit(self, config: GPTJConfig, prompt_tokens: int) -> int:
        """The limit on new tokens after a prompt of `prompt_tokens` tokens and its soft and prefix prompts.

        Raises `InvalidRequest` if the parameters do not fit the model: token ids out of range, a soft or prefix prompt of the
        wrong shape, a `memory_len` below the prompt's length, or more new tokens than the context holds. The last new token is
        not fed back to the model, so there is room for one new token even when the context is full.
        """
        self._check_token_ids(config)
        self._check_shapes(config)
        before = self.prefix_len + self.soft_len + prompt_tokens
        prompt = f"a prompt of length {prompt_tokens}" + (
            f" and {before - prompt_tokens} positions before it" if before > prompt_tokens else ""
        )
        if self.memory_len is not None and before > self.memory_len:
            raise InvalidRequest(
                f"memory_len is {self.memory_len}, but it must hold {prompt}; shorten the prompt or raise memory_len"
            )
        room = config.context_length - before + 1
        wanted = max(self.max_new_tokens or min(DEFAULT_NEW_TOKENS, room), self.min_new_tokens)
        if wanted > room or wanted < 1:
            raise InvalidRequest(
                f"{max(wanted, 1)} new tokens do not fit after {prompt}: the context of {config.context_length} tokens "
                f"leaves room for {max(room, 0)}; ask for fewer new tokens or shorten the prompt"
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
                        f"{name} holds the token id {token}, but the vocabulary has {config.vocab_size} tokens (0 to "
                        f"{config.vocab_size - 1})"
                    )

    def _check_shapes(self, config: GPTJConfig) -> None:
        soft, prefix = self.soft_prompt, self.prefix_prompt
        if soft is not None and soft.shape[1] != config.hidden_size:
            raise InvalidRequest(
                f"soft_prompt has {soft.shape[1]} numbers in each row, but the model's hidden_size is {config.hidden_size}"
            )
        if prefix is None:
            return
        expected = (config.num_layers, 2, config.num_heads, prefix.shape[3], config.head_dim)
        if tuple(prefix.shape) != expected:
            raise InvalidRequest(
                f"prefix_prompt has shape {list(prefix.shape)}; this model needs [num_layers {config.num_layers}, 2, "
                f"num_heads {config.num_heads}, prefix_len, head_dim {config.head_dim}]"
            )


SamplingParams.__doc__ = f"{SamplingParams.__doc__}\n" + "\n".join(
    f"    {each.name}: {' '.join(filter(None, (each.meaning, each.detail)))}" for each in PARAMETERS
)
"""The docstring gets a line for each parameter, so that `help(labkit.SamplingParams)` shows all parameters."""
