"""The served models: FasterTransformer's four, with its names, and `gptj`, which streams."""

from __future__ import annotations

from collections.abc import Mapping

from labkit.serving.repository.model_config import Instances, ModelConfig, Step
from labkit.serving.repository.tensors import (
    ENSEMBLE_INPUTS,
    ENSEMBLE_OUTPUTS,
    FASTERTRANSFORMER_INPUTS,
    FASTERTRANSFORMER_OUTPUTS,
    GENERATION_OUTPUTS,
    GPTJ_INPUTS,
    GPTJ_OUTPUTS,
    POSTPROCESSING_INPUTS,
    POSTPROCESSING_OUTPUTS,
    PREPROCESSING_INPUTS,
    PREPROCESSING_OUTPUTS,
    SAMPLING_INPUTS,
    TensorSpec,
)

Specs = tuple[TensorSpec, ...]

MAX_BATCH_SIZE = 1024
"""Prompts in a request to one of FasterTransformer's four models at most, as in its own configurations."""


ENSEMBLE_STEPS = (
    Step(
        "preprocessing",
        input_map={
            "QUERY": "INPUT_0",
            "BAD_WORDS_DICT": "INPUT_2",
            "STOP_WORDS_DICT": "INPUT_3",
            "REQUEST_OUTPUT_LEN": "INPUT_1",
        },
        output_map={
            "INPUT_ID": "_INPUT_ID",
            "REQUEST_INPUT_LEN": "_REQUEST_INPUT_LEN",
            "BAD_WORDS_IDS": "_BAD_WORDS_IDS",
            "STOP_WORDS_IDS": "_STOP_WORDS_IDS",
            "REQUEST_OUTPUT_LEN": "_REQUEST_OUTPUT_LEN",
        },
    ),
    Step(
        "fastertransformer",
        input_map={
            "input_ids": "_INPUT_ID",
            "input_lengths": "_REQUEST_INPUT_LEN",
            "request_output_len": "_REQUEST_OUTPUT_LEN",
            "bad_words_list": "_BAD_WORDS_IDS",
            "stop_words_list": "_STOP_WORDS_IDS",
            **{spec.name: spec.name for spec in SAMPLING_INPUTS},
        },
        output_map={
            "output_ids": "_TOKENS_BATCH",
            "text_length": "_TEXT_LENGTH",
            **{spec.name: spec.name for spec in GENERATION_OUTPUTS},
        },
    ),
    Step(
        "postprocessing",
        input_map={"TOKENS_BATCH": "_TOKENS_BATCH", "SEQUENCE_LENGTH": "_TEXT_LENGTH"},
        output_map={"OUTPUT": "OUTPUT_0"},
    ),
)
"""Which tensor goes where in `ensemble`; names with an underscore in front are wires that clients do not see."""


def served_models(parameters: Mapping[str, str]) -> dict[str, ModelConfig]:
    """All five by name; every one that runs code of ours gets the parameters.

    `ensemble` is the three stages in a row, within the server. Of `gptj` the engine batches, not the server: a request is a
    prompt.
    """

    def ours(name: str, meaning: str, inputs: Specs, outputs: Specs, *, streams: bool = False) -> ModelConfig:
        return ModelConfig(
            name=name,
            meaning=meaning,
            backend="python",
            max_batch_size=0 if streams else MAX_BATCH_SIZE,
            decoupled=streams,
            inputs=inputs,
            outputs=outputs,
            instances=Instances(),
            parameters=parameters,
        )

    tokens_to_tokens = "The tokens of prompts to those of the texts that begin with them; FasterTransformer's interface."
    streaming = "A prompt in, its text out, streamed or at once. The engine batches; the server does not."
    ensemble = ModelConfig(
        name="ensemble",
        meaning="Text in, text out: preprocessing, fastertransformer and postprocessing in a row.",
        platform="ensemble",
        max_batch_size=MAX_BATCH_SIZE,
        inputs=ENSEMBLE_INPUTS,
        outputs=ENSEMBLE_OUTPUTS,
        steps=ENSEMBLE_STEPS,
    )
    configs = (
        ours("preprocessing", "Text to token ids.", PREPROCESSING_INPUTS, PREPROCESSING_OUTPUTS),
        ours("fastertransformer", tokens_to_tokens, FASTERTRANSFORMER_INPUTS, FASTERTRANSFORMER_OUTPUTS),
        ours("postprocessing", "Token ids to text.", POSTPROCESSING_INPUTS, POSTPROCESSING_OUTPUTS),
        ensemble,
        ours("gptj", streaming, GPTJ_INPUTS, GPTJ_OUTPUTS, streams=True),
    )
    return {config.name: config for config in configs}
