"""Defines GPT-J in plain torch operations for a graph compiler. Nothing is fused; the cache is an input and an output.

`labkit.model.GPTJ` uses the operations of `labkit.ops`, which write into a cache in place. ONNX has no such operations. The
formulas in this module are the same as in Hugging Face's GPT-J. They are split into the smallest operations, so that a reader
of the compiled graph can see which operations the compiler has fused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from labkit.checkpoints import expected_shapes
from labkit.config import GPTJConfig
from labkit.model.part import WHOLE, Part
from labkit.ops import rotary_table

GELU_SCALE, GELU_CUBIC = math.sqrt(2 / math.pi), 0.044715


class PlainGPTJ(nn.Module):
    """A part of a GPT-J. Its weights have Hugging Face's names. Each matrix is stored as `[inputs, outputs]`.

    A matrix stored as `[outputs, inputs]` would need a transpose node in the graph, and a runtime would replace that node by a
    second copy of the matrix. If `device` is "meta", the weights have no values. Layers keep the numbers that they have in the
    whole model.
    """

    def __init__(self, config: GPTJConfig, part: Part = WHOLE, *, dtype: torch.dtype, device: torch.device | str) -> None:
        super().__init__()
        self.config, self.part = config, part
        for name, shape in weight_shapes(config, part).items():
            kind = torch.float32 if name.startswith("rotary.") else dtype
            _put(self, name, torch.empty(shape, dtype=kind, device=device))

    def forward(self, entered: Tensor, past: list[Tensor]) -> tuple[Tensor, ...]:
        """Run the part on new tokens `[batch, tokens]` (int64), or on their hidden state.

        The new tokens follow the cached tokens, so the position of the first new token is the number of cached tokens. All
        sequences of a batch have the same length. The docstring of `part_tensors` describes `past` and the shapes that are
        returned.
        """
        seen, new = past[0].shape[2], entered.shape[1]
        positions = torch.arange(seen, seen + new, dtype=torch.int64, device=entered.device)
        visible = torch.arange(seen + new, dtype=torch.int64, device=entered.device)[None] <= positions[:, None]
        sin, cos = self.get_buffer("rotary.sin")[positions], self.get_buffer("rotary.cos")[positions]
        hidden = self._of("transformer.wte.weight")[entered] if self.part.first else entered
        sin, cos = sin.to(hidden.dtype), cos.to(hidden.dtype)
        present: list[Tensor] = []
        for place, layer in enumerate(self.part.layers(self.config.num_layers)):
            keys, values = past[2 * place : 2 * place + 2]
            hidden, keys, values = self._block(f"transformer.h.{layer}", hidden, keys, values, visible, sin, cos)
            present += [keys, values]
        if self.part.last:
            normed = self._norm("transformer.ln_f", hidden[:, -1])
            hidden = normed @ self._of("lm_head.weight") + self._of("lm_head.bias")
        return hidden, *present

    def empty_past(self, batch: int) -> list[Tensor]:
        """Return the empty cache of `batch` sequences, as it is before their first token."""
        shape = (batch, self.config.num_heads, 0, self.config.head_dim)
        like = next(self.buffers())
        dtype = self._of(f"transformer.h.{self.part.layers(self.config.num_layers)[0]}.ln_1.weight").dtype
        count = 2 * len(self.part.layers(self.config.num_layers))
        return [torch.empty(shape, dtype=dtype, device=like.device) for _ in range(count)]

    def _of(self, name: str) -> Tensor:
        return self.get_buffer(name)

    def _block(
        self, name: str, hidden: Tensor, keys: Tensor, values: Tensor, visible: Tensor, sin: Tensor, cos: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run one block. Attention and MLP read the same normed input, and the results of both are added to the residual."""
        normed = self._norm(f"{name}.ln_1", hidden)
        query, key, value = (self._heads(normed @ self._of(f"{name}.attn.{each}_proj.weight")) for each in ("q", "k", "v"))
        keys = torch.cat((keys, _rotated(key, sin, cos)), 2)
        values = torch.cat((values, value), 2)
        scores = _rotated(query, sin, cos) @ keys.transpose(-1, -2) * self.config.head_dim**-0.5
        shares = torch.softmax(torch.where(visible, scores, torch.finfo(scores.dtype).min), -1)
        attended = (shares @ values).transpose(1, 2).reshape(hidden.shape)
        attention = attended @ self._of(f"{name}.attn.out_proj.weight")
        inner = _gelu(normed @ self._of(f"{name}.mlp.fc_in.weight") + self._of(f"{name}.mlp.fc_in.bias"))
        mlp = inner @ self._of(f"{name}.mlp.fc_out.weight") + self._of(f"{name}.mlp.fc_out.bias")
        return attention + mlp + hidden, keys, values

    def _heads(self, x: Tensor) -> Tensor:
        """Turn `[batch, tokens, hidden_size]` into `[batch, num_heads, tokens, head_dim]`."""
        split: Tensor = x.unflatten(-1, (self.config.num_heads, self.config.head_dim))  # type: ignore[no-untyped-call]
        return split.transpose(1, 2)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        """Apply layer normalization (Ba et al. 2016), written with separate reductions and powers."""
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.pow(2).mean(-1, keepdim=True)
        normed = centred / torch.sqrt(variance + self.config.layer_norm_epsilon)
        return normed * self._of(f"{name}.weight") + self._of(f"{name}.bias")


