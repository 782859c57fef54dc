"""Puts the learner's functions into the running engine.

Each function replaces an operation. Calls of the function are counted, and the tokens are compared with the tokens of the
unchanged engine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit import ops
from labkit.checkpoints import open_checkpoint
from labkit.engine import Engine, EngineOptions, SamplingParams
from labkit.errors import NotAvailable
from labkit.exercises.kernels import interpreted, kernel_device
from labkit.exercises.lab02.reachable_code import reachable_code
from labkit.measure import progress_bar
from labkit.model import GPTJ
from labkit.model.gptj import Layer
from labkit.model.linear import Linear
from labkit.ops.gelu import gelu
from labkit.ops.uniform import uniform

__all__ = [
    "DRAWN",
    "EngineSwaps",
    "three_products",
    "through_cache",
    "through_int8",
    "through_narrow_table",
    "through_rows",
    "through_softmax",
]

PROMPTS = ("The whale", "It is a truth", "In the beginning God created")
NEW_TOKENS = 5
GREEDY = SamplingParams(max_new_tokens=NEW_TOKENS, ignore_eos=True)
DRAWN = SamplingParams(max_new_tokens=30, temperature=0.9, top_k=40, top_p=0.9, seed=7, ignore_eos=True)
OPTIONS: EngineOptions = {"max_batch_size": 16, "num_slots": 512, "prefix_reuse": False}
"""The cache is small because Triton's interpreter copies all arguments of a kernel. No run reuses prefixes of earlier runs."""


