"""Mistakes to plant in correct configurations, each with the change, the wrong line, and the reaction of the server."""

from __future__ import annotations

from dataclasses import dataclass

from labkit.serving.repository.model_config import config_text
from labkit.serving.repository.served_models import served_models

MODELS = served_models({"model": "gptj-tiny", "precision": "fp32", "tensor_parallel": "1"})
TEXTS = {name: config_text(config) for name, config in MODELS.items()}

REFUSED = "the server refuses"
SILENT = "the server takes it silently"

END = "<the end>"
"""A value of `at` that stands for the end of the file."""


@dataclass(frozen=True)
class Mistake:
    """In a model's configuration text, `old` is replaced by `new`. The reported fault names the line with `at` and has all
    `words`.
    """

    name: str
    model: str
    old: str
    new: str
    at: str
    words: tuple[str, ...]
    server: str

    def planted(self) -> str:
        """The model's text with the mistake."""
        text = TEXTS[self.model]
        assert self.old in text, f"{self.name}: nothing to change"
        return text.replace(self.old, self.new, 1)

    def line(self) -> int:
        """The number of the wrong line: the first line with `at` from the mistake's line on. If there is none, the first in the
        text.
        """
        text = self.planted()
        if self.at == END:
            return text.count("\n") + 1
        start = TEXTS[self.model].index(self.old)
        place = text.find(self.at, text.rfind("\n", 0, start) + 1)
        return text[: place if place >= 0 else text.index(self.at)].count("\n") + 1


PRE, FT, POST, ENS, GPTJ = "preprocessing", "fastertransformer", "postprocessing", "ensemble", "gptj"

QUERY = 'name: "QUERY"\n    data_type: TYPE_STRING\n    dims: [ -1 ]'
LENGTHS = 'name: "input_lengths"\n    data_type: TYPE_UINT32\n    dims: [ 1 ]'
PROMPT = "{\n    # the prompt, UTF-8"
GROUP = "instance_group [\n  {\n    count: 1\n    kind: KIND_CPU\n  }\n]"
TOKENS = 'input_map { key: "TOKENS_BATCH" value: "_TOKENS_BATCH" }'
STREAMS = "model_transaction_policy {\n  decoupled: true\n}\n"
BATCH = "max_batch_size: 1024\n"


def _of(old: str, change: str, into: str) -> tuple[str, str]:
    """A piece of a configuration text, and the same piece with one part changed."""
    assert change in old
    return old, old.replace(change, into, 1)


def _insert(before: str, what: str) -> tuple[str, str]:
    """A piece of a configuration text, and the same piece with a new text before it."""
    return before, what + before


