"""The answer to exercise 4.5: reference, comparison and known mistakes."""

from __future__ import annotations

from typing import Any

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab04.ensemble import ENSEMBLE_MAPS, Maps


def ensemble_maps() -> Maps:
    """The reference solution of exercise 4.5."""
    return {
        "preprocessing": (
            {"QUERY": "INPUT_0", "REQUEST_OUTPUT_LEN": "INPUT_1", "BAD_WORDS_DICT": "INPUT_2", "STOP_WORDS_DICT": "INPUT_3"},
            {
                "INPUT_ID": "_ids",
                "REQUEST_INPUT_LEN": "_lengths",
                "REQUEST_OUTPUT_LEN": "_asked",
                "BAD_WORDS_IDS": "_bad",
                "STOP_WORDS_IDS": "_stop",
            },
        ),
        "fastertransformer": (
            {
                "input_ids": "_ids",
                "input_lengths": "_lengths",
                "request_output_len": "_asked",
                "bad_words_list": "_bad",
                "stop_words_list": "_stop",
            },
            {"output_ids": "_tokens", "sequence_length": "sequence_length"},
        ),
        "postprocessing": ({"TOKENS_BATCH": "_tokens", "SEQUENCE_LENGTH": "sequence_length"}, {"OUTPUT": "OUTPUT_0"}),
    }


def _changed(name: str, inputs: dict[str, str] | None = None, outputs: dict[str, str] | None = None) -> Maps:
    """Return the reference maps, with some entries of the model `name` changed. An entry is removed if its new wire is ""."""
    maps = ensemble_maps()
    own_inputs, own_outputs = (
        {key: wire for key, wire in (given | (more or {})).items() if wire}
        for given, more in zip(maps[name], (inputs, outputs), strict=True)
    )
    return maps | {name: (own_inputs, own_outputs)}


def _words_swapped() -> Maps:
    return _changed("fastertransformer", {"bad_words_list": "_stop", "stop_words_list": "_bad"})


def _turned_around() -> Maps:
    maps = ensemble_maps()
    return {name: ({w: k for k, w in i.items()}, {w: k for k, w in o.items()}) for name, (i, o) in maps.items()}


def _no_lengths() -> Maps:
    return _changed("postprocessing", {"SEQUENCE_LENGTH": ""})


def _no_words() -> Maps:
    maps = _changed("preprocessing", None, {"BAD_WORDS_IDS": "", "STOP_WORDS_IDS": ""})
    return maps | {
        "fastertransformer": _changed("fastertransformer", {"bad_words_list": "", "stop_words_list": ""})["fastertransformer"]
    }


def _no_stop_words() -> Maps:
    return _changed("fastertransformer", {"stop_words_list": ""})


def _prompt_again() -> Maps:
    maps = _changed("fastertransformer", {"request_output_len": "_lengths"})
    return maps | {"preprocessing": _changed("preprocessing", None, {"REQUEST_OUTPUT_LEN": ""})["preprocessing"]}


def _no_text_out() -> Maps:
    return _changed("postprocessing", None, {"OUTPUT": "text"})


def _two_stages() -> Maps:
    maps = ensemble_maps()
    return {"fastertransformer": maps["fastertransformer"], "postprocessing": maps["postprocessing"]}


def _own_names() -> Maps:
    maps = ensemble_maps()
    return {name: (inputs, {key: key for key in outputs}) for name, (inputs, outputs) in maps.items()}


def _explain(case: Case, found: Any, right: Any) -> str:
    if found["fault"]:
        return f"{found['fault']}."
    return f"The ensemble loads, but its texts are wrong: {str(found['texts'])[:160]}. Follow each wire by its name."


ENSEMBLE_MAPS_ANSWER = Answer(
    exercise=ENSEMBLE_MAPS,
    reference=ensemble_maps,
    comparison=Comparison(),
    explain=_explain,
    mistakes=(
        Mistake(
            "The engine gets the stop words as bad words, and the bad words as stop words: two of your wires are swapped, "
            "before or after preprocessing.",
            _words_swapped,
        ),
        Mistake(
            "Keys and values are swapped in your maps: the key must be the model's tensor, the value must be the wire.",
            _turned_around,
        ),
        Mistake(
            "postprocessing does not get the lengths, so it decodes all tokens and your texts end in garbage: map "
            "SEQUENCE_LENGTH.",
            _no_lengths,
        ),
        Mistake(
            "The bad words and the stop words do not reach the engine from preprocessing. The engine has an optional input "
            "for each of these two lists: map both inputs.",
            _no_words,
        ),
        Mistake(
            "The stop words do not reach the engine. The engine's input for stop words is optional, so only the texts show the "
            "mistake.",
            _no_stop_words,
        ),
        Mistake(
            "The engine makes as many new tokens as the prompt has tokens, because request_output_len is on the wire of the "
            "lengths.",
            _prompt_again,
        ),
        Mistake("No model writes OUTPUT_0, which the client reads: map OUTPUT of postprocessing to OUTPUT_0.", _no_text_out),
        Mistake("Your ensemble has no step `preprocessing`, so the engine gets no token ids.", _two_stages),
        Mistake(
            "Two steps use different names for the same wire: the value in the output_map of one step must be the value in "
            "the input_map of the other step.",
            _own_names,
        ),
    ),
)

ANSWERS = (ENSEMBLE_MAPS_ANSWER,)
