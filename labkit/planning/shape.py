"""The sizes of a GPT that determine its memory and its speed. GPT-J and models like GPT-3 are described in the same way."""

from __future__ import annotations

from dataclasses import dataclass

from labkit.config import GPTJConfig, cache_elements_per_token, layer_matrix_parameters
from labkit.errors import InvalidRequest

GPT_3_VOCABULARY = 51200
"""The vocabulary size of the published GPT tables: 50,257 tokens, padded so that tensor parallelism can divide it evenly."""
GPT_3_POSITIONS = 2048
LAYERS_TO_HIDDEN = 128
"""The hidden size divided by the number of layers, in GPT-3 175B and most models of its kind (Brown et al. 2020, table 2.1)."""
MOST_PARAMETERS = 1e14


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder-only transformer.

    `sums`: how many all-reduces the shards of a layer need. In GPT-J, attention and MLP run in parallel and share one
    all-reduce; GPT-3 needs two. `positions`: the number of rows in the learned position table; 0 for models with rotary
    position embedding. `tied`: whether the head uses the embedding's matrix. `context_length`: the most tokens of a text; 0 if
    unknown. Raises `InvalidRequest` for sizes below 1, or if
    the number of heads does not divide the hidden size.
    """

    name: str
    hidden_size: int
    num_layers: int
    num_heads: int
    vocab_size: int = GPT_3_VOCABULARY
    intermediate_size: int = 0
    sums: int = 2
    positions: int = GPT_3_POSITIONS
    tied: bool = True
    context_length: int = GPT_3_POSITIONS

    def __post_init__(self) -> None:
        if self.intermediate_size == 0:
            object.__setattr__(self, "intermediate_size", 4 * self.hidden_size)
        for field in ("hidden_size", "num_layers", "num_heads", "vocab_size", "intermediate_size", "sums"):
            if (value := getattr(self, field)) < 1:
                raise InvalidRequest(f"{field} of {self.name} is {value}; at least 1 is accepted")
        if self.hidden_size % self.num_heads:
            raise InvalidRequest(
                f"{self.name} has hidden size {self.hidden_size} and {self.num_heads} heads; the heads must divide it evenly"
            )

    @classmethod
    def of_config(cls, config: GPTJConfig, name: str = "GPT-J") -> Shape:
        """The shape of a GPT-J."""
        return cls(
            name=name,
            hidden_size=config.hidden_size,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            vocab_size=config.vocab_size,
            intermediate_size=config.intermediate_size,
            sums=1,
            positions=0,
            tied=False,
            context_length=config.context_length,
        )

    @classmethod
    def of_parameters(cls, parameters: float) -> Shape:
        """A shape with about this many parameters, heads of 128 dimensions, and the proportions of GPT-3 175B.

        Its context length is unknown.

        Raises `InvalidRequest` if the number is below 1e6 or above 1e14.
        """
        if not 1e6 <= parameters <= MOST_PARAMETERS:
            raise InvalidRequest(f"the number of parameters is {parameters:g}; 1e6 to {MOST_PARAMETERS:g} is accepted")
        hidden = max(128, 128 * round((parameters * LAYERS_TO_HIDDEN / 12) ** (1 / 3) / 128))
        table = (GPT_3_VOCABULARY + GPT_3_POSITIONS) * hidden
        layers = max(1, round((parameters - table) / (12 * hidden * hidden)))
        return cls(f"GPT {parameters / 1e9:.3g}B", hidden, layers, hidden // 128, context_length=0)

    @property
    def head_dim(self) -> int:
        """The number of dimensions of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def layer_matrix_parameters(self) -> int:
        """Parameters of the matrices of one layer: four matrices for attention and two for the MLP."""
        return layer_matrix_parameters(self.hidden_size, self.intermediate_size)

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer. GPT-J has one norm and no biases in attention; GPT-3 has two norms and all biases."""
        h, inner = self.hidden_size, self.intermediate_size
        others = inner + h + 2 * h if self.sums == 1 else inner + h + 4 * h + 4 * h
        return self.layer_matrix_parameters + others

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the token embedding and of the learned position table."""
        return (self.vocab_size + self.positions) * self.hidden_size

    @property
    def head_parameters(self) -> int:
        """Parameters of the head without the parameters that it shares with the embedding: 0 if the head is tied."""
        return 0 if self.tied else self.vocab_size * (self.hidden_size + 1)

    @property
    def parameter_count(self) -> int:
        """The number of parameters of the whole model (6,050,882,784 for GPT-J 6B)."""
        norm = 2 * self.hidden_size
        return self.num_layers * self.layer_parameters + norm + self.embedding_parameters + self.head_parameters

    def cache_elements_per_token(self) -> int:
        """How many numbers the KV cache holds for one token, over all layers."""
        return cache_elements_per_token(self.num_layers, self.hidden_size)