class EngineSwaps:
    """An engine that runs gptj-tiny in float32, operation by operation, so that functions can replace operations."""

    def __init__(self, name: str = "gptj-tiny") -> None:
        self.device = kernel_device()
        checkpoint = open_checkpoint(name)
        self.model = GPTJ.from_tensors(
            checkpoint.config, lambda tensor: checkpoint.read(tensor, device=self.device, dtype=torch.float32)
        )
        self.engine = Engine(self.model, checkpoint.tokenizer(), **OPTIONS)
        self._quantized: Engine | None = None
        self._ran: dict[Any, str] = {}
        """The messages about runs that gave equal tokens, by function and settings."""

    def same_tokens(self, says: str, functions: dict[str, Callable[..., Any]], **options: Any) -> bool:
        """Generate with these operations replaced. Return whether the tokens are the same as with the engine's own operations.

        `options`: `engine` is used instead of this engine; `params` are the sampling parameters; `prompts` is the number of
        prompts. With `every=n`, a function in the interpreter gets only every n-th call. `calls` replaces the counted number of
        calls in the message. If nothing has changed since an earlier run with equal tokens, the message of that run is shown
        again, because a run in the interpreter takes long.
        """
        engine = options.get("engine", self.engine)
        code = tuple((name, reachable_code(function)) for name, function in functions.items())
        run = says, code, engine is self.engine, repr(options.get("params")), options.get("prompts"), options.get("every")
        is_kept = engine in (self.engine, self._quantized)
        if is_kept and run in self._ran:
            print(f"{self._ran[run]} (an earlier run; your code has not changed since)")
            return True
        started = time.perf_counter()
        try:
            equal, calls = self._run(says, functions, engine, options)
        except (NotAvailable, NotImplementedError) as error:
            print(f"Your {says} in the engine: not measured here: {error}")
            return False
        seconds = time.perf_counter() - started
        calls = options.get("calls") or calls
        said = f"Your {says} ran {calls:,} times in the engine ({seconds:.1f} s); tokens equal: {equal}"
        print(said)
        if equal and is_kept:
            self._ran[run] = said
        return equal

    def _run(
        self, says: str, functions: dict[str, Callable[..., Any]], engine: Engine, options: dict[str, Any]
    ) -> tuple[bool, int]:
        """Generate with these operations replaced.

        Returns whether the tokens are the same as without the replacements, and how often the functions were called.
        """
        params = options.get("params", GREEDY)
        prompts = PROMPTS[: options.get("prompts", len(PROMPTS))]
        expected = [output.completions[0].token_ids for output in engine.generate(prompts, params)]
        every = options.get("every", 1) if interpreted() else 1
        counted = {name: Counted(function, getattr(ops, name).__wrapped__, every) for name, function in functions.items()}
        found: list[list[int]] = [[] for _ in prompts]
        bar = progress_bar(f"{says} in the engine")
        with ops.use(**counted):
            for done, event in enumerate(engine.stream(prompts, params), 1):
                found[event.request].append(event.token_id)
                bar(done, sum(map(len, expected)))
        return found == expected, sum(function.ran for function in counted.values())

    def built_with(self, fuse_qkv: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Engine:
        """Make an engine whose weights of query, key and value were stacked by the learner's function."""
        layers = [replace(layer, qkv=Linear(fuse_qkv(*layer.qkv.weight.chunk(3)))) for layer in self.model.layers]  # type: ignore[union-attr]
        return Engine(self.model.with_layers(layers), self.engine.tokenizer, **OPTIONS)

    def quantized(self) -> Engine:
        """The engine whose blocks and head have `Int8Weight` weights. It is made at the first call and kept."""
        if self._quantized is None:
            self._quantized = self._quantize()
        return self._quantized

    def _quantize(self) -> Engine:

        def small(linear: Linear) -> Linear:
            assert isinstance(linear.weight, Tensor)
            return replace(linear, weight=ops.Int8Weight.quantize(linear.weight))

        def quantize(layer: Layer) -> Layer:
            products = (layer.qkv, layer.out_proj, layer.fc_in, layer.fc_out)
            return Layer(layer.ln_1_weight, layer.ln_1_bias, *map(small, products))

        layers = [quantize(layer) for layer in self.model.layers]
        assert self.model.lm_head is not None
        return Engine(self.model.with_layers(layers, small(self.model.lm_head)), self.engine.tokenizer, **OPTIONS)


class Counted:
    """Passes every n-th call to `function`, and counts these calls. The operation's own function gets the other calls."""

    def __init__(self, function: Callable[..., Any], own: Callable[..., Any], every: int) -> None:
        self._function, self._own, self._every = function, own, every
        self._calls = self.ran = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        mine = self._calls % self._every == 0
        self._calls += 1
        self.ran += mine
        return (self._function if mine else self._own)(*args, **kwargs)


def three_products(x: Tensor, weight: Any, bias: Tensor | None = None) -> Tensor:
    """Compute `ops.linear`, but with three matrix products for query, key and value.

    The stacked weight of query, key and value is recognised by its shape; any other weight gets one matrix product.
    """
    if isinstance(weight, Tensor) and weight.shape[0] == 3 * weight.shape[1]:
        return torch.cat([F.linear(x, part) for part in weight.chunk(3)], dim=1)
    return ops.linear.__wrapped__(x, weight, bias)  # type: ignore[attr-defined, no-any-return]


def through_cache(write_then_read: Callable[..., list[Tensor]]) -> Callable[..., Tensor]:
    """Make a form of `ops.decode_attention` whose keys and values the learner's function writes and reads.

    When the operation is called, the cache already holds the new tokens' keys and values. They are first removed from the
    cache, so that the learner's function must write them.
    """

    def decode_attention(query: Tensor, keys: Tensor, values: Tensor, slot_table: Tensor, lengths: Tensor) -> Tensor:
        newest = slot_table.gather(1, lengths[:, None].long() - 1).squeeze(1).long()
        seen = []
        for pool in (keys, values):
            new = pool[newest]
            pool[newest] = 0
            seen.append(write_then_read(pool, new, newest, slot_table, lengths))
        scale = 1 / math.sqrt(query.shape[-1])
        attended = []
        for q, key, value in zip(query, *seen, strict=True):
            weights = torch.softmax(torch.einsum("hd,lhd->hl", q, key) * scale, dim=-1)
            attended.append(torch.einsum("hl,lhd->hd", weights, value))
        return torch.stack(attended)

    return decode_attention


def through_narrow_table(attention: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make a form of `ops.decode_attention` that calls the learner's kernel. The kernel gets only those columns of the slot
    table that are in use.
    """

    def decode_attention(query: Tensor, keys: Tensor, values: Tensor, slot_table: Tensor, lengths: Tensor) -> Tensor:
        return attention(query, keys, values, slot_table[:, : int(lengths.max())].contiguous(), lengths)

    return decode_attention


def through_softmax(online_softmax: Callable[..., Tensor], block: int = 4) -> Callable[..., Tensor]:
    """Make a form of `ops.decode_attention` that calls the learner's one-pass softmax with small blocks of the keys."""

    def blocks(q: Tensor, key: Tensor, value: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for begin in range(0, len(key), block):
            part = slice(begin, begin + block)
            yield key[part] @ q / math.sqrt(len(q)), value[part]

    def decode_attention(query: Tensor, keys: Tensor, values: Tensor, slot_table: Tensor, lengths: Tensor) -> Tensor:
        attended = torch.empty_like(query)
        for s, length in enumerate(lengths.tolist()):
            slots = slot_table[s, :length].long()
            for head in range(query.shape[1]):
                attended[s, head] = online_softmax(blocks(query[s, head], keys[slots, head], values[slots, head]))
        return attended

    return decode_attention


def through_int8(int8_product: Callable[..., Tensor]) -> dict[str, Callable[..., Tensor]]:
    """Make forms of `ops.linear` and `ops.linear_gelu`, for an int8 model, that call the learner's matrix product."""

    def linear(x: Tensor, weight: Any, bias: Tensor | None = None) -> Tensor:
        product = int8_product(x, weight.values, weight.scales, rows=256, block=256)
        return product if bias is None else product + bias

    return {"linear": linear, "linear_gelu": lambda x, weight, bias=None: gelu(linear(x, weight, bias))}


def through_rows(sample_token: Callable[..., int]) -> Callable[..., Tensor]:
    """Make a form of `ops.sample` that calls the learner's function row by row with the engine's own random numbers."""

    def sample(
        logits: Tensor,
        temperature: Tensor,
        top_k: Tensor,
        top_p: Tensor,
        seeds: Tensor,
        samples: Tensor,
        positions: Tensor,
        **hints: Any,
    ) -> Tensor:
        settings = zip(temperature.tolist(), top_k.tolist(), top_p.tolist(), uniform(seeds, samples, positions), strict=True)
        tokens = [int(sample_token(row.cpu(), t, k, p, float(u))) for row, (t, k, p, u) in zip(logits, settings, strict=True)]
        return torch.tensor(tokens, device=logits.device)

    return sample
