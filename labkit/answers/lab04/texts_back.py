"""The answer to exercise 4.4: reference, comparison and known mistakes."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab04.texts_back import POSTPROCESS
from labkit.exercises.stubs.own_stages import postprocess
from labkit.exercises.stubs.stages import PAD, Decode

Ids = NDArray[Any]


def _all_of_it(token_ids: Ids, lengths: Ids, decode: Decode) -> Any:
    return [[decode(ids.tolist()) for ids in row] for row in token_ids]


def _to_first_padding(token_ids: Ids, lengths: Ids, decode: Decode) -> Any:
    def cut(ids: list[int]) -> list[int]:
        return ids[: ids.index(PAD)] if PAD in ids else ids

    return [[decode(cut(ids.tolist())) for ids in row] for row in token_ids]


def _first_beam(token_ids: Ids, lengths: Ids, decode: Decode) -> Any:
    texts = postprocess(token_ids, lengths, decode)
    return [[row[0]] * len(row) for row in texts]


def _first_length(token_ids: Ids, lengths: Ids, decode: Decode) -> Any:
    return [[decode(ids[: own[0]].tolist()) for ids in row] for row, own in zip(token_ids, lengths, strict=True)]


def _longest(token_ids: Ids, lengths: Ids, decode: Decode) -> Any:
    return [[decode(ids[: lengths.max()].tolist()) for ids in row] for row in token_ids]


def _one_short(token_ids: Ids, lengths: Ids, decode: Decode) -> Any:
    return postprocess(token_ids, lengths - 1, decode)


def _token_by_token(token_ids: Ids, lengths: Ids, decode: Decode) -> Any:
    rows = zip(token_ids, lengths, strict=True)
    return [["".join(decode([token]) for token in ids[:n].tolist()) for ids, n in zip(*row, strict=True)] for row in rows]


def _with_spaces(token_ids: Ids, lengths: Ids, decode: Decode) -> Any:
    rows = zip(token_ids, lengths, strict=True)
    return [[" ".join(decode([token]) for token in ids[:n].tolist()) for ids, n in zip(*row, strict=True)] for row in rows]


def _explain(case: Case, found: Any, right: Any) -> str:
    for row, (given, wanted) in enumerate(zip(found, right, strict=True)):
        for beam, (text, asked) in enumerate(zip(given, wanted, strict=True)):
            if text != asked:
                longer = " It continues past its length." if text.startswith(asked) else ""
                return f"Your text of prompt {row}, beam {beam} is {text[:120]!r}, but its tokens mean {asked[:120]!r}.{longer}"
    return ""


POSTPROCESS_ANSWER = Answer(
    exercise=POSTPROCESS,
    reference=postprocess,
    comparison=Comparison(),
    explain=_explain,
    mistakes=(
        Mistake(
            "You decode all tokens, even those after the end of the text: take only as many of the first tokens as "
            "`lengths` says.",
            _all_of_it,
        ),
        Mistake(
            "You stop at the first padding token, but a text may contain padding tokens: `lengths` says where the end is.",
            _to_first_padding,
        ),
        Mistake("Every beam gets the text of the first beam, but each beam has its own tokens.", _first_beam),
        Mistake("You cut every beam at the length of the first beam, but each beam has its own length.", _first_length),
        Mistake("You cut every beam at the length of the longest beam, but each beam has its own length.", _longest),
        Mistake("The last token of each text is missing: `lengths` also counts this token.", _one_short),
        Mistake(
            "You decode the tokens one by one, but a character like 😀 may consist of several tokens: decode the whole list at "
            "once.",
            _token_by_token,
        ),
        Mistake(
            "You put spaces between the tokens, but tokens contain their own spaces: decode the whole list at once.",
            _with_spaces,
        ),
    ),
)

ANSWERS = (POSTPROCESS_ANSWER,)
