"""Describes each parameter of a continuation once: its name, meaning, range, and its names in other systems.

`SamplingParams`, the options of `labkit generate`, the input tensors of the served model `gptj` and
`docs/sampling_parameters.md` are made from this list. This module imports neither torch nor numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["whole number", "number", "flag", "words", "token ids", "choice", "tensor"]
"""The kind of a parameter's value. "words" are strings or sequences of token ids."""

LARGEST = 2**63 - 1
"""The largest whole number that fits into an int64 tensor."""
MOST_SEED = 2**64 - 1
MOST_LENGTH_PENALTY = 64
MOST_PROPOSALS = 64
"""The largest number of tokens that may be guessed in one step."""
LEAST, MOST = 1e-10, 1e10
"""The smallest and the largest accepted factor, for example of a temperature.

With factors in this range, logits stay finite in float32, even if several factors are applied. `MOST` also limits penalties.
"""

LENGTH, SAMPLING, PENALTIES = "Length and end", "Sampling", "Penalties and bans"
BEAMS, REPORT, CONTEXT, SPEED = "Beam search", "Report", "Context", "Speed"


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a continuation.

    meaning: one or two sentences that are shown everywhere. detail: sentences that only the reference documentation shows.
    default: the value when the parameter is left out. limits: the smallest and the largest accepted whole number. accepted: the
    range of a number, in words. allows: a function that tells whether a number is in this range. may_be_none: whether None is
    an accepted value. shape: the names of a tensor's dimensions. option: the name on the command line, or "" if the command
    line does not have it. tensor: the Triton data type of the `gptj` model's input, or "" if the served model has no such
    input. is_new: whether the tensor was added later; model repositories that are older than the tensor are served without it.
    other_names: the parameter's names in fastertransformer_backend and other systems.
    """

    name: str
    group: str
    kind: Kind
    meaning: str
    detail: str = ""
    default: Any = None
    limits: tuple[int, int] = (0, LARGEST)
    accepted: str = ""
    allows: Callable[[float], bool] = lambda value: True
    may_be_none: bool = False
    shape: tuple[str, ...] = ()
    option: str = ""
    tensor: str = ""
    is_new: bool = False
    other_names: tuple[str, ...] = ()

    @property
    def is_list(self) -> bool:
        """Whether the parameter holds several values.

        On the command line such a parameter can be repeated; its tensor has any length.
        """
        return self.kind in ("words", "token ids")


PARAMETERS = (
    Parameter(
        name="max_new_tokens",
        group=LENGTH,
        kind="whole number",
        meaning="Generate at most this many new tokens. If left out: 64, or fewer if the context ends earlier.",
        limits=(1, LARGEST),
        may_be_none=True,
        option="--max-new-tokens",
        tensor="INT32",
        other_names=("INPUT_1", "request_output_len", "max_tokens", "max_length", "max_output_tokens", "n_predict"),
    ),
    Parameter(
        name="min_new_tokens",
        group=LENGTH,
        kind="whole number",
        meaning="Generate at least this many new tokens.",
        detail="Until then the end of text and the stop tokens cannot be chosen, and `stop` has no effect.",
        default=0,
        option="--min-new-tokens",
        tensor="INT32",
        other_names=("min_tokens", "min_length"),
    ),
    Parameter(
        name="stop",
        group=LENGTH,
        kind="words",
        meaning="End the text just before the first of these strings.",
        detail="A sequence of token ids is accepted too. A string is found no matter how it is cut into tokens. A special "
        "token is not text, but a string that spells its name (`<|endoftext|>`) matches it.",
        default=(),
        option="--stop",
        tensor="STRING",
        other_names=("INPUT_3", "stop_words_list", "stop_sequences", "stop_words", "stop_strings"),
    ),
    Parameter(
        name="stop_token_ids",
        group=LENGTH,
        kind="token ids",
        meaning="End the text at any of these tokens.",
        default=(),
        option="--stop-token-id",
        tensor="INT32",
    ),
    Parameter(
        name="end_token_id",
        group=LENGTH,
        kind="whole number",
        meaning="Treat this token as the end of text, instead of the model's own end-of-text token.",
        may_be_none=True,
        option="--end-token-id",
        tensor="INT32",
        other_names=("end_id", "eos_token_id"),
    ),
    Parameter(
        name="ignore_eos",
        group=LENGTH,
        kind="flag",
        meaning="Continue past the end of text.",
        default=False,
        option="--ignore-eos",
        tensor="BOOL",
    ),
    Parameter(
        name="start_token_id",
        group=LENGTH,
        kind="whole number",
        meaning="Begin an empty prompt with this token. Without this token an empty prompt is refused.",
        may_be_none=True,
        option="--start-token-id",
        tensor="INT32",
        is_new=True,
        other_names=("start_id", "bos_token_id"),
    ),
    Parameter(
        name="temperature",
        group=SAMPLING,
        kind="number",
        meaning="Divide the logits by this, then draw a token. 0 (the default) always takes the likeliest token.",
        default=0.0,
        accepted=f"0 (greedy), or {LEAST:g} to {MOST:g},",
        allows=lambda value: value == 0 or LEAST <= value <= MOST,
        option="--temperature",
        tensor="FP32",
    ),
    Parameter(
        name="top_k",
        group=SAMPLING,
        kind="whole number",
        meaning="Draw from the k likeliest tokens only; 0 keeps all. Needs a temperature above 0.",
        default=0,
        option="--top-k",
        tensor="INT32",
        other_names=("runtime_top_k",),
    ),
    Parameter(
        name="top_p",
        group=SAMPLING,
        kind="number",
        meaning="Draw from the smallest set of tokens whose probabilities add up to p. Needs a temperature above 0.",
        default=1.0,
        accepted=f"above 0 ({LEAST:g} or more) and at most 1",
        allows=lambda value: LEAST <= value <= 1,
        option="--top-p",
        tensor="FP32",
        other_names=("runtime_top_p",),
    ),
    Parameter(
        name="top_p_decay",
        group=SAMPLING,
        kind="number",
        meaning="Multiply top_p by this after each token; 1 is off.",
        detail="Together with `top_p_min` and `top_p_reset_ids` this is factual-nucleus sampling (Lee et al. 2022).",
        default=1.0,
        accepted="above 0 and at most 1 (1 is off)",
        allows=lambda value: 0 < value <= 1,
        option="--top-p-decay",
        tensor="FP32",
    ),
    Parameter(
        name="top_p_min",
        group=SAMPLING,
        kind="number",
        meaning="The lowest value to which top_p may decay, from 0 to top_p.",
        default=0.0,
        option="--top-p-min",
        tensor="FP32",
    ),
    Parameter(
        name="top_p_reset_ids",
        group=SAMPLING,
        kind="token ids",
        meaning="After any of these tokens (a full stop, for example), top_p is reset to its initial value.",
        default=(),
        option="--top-p-reset-id",
        tensor="INT32",
    ),
    Parameter(
        name="seed",
        group=SAMPLING,
        kind="whole number",
        meaning="Equal seeds give equal text. If the seed is left out, every call draws its own seed.",
        limits=(0, MOST_SEED),
        may_be_none=True,
        tensor="INT64",
        other_names=("random_seed",),
    ),
    Parameter(
        name="num_samples",
        group=SAMPLING,
        kind="whole number",
        meaning="Return this many continuations of each prompt. More than one needs a temperature above 0, or beams.",
        detail="Each continuation has its own random draws. Beam search returns its best hypotheses.",
        default=1,
        limits=(1, LARGEST),
        option="--num-samples",
    ),
    Parameter(
        name="repetition_penalty",
        group=PENALTIES,
        kind="number",
        meaning="Make tokens that occur in the prompt or the new text less likely: divide their positive logits by this and "
        "multiply their negative logits by it. 1 is off.",
        detail="From Keskar et al. 2019.",
        default=1.0,
        accepted=f"above 0, from {LEAST:g} to {MOST:g} (1 is off),",
        allows=lambda value: LEAST <= value <= MOST,
        option="--repetition-penalty",
        tensor="FP32",
    ),
    Parameter(
        name="presence_penalty",
        group=PENALTIES,
        kind="number",
        meaning="Subtract this from the logits of tokens that the continuation already contains; 0 is off.",
        default=0.0,
        accepted=f"-{MOST:g} to {MOST:g} (0 is off)",
        allows=lambda value: abs(value) <= MOST,
        option="--presence-penalty",
        tensor="FP32",
        other_names=("frequency_penalty",),
    ),
    Parameter(
        name="bad_words",
        group=PENALTIES,
        kind="words",
        meaning="Never write these strings, not even inside a word.",
        detail="The word `the` also bans `other`. A string is banned no matter how it is cut into tokens, even if it begins in "
        "the prompt. For a sequence of token ids, the last token is banned when the other tokens come just before it. If every "
        'token is banned, the text ends with the reason "banned".',
        default=(),
        option="--bad-word",
        tensor="STRING",
        other_names=("INPUT_2", "bad_words_list", "bad_words_ids"),
    ),
    Parameter(
        name="num_beams",
        group=BEAMS,
        kind="whole number",
        meaning="Follow this many continuations at once and return the likeliest whole continuations; 1 means no beam search.",
        default=1,
        limits=(1, LARGEST),
        option="--num-beams",
    ),
    Parameter(
        name="length_penalty",
        group=BEAMS,
        kind="number",
        meaning="Divide the log-probability of a hypothesis by its number of new tokens to this power: larger values favour "
        "longer texts.",
        default=1.0,
        accepted=f"-{MOST_LENGTH_PENALTY} to {MOST_LENGTH_PENALTY} (0 is off)",
        allows=lambda value: abs(value) <= MOST_LENGTH_PENALTY,  # a length to this power is still a float
        option="--length-penalty",
    ),
    Parameter(
        name="early_stopping",
        group=BEAMS,
        kind="choice",
        meaning="Decides when the search stops: true, false or never.",
        detail="With True, the search stops when `num_beams` hypotheses have ended. With False, it stops when the best running "
        "beam, at its present length, scores no better than the worst ended hypothesis. With 'never', it stops when no running "
        "beam can score better at any length.",
        default=False,
        option="--early-stopping",
    ),
    Parameter(
        name="num_beam_groups",
        group=BEAMS,
        kind="whole number",
        meaning="Divide the beams into this many groups; diversity_penalty makes the groups differ.",
        detail="Diverse beam search (Vijayakumar et al. 2016).",
        default=1,
        limits=(1, LARGEST),
        option="--num-beam-groups",
    ),
    Parameter(
        name="diversity_penalty",
        group=BEAMS,
        kind="number",
        meaning="Subtract this from a token's score for each beam of an earlier group that took the token in the same step.",
        default=0.0,
        accepted=f"0 (off) to {MOST:g}",
        allows=lambda value: 0 <= value <= MOST,
        option="--diversity-penalty",
    ),
    Parameter(
        name="diversity_rate",
        group=BEAMS,
        kind="number",
        meaning="Subtract r times this from the score of the r-th likeliest continuation of a beam (r counts from 0); 0 is "
        "off.",
        detail="From Li et al. 2016.",
        default=0.0,
        accepted=f"0 (off) to {MOST:g}",
        allows=lambda value: 0 <= value <= MOST,
        option="--diversity-rate",
    ),
    Parameter(
        name="logprobs",
        group=REPORT,
        kind="whole number",
        meaning="Report the log-probability of each new token, and of this many of the likeliest tokens at its position.",
        detail="Log-probabilities are the model's own, before penalties and temperature. None reports nothing; 0 reports "
        "only the chosen token. The served model takes True or False, and reports only the chosen tokens.",
        may_be_none=True,
        option="--logprobs",
        tensor="BOOL",
        other_names=("is_return_log_probs", "return_log_probs"),
    ),
    Parameter(
        name="prompt_logprobs",
        group=REPORT,
        kind="whole number",
        meaning="Report the log-probabilities of the prompt's tokens in the same way.",
        may_be_none=True,
    ),
    Parameter(
        name="soft_prompt",
        group=CONTEXT,
        kind="tensor",
        meaning="Embeddings that come before the embeddings of the prompt.",
        shape=("tokens", "hidden_size"),
        may_be_none=True,
    ),
    Parameter(
        name="prefix_prompt",
        group=CONTEXT,
        kind="tensor",
        meaning="Keys and values of the first prefix_len positions, which come before the prompt.",
        shape=("num_layers", "2", "num_heads", "prefix_len", "head_dim"),
        may_be_none=True,
    ),
    Parameter(
        name="memory_len",
        group=CONTEXT,
        kind="whole number",
        meaning="Attend only to this many of the latest tokens. If this is left out, attend to all tokens.",
        detail="Only these tokens stay in the cache. The prompt must fit into this many tokens.",
        limits=(1, LARGEST),
        may_be_none=True,
        option="--memory-len",
    ),
    Parameter(
        name="speculate",
        group=SPEED,
        kind="whole number",
        meaning="Guess up to this many tokens per step from the text so far. The text stays the same; 0 is off.",
        detail="A guess repeats the tokens that followed an earlier occurrence of the last tokens (Saxena 2023). The guessed "
        "tokens are kept up to the first one that the model would not have written. With `memory_len`, nothing is guessed.",
        default=0,
        limits=(0, MOST_PROPOSALS),
        option="--speculate",
    ),
)
"""All parameters, in the order in which the documentation lists them."""


def of_kind(kind: Kind) -> tuple[Parameter, ...]:
    """All parameters of one kind."""
    return tuple(parameter for parameter in PARAMETERS if parameter.kind == kind)


def reference() -> str:
    """The parameters as a Markdown page: `docs/sampling_parameters.md`."""
    lines = [
        "# Sampling parameters",
        "",
        "Made from `labkit/sampling_vocabulary.py` by `python -m labkit.sampling_vocabulary`. A parameter is a field of",
        "`labkit.SamplingParams`, an option of `labkit generate`, and an input tensor of the served model `gptj`.",
    ]
    for group in dict.fromkeys(parameter.group for parameter in PARAMETERS):
        lines += [
            "",
            f"## {group}",
            "",
            "| parameter | option | tensor | default | meaning |",
            "| --- | --- | --- | --- | --- |",
        ]
        lines += [_row(parameter) for parameter in PARAMETERS if parameter.group == group]
    return "\n".join(lines) + "\n"


def _row(parameter: Parameter) -> str:
    option = f"`{parameter.option}`" if parameter.option else ""
    tensor = f"{parameter.tensor}{' [n]' if parameter.is_list else ''}" if parameter.tensor else ""
    default = "" if parameter.default is None else "none" if parameter.default == () else f"`{parameter.default}`"
    meaning = " ".join(filter(None, (parameter.meaning, parameter.detail))).replace("|", "\\|")
    return f"| `{parameter.name}` | {option} | {tensor} | {default} | {meaning} |"


if __name__ == "__main__":
    print(reference(), end="")