def weight_shapes(config: GPTJConfig, part: Part) -> dict[str, tuple[int, ...]]:
    """Return the shape that each weight and table of a part has in the graph, by name. Matrices are `[inputs, outputs]`."""
    held = part.layers(config.num_layers)
    kept: dict[str, tuple[int, ...]] = {}
    for name, shape in expected_shapes(config).items():
        words = name.split(".")
        inside = int(words[2]) in held if words[1] == "h" else part.first if "wte" in name else part.last
        if inside:
            kept[name] = shape[::-1] if is_turned(name, shape) else shape
    table = (config.context_length, config.rotary_dim // 2)
    return kept | {"rotary.sin": table, "rotary.cos": table}


def is_turned(name: str, shape: Sequence[int]) -> bool:
    """Whether the graph stores a tensor of the checkpoint transposed. True for all matrices except the embedding."""
    return len(shape) == 2 and "wte" not in name


def weight_reader(
    config: GPTJConfig, read: Callable[[str], Tensor], device: torch.device | str = "cpu"
) -> Callable[[str], Tensor]:
    """Make a function that returns a tensor of the graph by its name. `read` returns a tensor of the checkpoint by its name."""
    shapes = expected_shapes(config)

    def weight(name: str) -> Tensor:
        if name.startswith("rotary."):
            return rotary_table(config.context_length, config.rotary_dim, torch.device(device))[int(name == "rotary.cos")]
        tensor = read(name)
        return tensor.T.contiguous() if is_turned(name, shapes[name]) else tensor

    return weight


def load_weights(model: PlainGPTJ, weight: Callable[[str], Tensor]) -> None:
    """Copy weights into a model, one at a time. `weight` returns a tensor by name; `weight_reader` makes such a function."""
    for name, buffer in model.named_buffers():
        buffer.copy_(weight(name))


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Register a tensor under a name that contains dots."""
    *path, leaf = name.split(".")
    for step in path:
        if step not in module._modules:
            module.add_module(step, nn.Module())
        module = module.get_submodule(step)
    module.register_buffer(leaf, tensor)


def _rotated(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """Apply rotary position embeddings (Su et al. 2021) to `x` `[batch, heads, tokens, head_dim]`.

    In each head, the first `2 * sin.shape[-1]` values are rotated, in pairs of neighbouring values.
    """
    rotary_dim = 2 * sin.shape[-1]
    even, odd, kept = x[..., 0:rotary_dim:2], x[..., 1:rotary_dim:2], x[..., rotary_dim:]
    pairs = torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)
    return torch.cat((pairs, kept), -1)


def _gelu(x: Tensor) -> Tensor:
    """Compute the tanh form of GELU (Hendrycks & Gimpel 2016)."""
    return 0.5 * x * (1.0 + torch.tanh(GELU_SCALE * (x + GELU_CUBIC * x.pow(3))))
