"""The inputs and outputs of each served model. Configurations, checks and documents are all made from this description.

Names and dtypes of `preprocessing`, `fastertransformer`, `postprocessing` and `ensemble` are the same as in NVIDIA's
fastertransformer_backend (`all_models/gptj`), so that clients of that backend work unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from labkit.sampling_vocabulary import PARAMETERS

ENGINE = "gptj"
"""The model that owns the engine. `fastertransformer` and `ensemble` need it."""

NUMPY_TYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "STRING": np.object_,
}
"""numpy's types for Triton's data types; the keys are the names in `config.pbtxt` without the prefix `TYPE_`."""


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of a model: its name, Triton data type, dims without the batch, and what it means.

    scalar: the client gives dims `[1]`, and the model gets a scalar (`reshape { shape: [ ] }`), as in FasterTransformer.
    is_new: the tensor was added later. Model repositories that are older than such a tensor are served without it.
    """

    name: str
    dtype: str
    dims: tuple[int, ...]
    meaning: str
    optional: bool = False
    scalar: bool = False
    is_new: bool = False

    @property
    def numpy_type(self) -> Any:
        """numpy's type of the tensor's elements."""
        return NUMPY_TYPES[self.dtype]


def _setting(name: str, dtype: str, meaning: str) -> TensorSpec:
    return TensorSpec(name, dtype, (1,), meaning, optional=True, scalar=True)


SAMPLING_INPUTS = (
    _setting("start_id", "UINT32", "token that an empty prompt begins with"),
    _setting("end_id", "UINT32", "token that ends the text; the model's own end of text if left out"),
    _setting("runtime_top_k", "UINT32", "keep the k likeliest tokens; 0 keeps all; 0 without runtime_top_p is greedy"),
    _setting("runtime_top_p", "FP32", "keep the smallest set of tokens whose probabilities add up to p; 0 keeps all"),
    _setting("beam_search_diversity_rate", "FP32", "lowers the score of the r-th continuation of a beam by r times this value"),
    _setting("temperature", "FP32", "divides the logits; 1 if left out"),
    _setting("len_penalty", "FP32", "beam search: scores are divided by the length to this power; 0 if left out"),
    _setting("repetition_penalty", "FP32", "divides the logits of tokens that occurred before; 1 is off"),
    _setting("random_seed", "UINT64", "equal seeds give equal text; 0 if left out"),
    _setting("is_return_log_probs", "BOOL", "whether cum_log_probs and output_log_probs are computed"),
    _setting("beam_width", "UINT32", "beams; 1 if left out, which is no beam search"),
    _setting("prompt_learning_task_name_ids", "UINT32", "not served: requests that give it are refused"),
    _setting("top_p_decay", "FP32", "multiplies runtime_top_p after each token"),
    _setting("top_p_min", "FP32", "lower limit of the decayed top_p"),
    _setting("top_p_reset_ids", "UINT32", "token after which the decayed top_p is reset to runtime_top_p"),
)
"""The optional inputs that `ensemble` passes on to `fastertransformer`, one value per prompt."""

GENERATION_OUTPUTS = (
    TensorSpec("sequence_length", "UINT32", (-1,), "tokens of each beam, with the prompt and without padding"),
    TensorSpec("cum_log_probs", "FP32", (-1,), "sum of the new tokens' log-probabilities of each beam; 0 if not asked for"),
    TensorSpec("output_log_probs", "FP32", (-1, -1), "log-probability of each new token, `[beam, new tokens]`, padded with 0"),
)

PREPROCESSING_INPUTS = (
    TensorSpec("QUERY", "STRING", (-1,), "the prompt, UTF-8"),
    TensorSpec("BAD_WORDS_DICT", "STRING", (-1,), "words that must not appear, one line of CSV", optional=True),
    TensorSpec("STOP_WORDS_DICT", "STRING", (-1,), "words that end the text, one line of CSV", optional=True),
    TensorSpec("REQUEST_OUTPUT_LEN", "UINT32", (-1,), "new tokens at most"),
)
PREPROCESSING_OUTPUTS = (
    TensorSpec("INPUT_ID", "UINT32", (-1,), "token ids of the prompt, padded on the right to the longest of the batch"),
    TensorSpec("REQUEST_INPUT_LEN", "UINT32", (1,), "tokens of the prompt, without padding"),
    TensorSpec("BAD_WORDS_IDS", "INT32", (2, -1), "token ids of all bad words, and where each word ends"),
    TensorSpec("STOP_WORDS_IDS", "INT32", (2, -1), "token ids of all stop words, and where each word ends"),
    TensorSpec("REQUEST_OUTPUT_LEN", "UINT32", (-1,), "new tokens at most"),
)