OF_FORM = (
    Mistake("a comma after the last dim", PRE, *_of(QUERY, "-1 ]", "-1, ]"), "-1, ]", ("comma", "last value of dims"), REFUSED),
    Mistake(
        "no comma between inputs", PRE, "},\n  {", "}\n  {", "{\n    # words", ("{ is found where", "comma", "input"), REFUSED
    ),
    Mistake("a quote left out", PRE, *_of(QUERY, 'QUERY"', "QUERY"), 'name: "QUERY', ("string",), REFUSED),
    Mistake("a colon left out", PRE, *_of(QUERY, "data_type:", "data_type"), "data_type TYPE", ("a colon",), REFUSED),
    Mistake("a brace left open", PRE, GROUP, "instance_group {\n", END, ("the end of the file", "} of line"), REFUSED),
    Mistake("dim for dims", PRE, *_of(QUERY, "dims", "dim"), "dim:", ("no field dim", "write dims"), REFUSED),
    Mistake("data_typ", PRE, *_of(QUERY, "data_type", "data_typ"), "data_typ:", ("data_typ", "write data_type"), REFUSED),
    Mistake("TYPE_BYTES", PRE, *_of(QUERY, "TYPE_STRING", "TYPE_BYTES"), "TYPE_BYTES", ("write TYPE_STRING",), REFUSED),
    Mistake("FP32", FT, *_of(LENGTHS, "TYPE_UINT32", "UINT32"), "UINT32", ("write TYPE_UINT32",), REFUSED),
    Mistake("a type in quotes", PRE, *_of(QUERY, "TYPE_STRING", '"TYPE_STRING"'), '"TYPE', ("write TYPE_STRING",), REFUSED),
    Mistake("a number in quotes", PRE, "1024", '"1024"', '"1024"', ("max_batch_size", "without quotes"), REFUSED),
    Mistake("a name without quotes", PRE, '"QUERY"', "QUERY", "QUERY", ("name", "in quotes"), REFUSED),
    Mistake("the name twice", PRE, *_insert(BATCH, 'name: "preprocessing"\n'), 'name: "pre', ("name is given twice",), REFUSED),
    Mistake("KIND left out", PRE, "KIND_CPU", "CPU", "kind: CPU", ("write KIND_CPU",), REFUSED),
    Mistake("yes for true", FT, "optional: true", "optional: yes", "yes", ("true or false",), REFUSED),
    Mistake("an optional output", POST, *_insert('name: "OUTPUT"', "optional: true\n"), "optional", ("no field",), REFUSED),
    Mistake("a bare parameter", FT, 'value: { string_value: "1" }', 'value: "1"', 'value: "1"', ("not a block",), REFUSED),
    Mistake(
        "two schedulers",
        ENS,
        *_insert("ensemble_scheduling {", "dynamic_batching { }\n"),
        "ensemble_scheduling",
        ("together with another",),
        REFUSED,
    ),
)
"""Mistakes that protobuf refuses; the server then says only that it failed to poll."""

OF_MODELS = (
    Mistake("no name of a tensor", PRE, QUERY, QUERY.replace('name: "QUERY"', ""), PROMPT, ("an input has no name",), REFUSED),
    Mistake("no type", PRE, *_of(QUERY, "data_type: TYPE_STRING", ""), PROMPT, ("QUERY has no data_type",), REFUSED),
    Mistake("no dims", PRE, *_of(QUERY, "dims: [ -1 ]", ""), PROMPT, ("QUERY has no dims",), REFUSED),
    Mistake("a dim of 0", PRE, *_of(QUERY, "-1", "0"), "[ 0 ]", ("0 in its dims", "-1"), REFUSED),
    Mistake("a scalar without a batch", FT, BATCH, "max_batch_size: 0\n", "max_batch", ("takes batches",), REFUSED),
    Mistake(
        "a reshape to another size",
        PRE,
        *_of(QUERY, "dims: [ -1 ]", "dims: [ 2 ]\n    reshape: { shape: [ 3 ] }"),
        "reshape",
        ("from [ 2 ] to [ 3 ]", "a different size"),
        REFUSED,
    ),
    Mistake("a negative batch", PRE, "1024", "-1", "max_batch", ("max_batch_size is -1",), REFUSED),
    Mistake("python as a platform", PRE, "backend:", "platform:", "platform", ("not a platform", 'backend: "python"'), REFUSED),
    Mistake("no backend", PRE, 'backend: "python"\n', "", "# Text", ("neither backend nor platform",), SILENT),
    Mistake("another backend", PRE, '"python"', '"pyton"', '"pyton"', ('write backend: "python"',), REFUSED),
    Mistake("KIND_GPU without a GPU", PRE, "KIND_CPU", "KIND_GPU", "KIND_GPU", ("no GPU", "KIND_CPU"), REFUSED),
    Mistake("KIND_MODEL", PRE, "KIND_CPU", "KIND_MODEL", "KIND_MODEL", ("chooses them itself", "KIND_CPU"), SILENT),
    Mistake("a GPU for KIND_CPU", PRE, "KIND_CPU", "KIND_CPU\n    gpus: [ 0 ]", "gpus", ("KIND_CPU", "take gpus"), REFUSED),
    Mistake("no instances", PRE, "count: 1", "count: 0", "count", ("count is 0", "1 or more"), SILENT),
    Mistake(
        "joined without a batch",
        GPTJ,
        *_insert("input [", "dynamic_batching { }\n"),
        "dynamic_batching",
        ("max_batch_size is 0",),
        SILENT,
    ),
    Mistake(
        "preferred above the largest",
        PRE,
        *_insert("input [", "dynamic_batching {\n  preferred_batch_size: [ 8,\n 2048 ]\n}\n"),
        "2048",
        ("holds 2048", "is 1024"),
        REFUSED,
    ),
    Mistake("another model's name", PRE, '"preprocessing"', '"before"', "name:", ("before", "folder"), REFUSED),
    Mistake("a parameter twice", FT, '"precision"', '"model"', '"model"', ("model is given already",), SILENT),
)
"""Mistakes that can be found without knowledge of the model's code."""

