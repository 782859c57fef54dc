"""Sample one token per row in one launch. A program reads its row of logits several times; the row stays in the L2 cache.

No logits are sorted. Top-k and top-p keep all tokens above a threshold, and as many tokens at the threshold as needed,
beginning with the lowest token ids. The threshold is found four bits at a time. Each pass over the row tries sixteen thresholds
at once. For each threshold, the pass counts the tokens at or above the threshold (or adds up their probabilities).
"""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.ops.kernels.triton_runtime import jit, launch, tl

_UNEQUAL_BITS = {torch.float32: 32, torch.float16: 20, torch.bfloat16: 16}
"""For each dtype, how many leading float32 bits can differ between two values, rounded up to a multiple of four."""


@jit
def ordered(x: tl.tensor, BITS: tl.constexpr) -> tl.tensor:
    """Turn the highest `BITS` bits of a float32 into an unsigned number that has the same order as the float."""
    bits = tl.where(x == 0.0, 0.0, x).to(tl.uint32, bitcast=True)  # -0.0 equals 0.0, but its bits differ.
    # For negative floats, larger bits mean a smaller number, so all bits are flipped. Positive floats are moved above the
    # negative floats.
    turned = tl.where((bits >> 31) != 0, bits ^ 0xFFFFFFFF, bits ^ 0x80000000)
    return turned >> (32 - BITS)


@jit
def loaded(row: tl.tensor, columns: tl.tensor, vocab_size: tl.tensor) -> tl.tensor:
    """Load logits in float32. Columns past the end of the vocabulary are minus infinity."""
    return tl.load(row + columns, mask=columns < vocab_size, other=float("-inf")).to(tl.float32)