FASTERTRANSFORMER_INPUTS = (
    TensorSpec("input_ids", "UINT32", (-1,), "token ids of the prompt, padded on the right"),
    TensorSpec("input_lengths", "UINT32", (1,), "tokens of the prompt, without padding", scalar=True),
    TensorSpec("request_output_len", "UINT32", (-1,), "new tokens at most"),
    *SAMPLING_INPUTS,
    TensorSpec("bad_words_list", "INT32", (2, -1), "token ids of all bad words, and where each word ends", optional=True),
    TensorSpec("stop_words_list", "INT32", (2, -1), "token ids of all stop words, and where each word ends", optional=True),
)
FASTERTRANSFORMER_OUTPUTS = (
    TensorSpec(
        "output_ids", "UINT32", (-1, -1), "`[beam, tokens]`, beginning with the prompt's tokens, padded with the end token"
    ),
    *GENERATION_OUTPUTS,
    TensorSpec("text_length", "UINT32", (-1,), "the same as sequence_length, for an ensemble's next step", is_new=True),
)
"""`text_length` exists because of a bug in Triton 2.51.

An ensemble skips a step if neither the client nor another step needs its outputs. Triton decides this wrongly if one output of
the step goes both to the client and to another step. When the client and the step `postprocessing` both got `sequence_length`,
Triton skipped `fastertransformer` for clients that asked for only one output, and these clients got an error.
"""

POSTPROCESSING_INPUTS = (
    TensorSpec("TOKENS_BATCH", "UINT32", (-1, -1), "`[beam, tokens]`"),
    TensorSpec(
        "SEQUENCE_LENGTH", "UINT32", (-1,), "tokens of each beam, without padding; all tokens if left out", optional=True
    ),
)
POSTPROCESSING_OUTPUTS = (TensorSpec("OUTPUT", "STRING", (-1,), "the text of each beam, beginning with the prompt"),)

ENSEMBLE_INPUTS = (
    TensorSpec("INPUT_0", "STRING", (-1,), "the prompt, UTF-8"),
    TensorSpec("INPUT_1", "UINT32", (-1,), "new tokens at most"),
    TensorSpec("INPUT_2", "STRING", (-1,), "bad words, one line of CSV"),
    TensorSpec("INPUT_3", "STRING", (-1,), "stop words, one line of CSV"),
    *SAMPLING_INPUTS,
)
ENSEMBLE_OUTPUTS = (
    TensorSpec("OUTPUT_0", "STRING", (-1,), "the text of each beam, beginning with the prompt"),
    *GENERATION_OUTPUTS,
)


def _optional(name: str, dtype: str, meaning: str, *, many: bool = False, is_new: bool = False) -> TensorSpec:
    return TensorSpec(name, dtype, (-1,) if many else (1,), meaning, optional=True, is_new=is_new)


GPTJ_INPUTS = (
    _optional("text_input", "STRING", "the prompt, UTF-8"),
    _optional("input_ids", "UINT32", "the prompt as token ids, instead of text_input", many=True),
    _optional("stream", "BOOL", "one response for each token (true), or one response for the whole text (false, the default)"),
    *(
        _optional(each.name, each.tensor, each.meaning, many=each.is_list, is_new=each.is_new)
        for each in PARAMETERS
        if each.tensor
    ),
)
"""The inputs of `gptj`.

Every input after the first three is a parameter of `labkit.SamplingParams`, described in `labkit.sampling_vocabulary`.
"""

GPTJ_OUTPUTS = (
    TensorSpec("text_output", "STRING", (1,), "new text: the text of this token, or the whole new text"),
    TensorSpec("token_ids", "INT32", (-1,), "new tokens"),
    TensorSpec("logprobs", "FP32", (-1,), "log-probabilities of the new tokens; empty if not asked for"),
    TensorSpec("finish_reason", "STRING", (1,), '"stop", "length" or "banned"; empty until the last response'),
    TensorSpec("stop_reason", "STRING", (1,), "the text or token that ended the new text; empty if none did"),
    TensorSpec("prompt_tokens", "INT32", (1,), "tokens of the prompt"),
    TensorSpec("completion_tokens", "INT32", (1,), "new tokens up to now"),
    TensorSpec("queue_seconds", "FP32", (1,), "seconds from the request's arrival to the step that generated its first token"),
)