OF_CODE = (
    Mistake("no max_batch_size", PRE, BATCH, "", "# Text", ("not given", "takes batches", "1024"), SILENT),
    Mistake("a batch where none is", GPTJ, "size: 0", "size: 8", "size: 8", ("takes no batches",), SILENT),
    Mistake("the batch in dims", FT, *_of(LENGTHS, "[ 1 ]", "[ -1, 1 ]"), "[ -1, 1 ]", ("the batch in its dims",), REFUSED),
    Mistake("the batch in an output's dims", PRE, "[ 2, -1 ]", "[ -1, 2, -1 ]", "-1, 2", ("the batch in its dims",), SILENT),
    Mistake("an input of another type", PRE, "TYPE_UINT32", "TYPE_INT32", "INT32", ("code has TYPE_UINT32",), SILENT),
    Mistake(
        "an output of another type",
        POST,
        'OUTPUT"\n    data_type: TYPE_STRING',
        'OUTPUT"\n    data_type: TYPE_FP32',
        "FP32",
        ("output OUTPUT is TYPE_FP32", "TYPE_STRING"),
        SILENT,
    ),
    Mistake("other dims", PRE, *_of(QUERY, "-1", "1"), "[ 1 ]", ("dims [ 1 ]", "code has [ -1 ]"), SILENT),
    Mistake("a misspelt output", POST, '"OUTPUT"', '"OUTPT"', '"OUTPT"', ("no output OUTPT", "write OUTPUT"), SILENT),
    Mistake("a misspelt input", PRE, '"QUERY"', '"QUERRY"', '"QUERRY"', ("no input QUERRY", "write QUERY"), SILENT),
    Mistake(
        "a surplus input",
        PRE,
        *_insert("{\n    # the prompt", '{ name: "ZZZ" data_type: TYPE_FP32 dims: [ 1 ] },\n  '),
        "ZZZ",
        ("no input ZZZ", "take it out"),
        SILENT,
    ),
    Mistake(
        "an input twice",
        PRE,
        "},\n  {\n    # words that must",
        "}, {\n" + QUERY + "\n},\n  {\n    # words that must",
        'name: "QUERY"',
        ("is given already",),
        SILENT,
    ),
    Mistake("not optional", FT, "optional: true", "optional: false", "optional: false", ("start_id", "leave it out"), SILENT),
    Mistake("optional and needed", PRE, QUERY, QUERY + "\n    optional: true", "optional", ("code needs it",), SILENT),
    Mistake(
        "a scalar not reshaped",
        FT,
        LENGTHS + "\n    reshape: { shape: [ ] }",
        LENGTHS,
        '{\n    # tokens of the prompt, without padding\n    name: "input_lengths',
        ("reshape",),
        SILENT,
    ),
    Mistake("streaming without decoupled", GPTJ, STREAMS, "", "# A prompt", ("streams", "decoupled: true"), SILENT),
    Mistake("decoupled false", GPTJ, "decoupled: true", "decoupled: false", "decoupled", ("streams",), SILENT),
    Mistake("decoupled for one answer", PRE, *_insert("input [", STREAMS), "decoupled: true", ("answers once",), SILENT),
)
"""Mistakes that only the model's code can reveal, which the server does not know."""