@jit
def threshold(
    row: tl.tensor,
    vocab_size: tl.tensor,
    goal: tl.tensor,
    highest: tl.tensor,
    scale: tl.tensor,
    COUNTS: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """Return the largest key for which the tokens at or above it have a total weight of at least `goal`.

    With `COUNTS`, each token weighs 1.
    """
    lanes = tl.arange(0, BLOCK)
    digits = tl.arange(0, 16).to(tl.uint32)
    base = tl.full((), 0, tl.uint32)
    for place in tl.static_range(BITS // 4):
        shift = BITS - 4 - 4 * place
        steps = base + (digits << shift)
        sums = tl.zeros((16, BLOCK), tl.float32)
        for start in range(0, vocab_size, BLOCK):
            x = loaded(row, start + lanes, vocab_size)
            weight = tl.where(start + lanes < vocab_size, 1.0, 0.0) if COUNTS else tl.exp2((x - highest) * scale)
            sums += tl.where(ordered(x, BITS)[None, :] >= steps[:, None], weight[None, :], 0.0)
        reached = (tl.sum(sums, 1) >= goal).to(tl.int32)  # ones followed by zeros, because the sums decrease from step to step
        base += tl.maximum(tl.sum(reached, 0) - 1, 0).to(tl.uint32) << shift
    return base


@jit
def totals_around(
    row: tl.tensor,
    vocab_size: tl.tensor,
    key: tl.tensor,
    highest: tl.tensor,
    scale: tl.tensor,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """Return how many tokens are above a key, their total weight, how many are at the key, and the weight of one of them."""
    lanes = tl.arange(0, BLOCK)
    weight_above = tl.zeros((BLOCK,), tl.float32)
    above = tl.zeros((BLOCK,), tl.int32)
    at = tl.zeros((BLOCK,), tl.int32)
    weight_at = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, vocab_size, BLOCK):
        x = loaded(row, start + lanes, vocab_size)
        inside = start + lanes < vocab_size
        weight = tl.exp2((x - highest) * scale)
        keys = ordered(x, BITS)
        weight_above += tl.where(keys > key, weight, 0.0)
        above += (inside & (keys > key)).to(tl.int32)
        at += (inside & (keys == key)).to(tl.int32)
        weight_at = tl.maximum(weight_at, tl.where(keys == key, weight, 0.0))
    return tl.sum(above, 0), tl.sum(weight_above, 0), tl.sum(at, 0), tl.max(weight_at, 0)


@jit
def mixed(z: tl.tensor) -> tl.tensor:
    """Apply SplitMix64's mixer to `z`."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@jit
def uniform(seed: tl.tensor, sample: tl.tensor, position: tl.tensor) -> tl.tensor:
    """Return the random number of `labkit.ops.uniform` for three int64 numbers, in float64."""
    state = mixed(seed.to(tl.uint64) + 0x9E3779B97F4A7C15)
    state = mixed((state ^ sample.to(tl.uint64)) + 0x9E3779B97F4A7C15)
    state = mixed((state ^ position.to(tl.uint64)) + 0x9E3779B97F4A7C15)
    return (state >> 11).to(tl.float64) * (1.0 / 9007199254740992.0)


@jit
def sample_kernel(
    logits: tl.tensor,
    temperature: tl.tensor,
    top_k: tl.tensor,
    top_p: tl.tensor,
    seeds: tl.tensor,
    samples: tl.tensor,
    positions: tl.tensor,
    out: tl.tensor,
    vocab_size: tl.tensor,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program per row."""
    program = tl.program_id(0)
    row = logits + program.to(tl.int64) * vocab_size
    lanes = tl.arange(0, BLOCK)
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    where = lanes
    for start in range(0, vocab_size, BLOCK):
        x = loaded(row, start + lanes, vocab_size)
        where = tl.where(x > best, start + lanes, where)  # strictly larger, so each lane keeps the first of equal logits
        best = tl.maximum(best, x)
    highest = tl.max(best, 0)
    first = tl.min(tl.where(best == highest, where, vocab_size), 0)
    heat = tl.load(temperature + program)
    if heat == 0:
        tl.store(out + program, tl.minimum(first, vocab_size - 1).to(tl.int64))
        return
    scale = (1.4426950408889634 / heat).to(tl.float32)  # a GPU computes exp2 in one instruction

    key = tl.full((), 0, tl.uint32)
    ties = vocab_size  # how many of the tokens equal to the key are kept; the first tokens are kept
    k = tl.load(top_k + program)
    if (k > 0) & (k < vocab_size):
        key = threshold(row, vocab_size, k.to(tl.float32), highest, scale, True, BITS, BLOCK)
    above, weight_above, at, weight_at = totals_around(row, vocab_size, key, highest, scale, BITS, BLOCK)
    if (k > 0) & (k < vocab_size):
        ties = k.to(tl.int32) - above
    ties = tl.minimum(ties, at)
    p = tl.load(top_p + program)
    if p < 1:
        # A decayed top_p can be 0, and every key reaches a goal of 0, so keep the goal above 0. The likeliest token weighs 1.
        goal = tl.maximum((p * (weight_above + ties * weight_at)).to(tl.float32), 1e-30)
        nucleus = threshold(row, vocab_size, goal, highest, scale, False, BITS, BLOCK)
        if nucleus > key:
            key = nucleus
            above, weight_above, at, weight_at = totals_around(row, vocab_size, key, highest, scale, BITS, BLOCK)
            ties = at
        # Keep as many of the equal tokens as are needed to reach the goal.
        needed = tl.ceil((goal - weight_above) / tl.maximum(weight_at, 1e-37))
        ties = tl.minimum(ties, tl.maximum(needed, 1.0).to(tl.int32))
    target = uniform(tl.load(seeds + program), tl.load(samples + program), tl.load(positions + program))
    target *= (weight_above + ties * weight_at).to(tl.float64)

    passed = tl.full((), 0.0, tl.float64)  # the total weight of the blocks so far
    chosen = vocab_size
    last = 0
    for start in range(0, vocab_size, BLOCK):
        x = loaded(row, start + lanes, vocab_size)
        keys = ordered(x, BITS)
        tie = (start + lanes < vocab_size) & (keys == key)
        kept = (keys > key) | (tie & (tl.cumsum(tie.to(tl.int32), 0) <= ties))
        ties -= tl.sum(tie.to(tl.int32), 0)
        weight = tl.where(kept, tl.exp2((x - highest) * scale), 0.0)
        beyond = (weight > 0) & (passed + tl.cumsum(weight, 0).to(tl.float64) > target)
        chosen = tl.minimum(chosen, tl.min(tl.where(beyond, start + lanes, vocab_size), 0))
        last = tl.maximum(last, tl.max(tl.where(weight > 0, start + lanes, 0), 0))
        passed += tl.sum(weight, 0).to(tl.float64)
    # If the sums end below the target because of rounding, take the last token that has a weight.
    tl.store(out + program, tl.minimum(chosen, last).to(tl.int64))


def sample_triton(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    seeds: Tensor,
    samples: Tensor,
    positions: Tensor,
) -> Tensor:
    """Run `labkit.ops.sample` as a Triton kernel.

    The kernel computes in float32, so near the border between two tokens it can choose another token than the torch version.
    Each program decides which steps its row needs, so the host does not have to read the parameters of the rows.
    """
    logits = logits.contiguous()
    rows, vocab_size = logits.shape
    out = torch.empty(rows, dtype=torch.int64, device=logits.device)
    numbers = [n.contiguous() for n in (temperature, top_k, top_p, seeds, samples, positions)]
    # Registers hold sixteen sums per column of a block; larger blocks would spill them.
    block, warps = (1024, 16) if vocab_size > 1024 else (256, 4)
    config = {"BITS": _UNEQUAL_BITS[logits.dtype], "BLOCK": block, "num_warps": warps}
    launch(sample_kernel, (rows,), logits, *numbers, out, vocab_size, **config)
    return out
