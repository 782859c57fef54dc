"""The configurations of the served models: four with FasterTransformer's names, and `gptj`, which can stream."""

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
"""The most prompts in a request to one of FasterTransformer's four models; NVIDIA's own configurations have the same limit."""


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
"""The steps of `ensemble`. Tensor names that begin with an underscore are internal: clients do not see them."""


def served_models(parameters: Mapping[str, str]) -> dict[str, ModelConfig]:
    """The configurations of all five models, by name. The models with Python code get `parameters`.

    `ensemble` runs `preprocessing`, `fastertransformer` and `postprocessing` one after another within the server. A request to
    `gptj` has one prompt: the engine forms the batches, not the server.
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

    tokens_to_tokens = "Token ids of prompts in, token ids of the whole texts out; FasterTransformer's interface."
    streaming = "A prompt in, its continuation out, streamed or at once. The engine forms batches; the server does not."
    ensemble = ModelConfig(
        name="ensemble",
        meaning="Text in, text out: preprocessing, fastertransformer and postprocessing, one after another.",
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
