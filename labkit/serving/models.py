"""The served models: FasterTransformer's four, with its names, and `gptj`, which streams."""

from __future__ import annotations

from collections.abc import Mapping

from labkit.serving.model_config import Instances, ModelConfig, Step
from labkit.serving.tensors import (
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
)

MAX_BATCH_SIZE = 1024
"""Prompts in a request to one of FasterTransformer's four models at most, as in its own configurations."""


def preprocessing(parameters: Mapping[str, str]) -> ModelConfig:
    """Text to token ids, on the CPU; the parameters are for the model's code."""
    return ModelConfig(
        name="preprocessing",
        meaning="Text to token ids.",
        backend="python",
        max_batch_size=MAX_BATCH_SIZE,
        inputs=PREPROCESSING_INPUTS,
        outputs=PREPROCESSING_OUTPUTS,
        instances=Instances(),
        parameters=parameters,
    )


def fastertransformer(parameters: Mapping[str, str]) -> ModelConfig:
    """Token ids to token ids; the parameters (model, precision, tensor_parallel) are for the model's code."""
    return ModelConfig(
        name="fastertransformer",
        meaning="The tokens of prompts to those of the texts that begin with them; FasterTransformer's interface.",
        backend="python",
        max_batch_size=MAX_BATCH_SIZE,
        inputs=FASTERTRANSFORMER_INPUTS,
        outputs=FASTERTRANSFORMER_OUTPUTS,
        instances=Instances(),
        parameters=parameters,
    )


def postprocessing(parameters: Mapping[str, str]) -> ModelConfig:
    """Token ids to text, on the CPU; the parameters are for the model's code."""
    return ModelConfig(
        name="postprocessing",
        meaning="Token ids to text.",
        backend="python",
        max_batch_size=MAX_BATCH_SIZE,
        inputs=POSTPROCESSING_INPUTS,
        outputs=POSTPROCESSING_OUTPUTS,
        instances=Instances(),
        parameters=parameters,
    )


def ensemble() -> ModelConfig:
    """Text in, text out: the three models in a row, within the server."""
    return ModelConfig(
        name="ensemble",
        meaning="Text in, text out: preprocessing, fastertransformer and postprocessing in a row.",
        platform="ensemble",
        max_batch_size=MAX_BATCH_SIZE,
        inputs=ENSEMBLE_INPUTS,
        outputs=ENSEMBLE_OUTPUTS,
        steps=ENSEMBLE_STEPS,
    )


def gptj(parameters: Mapping[str, str]) -> ModelConfig:
    """Text or token ids in, text out, streamed or at once; a prompt a request, which the engine batches itself."""
    return ModelConfig(
        name="gptj",
        meaning="A prompt in, its text out, streamed or at once. The engine batches; the server does not.",
        backend="python",
        max_batch_size=0,
        decoupled=True,
        inputs=GPTJ_INPUTS,
        outputs=GPTJ_OUTPUTS,
        instances=Instances(),
        parameters=parameters,
    )


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
        output_map={"output_ids": "_TOKENS_BATCH", **{spec.name: spec.name for spec in GENERATION_OUTPUTS}},
    ),
    Step(
        "postprocessing",
        input_map={"TOKENS_BATCH": "_TOKENS_BATCH", "SEQUENCE_LENGTH": "sequence_length"},
        output_map={"OUTPUT": "OUTPUT_0"},
    ),
)
"""Which tensor goes where in `ensemble`; names with an underscore in front are wires that clients do not see."""


def served_models(parameters: Mapping[str, str]) -> dict[str, ModelConfig]:
    """All five by name; every one that runs code of ours gets the parameters."""
    configs = (
        preprocessing(parameters),
        fastertransformer(parameters),
        postprocessing(parameters),
        ensemble(),
        gptj(parameters),
    )
    return {config.name: config for config in configs}
