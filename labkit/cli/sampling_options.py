"""The options of a continuation, each by the name of its parameter in `SamplingParams`, in panels of the help."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def _option(kind: Any, text: str, panel: str, *names: str) -> Any:
    """An option of its parameter's name, or of these names."""
    return Annotated[kind, typer.Option(*names, help=text, rich_help_panel=panel)]


_LENGTH, _SAMPLING, _PENALTIES, _BEAMS, _OTHER = (
    "Length and end",
    "Sampling",
    "Penalties and bans",
    "Beam search",
    "Report and speed",
)

MaxNewTokens = _option(int | None, "New tokens at most; 64, or what fits, when left out.", _LENGTH)
MinNewTokens = _option(int, "New tokens at least.", _LENGTH)
Stop = _option(list[str] | None, "End the text before this string (repeatable).", _LENGTH)
StopTokenIds = _option(list[int] | None, "End the text at this token (repeatable).", _LENGTH, "--stop-token-id")
EndTokenId = _option(int | None, "End the text at this token instead of the model's own.", _LENGTH)
IgnoreEos = _option(bool, "Go on past the end of text.", _LENGTH, "--ignore-eos")

Temperature = _option(float, "0 is greedy.", _SAMPLING)
TopK = _option(int, "Keep the k likeliest tokens; 0 keeps all. Needs a temperature above 0.", _SAMPLING)
TopP = _option(float, "Keep the likeliest tokens that together reach p. Needs a temperature above 0.", _SAMPLING)
TopPDecay = _option(float, "Multiply top-p by this after each token.", _SAMPLING)
TopPMin = _option(float, "What top-p does not fall below.", _SAMPLING)
TopPResetIds = _option(list[int] | None, "Top-p starts anew behind this token (repeatable).", _SAMPLING, "--top-p-reset-id")
NumSamples = _option(int, "Continuations a prompt (needs a temperature, or beams).", _SAMPLING)

RepetitionPenalty = _option(float, "Above 1 discourages tokens already there.", _PENALTIES)
PresencePenalty = _option(float, "Subtracted from logits of tokens already written.", _PENALTIES)
BadWords = _option(list[str] | None, "Never write this (repeatable).", _PENALTIES, "--bad-word")

NumBeams = _option(int, "Continuations followed at once; the best by their whole probability are shown.", _BEAMS)
LengthPenalty = _option(float, "Scores are divided by the length to this power: above 0 favours long texts.", _BEAMS)
EarlyStopping = _option(str, "When to end with a better one still possible: false, true or never.", _BEAMS)
NumBeamGroups = _option(int, "Groups of beams that are kept apart by --diversity-penalty.", _BEAMS)
DiversityPenalty = _option(float, "Subtracted for a token that an earlier group took in the same step.", _BEAMS)
DiversityRate = _option(float, "Rank the children of one beam this much lower each.", _BEAMS)

Logprobs = _option(int | None, "Log-probabilities of chosen and of so many likeliest tokens.", _OTHER)
MemoryLen = _option(int | None, "Attend to the last so many tokens only.", _OTHER)
Speculate = _option(int, "Guess up to so many tokens a step from the text so far; changes no token.", _OTHER)