def _wire(name: str, old: str, new: str, at: str, *words: str, server: str = REFUSED) -> Mistake:
    return Mistake(name, ENS, old, new, at, words, server)


OF_ENSEMBLES = (
    _wire("no such model", '"postprocessing"', '"postprocesing"', "postprocesing", "no model", "write postprocessing"),
    _wire("no version", "model_version: -1", "", '{\n      model_name: "preprocessing"', "model_version: -1"),
    _wire(
        "no input of that name",
        '"TOKENS_BATCH"',
        '"TOKEN_BATCH"',
        '"TOKEN_BATCH"',
        "no input TOKEN_BATCH",
        "write TOKENS_BATCH",
    ),
    _wire("no output of that name", '"output_ids"', '"outputs_ids"', "outputs_ids", "no output outputs_ids", "output_ids"),
    _wire("leads nowhere", '"_TOKENS_BATCH" }\n      input', '"_TOKENS" }\n      input', '"_TOKENS"', "is neither an output"),
    _wire(
        "no step makes an output", '"OUTPUT_0" }', '"OUTPUT" }', 'name: "OUTPUT_0"', "OUTPUT_0", "neither an output of a step"
    ),
    _wire(
        "nobody reads an input", 'input_map { key: "start_id" value: "start_id" }\n', "", '"start_id"', "nobody reads start_id"
    ),
    _wire("a needed input is left out", TOKENS, "", '"postprocessing"', "needs its input TOKENS_BATCH", "input_map"),
    _wire(
        "another type on a wire",
        'INPUT_1"\n    data_type: TYPE_UINT32',
        'INPUT_1"\n    data_type: TYPE_INT64',
        'value: "INPUT_1"',
        "INPUT_1 is TYPE_INT64",
        "TYPE_UINT32 as preprocessing's input REQUEST_OUTPUT_LEN",
    ),
    _wire(
        "other dims on a wire",
        'OUTPUT_0"\n    data_type: TYPE_STRING\n    dims: [ -1 ]',
        'OUTPUT_0"\n    data_type: TYPE_STRING\n    dims: [ -1, -1 ]',
        'name: "OUTPUT_0"',
        "OUTPUT_0 is [ -1 ]",
        "[ -1, -1 ] as the ensemble's output",
    ),
    _wire(
        "reshaped before the steps",
        'name: "start_id"\n',
        'name: "start_id"\n    reshape: { shape: [ ] }\n',
        "reshape",
        "does not expect a reshape",
    ),
    _wire(
        "a circle", 'key: "QUERY" value: "INPUT_0"', 'key: "QUERY" value: "OUTPUT_0"', '"preprocessing"', "wait for one another"
    ),
    _wire("a larger batch than a step's", "1024", "2048", "2048", "2048", "preprocessing is 1024"),
    _wire("an ensemble without a batch", "size: 1024", "size: 0", "max_batch", "takes batches", server=SILENT),
    _wire("made twice", '"OUTPUT_0" }', '"sequence_length" }', 'key: "OUTPUT"', "sequence_length is made twice"),
    _wire("an input made anew", '"OUTPUT_0" }', '"INPUT_0" }', 'key: "OUTPUT"', "INPUT_0 is made twice"),
    _wire(
        "optional, and needed by a step",
        'name: "INPUT_0"',
        'optional: true\n    name: "INPUT_0"',
        'value: "INPUT_0"',
        "INPUT_0 is optional",
        "preprocessing's input QUERY is not",
        server=SILENT,
    ),
    _wire("its own step", '"postprocessing"', '"ensemble"', 'model_name: "ensemble"', "one of its own steps"),
    _wire("instances of an ensemble", "ensemble_scheduling {", GROUP + "\nensemble_scheduling {", "{", "no instances"),
    _wire("ensemble as a backend", "platform:", "backend:", "backend:", "no backend", 'platform: "ensemble"'),
)
"""Mistakes in the connections between models."""

MISTAKES = (*OF_FORM, *OF_MODELS, *OF_CODE, *OF_ENSEMBLES)
