"""Trains the tokenizer and the model `gptj-tiny`, measures them on held-out text, and writes files that `transformers` loads.

    python -m labkit.builtin.train --work-dir build/gptj-tiny --steps 2200

The run is seeded and can be resumed: run the same command again after an interruption. Muon trains the matrices (Jordan et al.
2024: the momentum is orthogonalized by a Newton-Schulz iteration), and AdamW trains everything else. The learning rate is
constant at first and falls linearly to zero over the last 40 % of the steps. During the last 40 % of the steps, the context
also grows from 256 to 512 tokens. You can change `--steps` when you resume a run whose learning rate is still constant. Matrix
products are computed in bfloat16; weights and sums are float32. On two CPU cores with instructions for bfloat16, a step takes a
second or more. A step takes a third less time if glibc's allocator keeps freed memory (MALLOC_MMAP_THRESHOLD_=4294967296
MALLOC_TRIM_THRESHOLD_=8589934592 in the environment).

The training does not use labkit's inference engine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

from labkit.builtin.corpus import DOCUMENT_END, Corpus, build_corpus

SAMPLE_BYTES = 65_536


@dataclass(frozen=True)
class Recipe:
    """All settings that determine the trained weights, except the number of steps."""

    vocab_size: int = 8192
    n_positions: int = 512
    n_embd: int = 256
    n_layer: int = 8
    n_head: int = 4
    rotary_dim: int = 32
    seed: int = 2026
    tokens_per_step: int = 4096
    short_context: int = 256
    decay_fraction: float = 0.4
    muon_lr: float = 0.02
    embedding_lr: float = 6e-3
    head_lr: float = 3e-3
    vector_lr: float = 2e-3
    warmup_steps: int = 60
    precision: str = "bf16"

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of matrix products: bfloat16, or float32 when `precision` is "fp32"."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32


def train_tokenizer(corpus: Corpus, recipe: Recipe) -> Tokenizer:
    """Train a byte-level BPE (with GPT-2's pre-tokenizer) of `recipe.vocab_size` tokens, including `<|endoftext|>`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocab_size,
        special_tokens=[DOCUMENT_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((piece.replace(DOCUMENT_END, "\n") for piece in corpus.train), trainer)
    return tokenizer


class Block(nn.Module):
    """One GPT-J layer: attention and MLP in parallel, with one fused matrix for query, key and value.

    Attention is written as plain matrix products: at the training lengths (256 and 512 tokens) these train twice as fast on a
    CPU as PyTorch's `scaled_dot_product_attention` (SDPA).
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.num_heads = recipe.n_head
        self.rotary_dim = recipe.rotary_dim
        self.ln_1 = nn.LayerNorm(recipe.n_embd)
        self.qkv = nn.Linear(recipe.n_embd, 3 * recipe.n_embd, bias=False)
        self.out_proj = nn.Linear(recipe.n_embd, recipe.n_embd, bias=False)
        self.fc_in = nn.Linear(recipe.n_embd, 4 * recipe.n_embd)
        self.fc_out = nn.Linear(4 * recipe.n_embd, recipe.n_embd)

    def forward(self, x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
        """Compute the next residual stream from `x` `[batch, length, width]` and rotary tables `[length, rotary_dim / 2]`."""
        batch, length, width = x.shape
        normed = self.ln_1(x)
        # [batch, length, 3 * width] -> 3 x [batch, heads, length, head_dim]
        q, k, v = self.qkv(normed).view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.rotate(q, sin, cos) * q.shape[-1] ** -0.5, self.rotate(k, sin, cos)
        future = torch.full((length, length), -math.inf, dtype=q.dtype).triu(1)
        attended = (q @ k.mT + future).softmax(-1).to(v.dtype) @ v
        attended = self.out_proj(attended.transpose(1, 2).reshape(batch, length, width))
        residual: Tensor = x + attended + self.fc_out(F.gelu(self.fc_in(normed), approximate="tanh"))
        return residual

    def rotate(self, x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
        """Apply the interleaved rotary embedding to the first `rotary_dim` dimensions of each head (Su et al. 2021)."""
        sin, cos = sin.to(x.dtype), cos.to(x.dtype)
        turned, kept = x[..., : self.rotary_dim], x[..., self.rotary_dim :]
        even, odd = turned[..., 0::2], turned[..., 1::2]
        pairs = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1)
        return torch.cat((pairs.flatten(-2), kept), dim=-1)


class TrainableGPTJ(nn.Module):
    """GPT-J for training. The forward pass of the model returns the mean loss in nats."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.wte = nn.Embedding(recipe.vocab_size, recipe.n_embd)
        self.blocks = nn.ModuleList(Block(recipe) for _ in range(recipe.n_layer))
        self.ln_f = nn.LayerNorm(recipe.n_embd)
        self.lm_head = nn.Linear(recipe.n_embd, recipe.vocab_size)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                into_residual = name.endswith(("out_proj.weight", "fc_out.weight"))
                depth = math.sqrt(2 * recipe.n_layer) if into_residual else 1.0
                nn.init.normal_(parameter, std=0.02 / depth if "blocks" in name or "head" in name else 0.1)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy in nats for `ids` and `targets` `[batch, length]`; targets of -100 do not count."""
        positions = torch.arange(ids.shape[1], dtype=torch.float32)
        frequencies = 10_000 ** (-torch.arange(0, self.recipe.rotary_dim, 2) / self.recipe.rotary_dim)
        angles = positions[:, None] * frequencies
        sin, cos = angles.sin(), angles.cos()
        x = self.wte(ids)
        with torch.autocast("cpu", self.recipe.dtype, enabled=self.recipe.dtype != torch.float32):
            for block in self.blocks:
                x = block(x, sin, cos)
        rows = self.ln_f(x).flatten(0, 1)
        head = self.lm_head.weight, self.lm_head.bias
        loss: Tensor = HeadLoss.apply(rows, *head, targets.flatten(), self.recipe.dtype)  # type: ignore[no-untyped-call]
        return loss

    def huggingface_weights(self) -> dict[str, Tensor]:
        """The weights under `transformers`' GPT-J names, in float16."""
        weights: dict[str, Tensor] = {}
        for name, value in self.state_dict().items():
            value = value.detach().half().contiguous()
            if name.startswith("lm_head"):
                weights[name] = value
            elif name.startswith("blocks."):
                layer, _, rest = name.removeprefix("blocks.").partition(".")
                prefix = f"transformer.h.{layer}."
                if rest == "qkv.weight":
                    for part, rows in zip("qkv", value.chunk(3), strict=True):
                        weights[f"{prefix}attn.{part}_proj.weight"] = rows.clone()
                else:
                    home = {"out_proj": "attn.", "fc_in": "mlp.", "fc_out": "mlp."}.get(rest.partition(".")[0], "")
                    weights[f"{prefix}{home}{rest}"] = value
            else:
                weights[f"transformer.{name}"] = value
        return weights


class HeadLoss(torch.autograd.Function):
    """Computes the LM head and the cross-entropy together, a few hundred rows at a time, so the logits stay in the CPU's cache.

    The forward pass also computes the gradients, because it has already computed the probabilities that the gradients need.
    """

    ROWS = 256

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """The mean loss in nats of `x` `[rows, width]` for `targets` `[rows]` (rows with the target -100 do not count).

        Matrix products are computed in `dtype`.
        """
        counted = targets >= 0
        x_grad, weight_grad, bias_grad = torch.empty_like(x), torch.zeros_like(weight), torch.zeros_like(bias)
        total = torch.zeros(())
        half_x, half_weight = x.to(dtype), weight.to(dtype)
        for start in range(0, len(x), HeadLoss.ROWS):
            part = slice(start, start + HeadLoss.ROWS)
            mask, target = counted[part, None], targets[part].clamp(min=0)[:, None]
            logits = F.linear(half_x[part], half_weight).float().add_(bias)
            normalizer = logits.logsumexp(-1, keepdim=True)
            total += ((normalizer - logits.gather(1, target)) * mask).sum()
            grad = logits.sub_(normalizer).exp_()
            grad.scatter_add_(1, target, torch.full_like(target, -1.0, dtype=grad.dtype)).mul_(mask)
            bias_grad += grad.sum(0)
            half_grad = grad.to(dtype)
            x_grad[part] = half_grad @ half_weight
            weight_grad += half_grad.T @ half_x[part]
        count = counted.sum()
        ctx.save_for_backward(x_grad / count, weight_grad / count, bias_grad / count)
        return total / count

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Return the gradients that `forward` stored, times the gradient of the loss."""
        return (*(kept * grad for kept in ctx.saved_tensors), None, None)


class Muon(torch.optim.Optimizer):
    """The optimizer Muon: momentum with an orthogonalized update (Jordan et al. 2024).

    The updates of matrices that have the same shape are orthogonalized together, in `dtype`.
    """

    def __init__(self, parameters: list[nn.Parameter], lr: float, dtype: torch.dtype, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update every matrix from its gradient."""
        for group in self.param_groups:
            for shape in {parameter.shape for parameter in group["params"]}:
                alike = [parameter for parameter in group["params"] if parameter.shape == shape]
                directions = []
                for parameter in alike:
                    buffer = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                    buffer.lerp_(parameter.grad, 1 - group["momentum"])
                    directions.append(parameter.grad.lerp(buffer, group["momentum"]))
                updates = orthogonalize(torch.stack(directions).to(self.dtype)).float()
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                for parameter, update in zip(alike, updates, strict=True):
                    parameter.add_(update, alpha=-group["lr"] * scale)


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Approximate the semi-orthogonal matrix nearest to each matrix of `[..., rows, columns]` by a Newton-Schulz iteration.

    The iteration is quintic: each step computes a polynomial of degree 5.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (2.0315 * gram @ gram - 4.7750 * gram) @ x
    result: Tensor = x.mT if tall else x
    return result


def optimizers(model: TrainableGPTJ, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices of the blocks, and AdamW with separate learning rates for embedding, head and vectors."""
    matrices = [p for p in model.blocks.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    adam = torch.optim.AdamW(
        [
            {"params": [model.wte.weight], "lr": recipe.embedding_lr},
            {"params": [model.lm_head.weight], "lr": recipe.head_lr},
            {"params": vectors, "lr": recipe.vector_lr},
        ],
        betas=(0.9, 0.95),
        weight_decay=0.01,
        fused=True,
    )
    chosen: list[torch.optim.Optimizer] = [Muon(matrices, recipe.muon_lr, recipe.dtype), adam]
    for optimizer in chosen:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return chosen


def learning_rate_factor(step: int, steps: int, recipe: Recipe) -> float:
    """The factor by which the learning rate is multiplied in this step.

    The factor rises during warm-up, stays constant, and falls linearly over the last `decay_fraction` of `steps`.
    """
    decay_steps = max(1, round(recipe.decay_fraction * steps))
    return min(1.0, (step + 1) / recipe.warmup_steps, (steps - step) / decay_steps)


def batch_at(tokens: Tensor, step: int, length: int, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """The windows of `length` tokens for one step, and their targets. Each epoch uses every window once, in a new order."""
    batch = recipe.tokens_per_step // length
    epoch, index = divmod(step * recipe.tokens_per_step, len(tokens) - 2 * length)
    generator = torch.Generator().manual_seed(recipe.seed * 1000 + epoch)
    shift = int(torch.randint(length, (1,), generator=generator))
    order = torch.randperm((len(tokens) - 1 - shift) // length, generator=generator)
    chosen = order[(index // length + torch.arange(batch)) % len(order)]
    windows = shift + chosen[:, None] * length + torch.arange(length + 1)
    rows = tokens[windows]
    return rows[:, :-1], rows[:, 1:]


@torch.no_grad()
def bits_per_byte(model: TrainableGPTJ, tokens: Tensor, byte_count: int, context: int) -> float:
    """The cross-entropy of held-out text in bits per UTF-8 byte.

    Each token except the first is predicted once, from at least half a context of earlier tokens where possible.
    """
    stride = context // 2
    total = 0.0
    for start in range(0, len(tokens) - 1, stride):
        begin = max(0, start - stride)
        ids = tokens[begin : start + stride]
        targets = tokens[begin + 1 : start + stride + 1]
        ids = ids[: len(targets)].clone()
        targets = targets.clone()
        targets[: start - begin] = -100
        total += float(model(ids[None], targets[None])) * int((targets >= 0).sum())
    return total / math.log(2) / byte_count


def tokenize(work_dir: Path, recipe: Recipe, corpus: Corpus) -> tuple[Tokenizer, Tensor, Tensor]:
    """The tokenizer, the training tokens and the held-out tokens (1-d int64).

    The tokenizer and the tokens are made once and stored in `work_dir`.
    """
    path = work_dir / "tokenizer.json"
    if not path.exists():
        train_tokenizer(corpus, recipe).save(str(path))
    tokenizer = Tokenizer.from_file(str(path))
    cached = work_dir / "tokens.pt"
    if not cached.exists():
        order = torch.randperm(len(corpus.train), generator=torch.Generator().manual_seed(recipe.seed)).tolist()
        train_ids = [i for index in order for i in tokenizer.encode(corpus.train[index]).ids]
        held_ids = tokenizer.encode("".join(corpus.held_out)).ids
        torch.save({"train": torch.tensor(train_ids), "held_out": torch.tensor(held_ids)}, cached)
    tokens = torch.load(cached, weights_only=True)
    return tokenizer, tokens["train"], tokens["held_out"]


def train(work_dir: Path, steps: int, recipe: Recipe, corpus: Corpus, save_every: int = 50) -> None:
    """Train until step `steps`, continuing from `work_dir/state.pt` if that file exists, and write the model."""
    work_dir.mkdir(parents=True, exist_ok=True)
    tokenizer, tokens, held_out = tokenize(work_dir, recipe, corpus)
    print(f"{len(tokens):,} train tokens, {len(held_out):,} held-out tokens", file=sys.stderr, flush=True)
    torch.manual_seed(recipe.seed)
    model = TrainableGPTJ(recipe)
    chosen = optimizers(model, recipe)
    state_path = work_dir / "state.pt"
    first_step, curve = 0, []
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(chosen, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first_step, curve = state["step"], state["curve"]
    started = time.monotonic()
    for step in range(first_step, steps):
        factor = learning_rate_factor(step, steps, recipe)
        decaying = step >= steps - round(recipe.decay_fraction * steps)
        ids, targets = batch_at(tokens, step, recipe.n_positions if decaying else recipe.short_context, recipe)
        loss = model(ids, targets)
        loss.backward()
        for optimizer in chosen:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if step % 10 == 0 or step == steps - 1:
            curve.append([step, round(loss.item(), 4)])
            rate = (step + 1 - first_step) * recipe.tokens_per_step / (time.monotonic() - started)
            print(f"step {step}/{steps} loss {loss.item():.3f} {rate:,.0f} tokens/s", file=sys.stderr, flush=True)
        if (step + 1) % save_every == 0 or step == steps - 1:
            saved = [optimizer.state_dict() for optimizer in chosen]
            record = {"model": model.state_dict(), "optimizers": saved, "step": step + 1, "curve": curve}
            torch.save(record, state_path.with_suffix(".new"))
            os.replace(state_path.with_suffix(".new"), state_path)
    write_model(work_dir, model, tokenizer, held_out, corpus, curve, steps)


def write_model(
    work_dir: Path,
    model: TrainableGPTJ,
    tokenizer: Tokenizer,
    held_out: Tensor,
    corpus: Corpus,
    curve: list[list[float]],
    steps: int,
) -> None:
    """Write `work_dir/gptj-tiny`: config, tokenizer, fp16 weights, held-out sample and `training.json`."""
    from safetensors.torch import save_file
    from transformers import GPTJConfig, PreTrainedTokenizerFast

    recipe = model.recipe
    out = work_dir / "gptj-tiny"
    out.mkdir(exist_ok=True)
    end = tokenizer.token_to_id(DOCUMENT_END)
    shape = {k: v for k, v in asdict(recipe).items() if k in {"vocab_size", "rotary_dim"} or k.startswith("n_")}
    config = GPTJConfig(**shape, bos_token_id=end, eos_token_id=end, tie_word_embeddings=False)
    config.architectures = ["GPTJForCausalLM"]
    config.dtype = "float16"
    config.save_pretrained(out)
    wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=DOCUMENT_END,
        eos_token=DOCUMENT_END,
        unk_token=DOCUMENT_END,
        model_max_length=recipe.n_positions,
        clean_up_tokenization_spaces=False,
    )
    wrapped.save_pretrained(out)
    save_file(model.huggingface_weights(), out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    text = "".join(corpus.held_out)
    share = SAMPLE_BYTES / len(text)
    sample = "".join(piece[: int(len(piece) * share)].rsplit("\n", 1)[0] + "\n" for piece in corpus.held_out)
    (out / "held_out_sample.txt").write_text(sample, "utf-8")
    sample_ids = torch.tensor(tokenizer.encode(sample).ids)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
    record = {
        "recipe": asdict(recipe),
        "steps": steps,
        "train_tokens_seen": steps * recipe.tokens_per_step,
        "parameters": sum(p.numel() for p in model.parameters()),
        "corpus": corpus.provenance,
        "held_out_bits_per_byte": bits_per_byte(model, held_out, len(text.encode()), recipe.n_positions),
        "held_out_sample_bits_per_byte": bits_per_byte(model, sample_ids, len(sample.encode()), recipe.n_positions),
        "loss_curve": curve,
    }
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps({k: v for k, v in record.items() if k not in {"loss_curve", "recipe"}}))


def main() -> None:
    """Train the built-in model; after an interruption, run the command again to continue."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path("build/gptj-tiny"))
    parser.add_argument("--steps", type=int, default=2200)
    arguments = parser.parse_args()
    train(arguments.work_dir, arguments.steps, Recipe(), build_corpus(arguments.work_dir / "corpus"))


if __name__ == "__main__":
    main()
