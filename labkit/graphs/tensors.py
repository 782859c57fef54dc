"""The names, dtypes and shapes of the inputs and outputs of each exported part. This module needs neither torch nor ONNX."""

from __future__ import annotations

from dataclasses import dataclass

from labkit.config import GPTJConfig

FLOATS = {"fp32": "float32", "fp16": "float16"}
"""The precisions of an export, each with numpy's name for the dtype of floating-point tensors."""

Size = int | str


@dataclass(frozen=True)
class GraphTensor:
    """An input or an output of a graph: its name, numpy's name for its dtype, and its shape. A dynamic size is a name."""

    name: str
    dtype: str
    shape: tuple[Size, ...]


@dataclass(frozen=True)
class PartTensors:
    """All inputs and outputs of a part, in the order in which the graph lists them."""

    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]

    @property
    def enters(self) -> GraphTensor:
        """The main input: token ids from the client, or the hidden state from the previous part."""
        return self.inputs[0]

    @property
    def leaves(self) -> GraphTensor:
        """The main output: the hidden state for the next part, or logits for the client."""
        return self.outputs[0]

    @property
    def past(self) -> tuple[GraphTensor, ...]:
        """The cache before the step: keys and values of each layer."""
        return self.inputs[1:]

    @property
    def present(self) -> tuple[GraphTensor, ...]:
        """The cache after the step, in the order of `past`."""
        return self.outputs[1:]


def seam(part: int) -> str:
    """The name of the hidden state that enters part number `part`. The output of the previous part has the same name."""
    return f"hidden_{part}"


def part_tensors(config: GPTJConfig, precision: str, stage: int, stages: int, layers: range) -> PartTensors:
    """The inputs and outputs of part `stage` of `stages`, which holds `layers`.

    The first part takes `input_ids` `[batch, tokens]` int64. Each other part takes the hidden state `hidden_K` `[batch, tokens,
    hidden_size]`: attention and MLP of a GPT-J block read the same input and are added to the same residual, so a block passes
    nothing else to the next block. The last part returns `logits` `[batch, vocab_size]` after the last token. Each part also
    takes `past_key_values.N.key` and `.value` `[batch, num_heads, past, head_dim]` of its layers. It returns `present.N.key`
    and `.value`, which also contain the new tokens. Hugging Face's exporter gives these cache tensors the same names.
    """
    real = FLOATS[precision]
    hidden: tuple[Size, ...] = ("batch", "tokens", config.hidden_size)
    enters = GraphTensor(seam(stage), real, hidden) if stage else GraphTensor("input_ids", "int64", ("batch", "tokens"))
    last = stage == stages - 1
    leaves = GraphTensor("logits", real, ("batch", config.vocab_size)) if last else GraphTensor(seam(stage + 1), real, hidden)

    def cache(form: str, length: str) -> tuple[GraphTensor, ...]:
        shape: tuple[Size, ...] = ("batch", config.num_heads, length, config.head_dim)
        names = (f"{form}.{layer}.{what}" for layer in layers for what in ("key", "value"))
        return tuple(GraphTensor(name, real, shape) for name in names)

    return PartTensors((enters, *cache("past_key_values", "past")), (leaves, *cache("present", "past_and_tokens")))
