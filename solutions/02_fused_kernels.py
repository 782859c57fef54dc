# %% [markdown]
# # Lab 02 · Fused kernels
#
# **After this lab you can** write GPU kernels in Triton, say what a fusion saves before you write it, and run your kernels in
# an engine.
#
# The example for this lab is **FasterTransformer**, NVIDIA's library of hand-written CUDA kernels for transformers (2019 to
# 2023; TensorRT-LLM is its successor). FasterTransformer made GPT-J fast by merging small operations into few kernels. In this
# lab you build these kernels one at a time.
#
# *{{lab 02: size; a good place for a break is after 2.4}} · runs on any machine. If there is a GPU, your kernels are compiled
# for it. If there is no GPU, Triton's interpreter runs your kernels, and a CPU version of each fusion is timed. If Triton is
# not available (macOS, Windows), the kernel exercises say "not measured here"; everything else works.*
#
# {{lab 02: core path}}

# %%
import math

import torch

from labkit import measure, ops
from labkit.lab import check, hint, passed, predicted, progress_panel, reset, solution, solved, submit
from labkit.lab import kernel_device, tl, triton
from labkit.lab.lab02 import climb, has_triton, measurements, pictures, step_launches, swaps
from labkit.measure import plots
from labkit.measure.torch_traffic import torch_traffic

torch.set_grad_enabled(False)
device, ladder, points = kernel_device(), measure.Ladder(), {}
engine = swaps.EngineSwaps("gptj-tiny")  # fp32; your functions can replace each of its operations
tokens = 32 if device.type == "cpu" else 4096  # in the measurements below
alone = f"{device}, fp32, 1 thread, torch {torch.__version__}"
where = alone.replace("1 thread", f"{torch.get_num_threads()} threads")

# %%
progress_panel("02")

# %% [markdown]
# ## One step, operation by operation
#
# A **kernel** is a program that runs on the GPU; starting it is a **launch**. All data goes through memory between two kernels:
# an operation writes its outputs, and the next operation reads them again. **Fusing** two operations into one kernel saves a
# launch; it also saves writing and reading the data between them.
#
# Before each exercise you write down a prediction, and after its check a cell measures the result. One MB is 1,000,000 bytes.
# If other programs use the processor, a cell says "too noisy to compare" instead of a ratio. Then close these programs and run
# the cell again.
#
# **Predict:** the built-in model has 8 blocks. How many launches does one token take if every torch operation is a launch?

# %%
# BEGIN SOLUTION guess_launches = None
guess_launches = 300
# END SOLUTION
if predicted(launches=guess_launches):
    with ops.use(**climb.APART):  # every operation in separate steps
        launches = torch_traffic(step_launches.decode_step(engine.model)).launches
    parts = climb.launches_by_operation(step_launches.decode_step(engine.model))
    print("Launches by operation:", ", ".join(f"{name} {count}" for name, count in parts.items()))
    shown = {"your prediction": [guess_launches], "counted": [launches]}
    title = "Launches for one token, nothing fused"
    display(plots.prediction_plot(["gptj-tiny"], shown, ylabel="launches", title=title, caption=where))

# %% [markdown]
# Most launches come from the eight blocks: every block runs the listed operations once. If your number is smaller, find the
# operation that takes several launches but that you counted as one launch. `help(ops.rotary_cache_write)`, for example, shows
# what an operation computes.
#
# The first fusion needs no kernel: you combine three matrix products into one.

# %%
# Predict: how many times faster is one product than three products? (The number of weights stays the same.)
# BEGIN SOLUTION guess_qkv_gain = None
guess_qkv_gain = 1.5
# END SOLUTION

# %% [markdown]
# {{exercise lab02.fuse_qkv}}


# %%
def fuse_qkv(query_weight, key_weight, value_weight):
    """One weight [3 * rows, hidden]: all of the query, then the key, then the value."""
    # BEGIN SOLUTION
    return torch.cat((query_weight, key_weight, value_weight))
    # END SOLUTION


# %%
check(fuse_qkv)

# %%
if passed(fuse_qkv) and predicted(qkv_gain=guess_qkv_gain):
    engine.same_tokens("fuse_qkv", {}, engine=engine.built_with(fuse_qkv), calls=8)
    x, parts = torch.randn(4, 256, device=device), torch.randn(3, 256, 256, device=device)
    whole = fuse_qkv(*parts)
    forms = {"three": lambda: [x @ part.T for part in parts], "one": lambda: x @ whole.T}
    times = measure.compare(forms, device=device, max_runs=500, max_seconds=1, warmup=20, threads=1)
    gain = measure.ratio(times["three"], times["one"])
    print("Three products against one:", gain.words)
    shown = {"your prediction": [guess_qkv_gain], "measured": [gain.shown]}
    title = f"Time: one product instead of three, {gain}"
    names = ["4 tokens, hidden 256"]
    display(plots.prediction_plot(names, shown, ylabel="times faster", title=title, caption=alone))

# %% [markdown]
# ## A cache that is written once
#
# The cache of `transformers` grows: each step allocates new tensors and copies the old tensors. FasterTransformer allocates
# its cache once. The engine of this course divides its cache into **slots**. A slot holds the key and value of one token. A
# sequence may use any slots in any order; its row in the **slot table** lists them.

# %%
# Predict: a cache holds 1,000 keys, each of 16 heads of 256 numbers in fp32. Then a new key is added. How many MB does a
# cache that grows (torch.cat) read and write? How many MB does a cache of slots read and write?
# BEGIN SOLUTION guess_grown_mb, guess_slot_mb = None, None
guess_grown_mb, guess_slot_mb = 2 * 1001 * 4096 * 4 / 1e6, 2 * 4096 * 4 / 1e6
# END SOLUTION

# %% [markdown]
# {{exercise lab02.write_then_read}}


# %%
def write_then_read(cache, new_keys, slot_mapping, slot_table, lengths):
    """Write the new keys into their slots; return the list of all keys of each sequence."""
    # BEGIN SOLUTION
    cache[slot_mapping] = new_keys
    return [cache[slot_table[s, :n].long()] for s, n in enumerate(lengths.tolist())]
    # END SOLUTION


# %%
check(write_then_read)

# %%
if passed(write_then_read) and predicted(grown=guess_grown_mb, slots=guess_slot_mb):
    engine.same_tokens("write_then_read", {"decode_attention": swaps.through_cache(write_then_read)})
    old, new = torch.zeros(1000, 16, 256, device=device), torch.zeros(1, 16, 256, device=device)
    pool, slot = torch.zeros(1001, 16, 256, device=device), torch.tensor([1000], device=device)
    forms = {"grows": lambda: torch.cat((old, new)), "slots": lambda: pool.index_put_((slot,), new)}
    counted = [torch_traffic(form).total / 1e6 for form in forms.values()]
    times = measure.compare(forms, device=device, max_runs=200, max_seconds=1, warmup=5, threads=1)
    gain = measure.ratio(times["grows"], times["slots"])
    print("Time, growing against slots:", gain.words)
    shown = {"your prediction": [guess_grown_mb, guess_slot_mb], "counted": counted}
    title = f"Bytes for a new key (time of growing against slots: {gain})"
    display(plots.prediction_plot(forms, shown, ylabel="MB", log=True, title=title, caption=alone))

# %% [markdown]
# Slots also avoid copies in **beam search**. When a step replaces beam 0 by a copy of beam 2, only numbers in the slot table
# change, because beams share the slots of their common beginning. No key is copied.
#
# ## Your first kernel
#
# A Triton kernel describes the work of **one program**. A launch, `kernel[(count,)](...)`, starts a grid of programs. (The grid
# is a tuple, hence the comma.) Inside a program, `tl.program_id(0)` is the program's number. A program works on blocks:
# `tl.arange(0, BLOCK)` is the block 0, 1, ..., BLOCK - 1. The size of a block must be a power of two:
# `triton.next_power_of_2(size)`. A **mask** excludes the elements past the end of a row. The picture shows the grid of the
# example below:

# %%
pictures.program_grid(rows=3, size=100, block=128)

# %% [markdown]
# A kernel gets tensors as addresses: the element with index `place` of `x` is at the address `x + place`. `.to(tl.float32)`
# converts a block; Triton has no operator `**`.
#
# An element that the mask excludes is undefined unless `other` gives it a value. The interpreter of this lab sets it to NaN, so
# that you notice. In the interpreter, an access outside your tensors is an error; on a GPU it reads garbage. **`print(x)` works
# inside an interpreted kernel**, that is, without a GPU. Run the example. Then remove `, other=0.0` from the load of `x` and
# print `total`. Then remove `, mask=inside` from the store, and read the last line of the error message: it says what happened.
#
# For each kernel there is a torch function with the same result, such as `ops.residual_layer_norm`; call it to compare. The
# check also watches how the work is done: your kernels must load and store all data, and torch must compute nothing in between.


# %%
@triton.jit
def add_kernel(x, y, out, size, BLOCK: tl.constexpr):
    row = tl.program_id(0)  # the number of this program; here, one program per row
    column = tl.arange(0, BLOCK)  # 0, 1, ..., BLOCK - 1
    inside = column < size  # a row need not be a power of two long
    place = row * size + column
    total = tl.load(x + place, mask=inside, other=0.0) + tl.load(y + place, mask=inside, other=0.0)
    tl.store(out + place, total, mask=inside)


if has_triton():
    x, y, out = (torch.randn(3, 100, device=device) for _ in range(3))
    add_kernel[(3,)](x, y, out, 100, BLOCK=128)  # three programs
    print("equal to x + y:", torch.equal(out, x + y))

# %%
# Reading a whole tensor is one pass, and so is writing it. In separate steps, two sums and a norm take eight passes: three
# for each sum of two tensors, and two for the norm. Your kernel needs fewer.
# Predict: each tensor has `tokens` rows (32, or 4,096 on a GPU) of 4,096 elements in fp32. How many MB must memory move for
# your kernel?
# BEGIN SOLUTION guess_norm_mb = None
guess_norm_mb = 5 * tokens * 4096 * 4 / 1e6
# END SOLUTION

# %% [markdown]
# {{exercise lab02.fused_residual_layer_norm}}


# %%
def fused_residual_layer_norm(residual, attention, mlp, weight, bias, epsilon):
    """hidden = attention + mlp + residual, and its layer norm: the pair that ops.residual_layer_norm returns."""
    hidden, normed = torch.empty_like(residual), torch.empty_like(residual)
    count, size = residual.shape
    # BEGIN SOLUTION
    tensors = residual, attention, mlp, weight, bias, hidden, normed
    norm_kernel[(count,)](*tensors, size, epsilon, BLOCK=triton.next_power_of_2(size))
    # END SOLUTION
    return hidden, normed


@triton.jit
def norm_kernel(
    residual, attention, mlp, weight, bias, hidden, normed, size, epsilon, BLOCK: tl.constexpr
):
    """One program per token; sums in float32. tl.sum(x) adds up a block; see also tl.rsqrt and tl.where."""
    column = tl.arange(0, BLOCK)
    inside, place = column < size, tl.program_id(0) * size + column
    x = tl.load(attention + place, mask=inside, other=0.0).to(tl.float32)
    x += tl.load(mlp + place, mask=inside, other=0.0).to(tl.float32)  # the rest is yours
    # BEGIN SOLUTION pass
    x += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(hidden + place, x, mask=inside)
    centred = tl.where(inside, x - tl.sum(x) / size, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred) / size + epsilon)
    w = tl.load(weight + column, mask=inside).to(tl.float32)
    b = tl.load(bias + column, mask=inside).to(tl.float32)
    tl.store(normed + place, centred * scale * w + b, mask=inside)
    # END SOLUTION


# %%
check(fused_residual_layer_norm)

# %%
if predicted(norm_mb=guess_norm_mb) and (passed(fused_residual_layer_norm) or not has_triton()):
    engine.same_tokens("norm kernel", {"residual_layer_norm": fused_residual_layer_norm})
    measurements.show(points, fused_residual_layer_norm, guess_norm_mb, tokens, where)

# %% [markdown]
# The figure shows your prediction and the counted bytes. The line above it shows the times, or says that they are too noisy.
# Where memory is the limit, moving fewer bytes takes less time. Where launches are the limit, fewer launches take less time.

# %% [markdown]
# {{core path: go on at Your speed ladder}}

# %% [markdown]
# ## Rotary and the cache, in one kernel
#
# In torch, the rotary embedding and the cache write take twenty launches, for example to split, gather sines, rotate, stack,
# concatenate and write. A single kernel reads each row of `qkv` once and stores all results in their places. GPT-J rotates
# pairs of **neighbours**; LLaMA pairs each element of the first half with an element of the second half.
#
# Now the tensors have three dimensions, and you compute addresses yourself. In a contiguous tensor `[tokens, heads, head_dim]`,
# the index of **element (t, h, d) is `t * heads * head_dim + h * head_dim + d`**. With 3 heads of 10 numbers, element (2, 1, 4)
# is at 2 · 30 + 1 · 10 + 4 = 74:

# %%
pictures.address(token=2, head=1, dim=4, heads=3, head_dim=10)

# %% [markdown]
# A row of `qkv` holds query, key and value, so it is three times as long: 3 · 3 · 10 = 90 numbers in this example. Element
# (1, 4) of token 2's **query** is at 2 · 90 + 14 = 194. The same element of its **key** is 30 places later, at 224. The same
# element of its **value** is another 30 places later, at 254. A slot of the cache holds all heads of one token: if this key
# is written to slot 5, the element is at 5 · 30 + 14 = 164.
#
# Only the first `rotary_dim` elements of a head are rotated; a row of `sin` has `rotary_dim / 2` elements. The later elements
# of a head are copied.
#
# The grid of this kernel has two dimensions, `kernel[(tokens, heads)](...)`: there is one program for each token and head.

# %%
# Predict: how many MB does your kernel read and write? There are `tokens` rows (32, or 4,096 on a GPU), the hidden size is
# 4,096, and all numbers are in fp32.
# BEGIN SOLUTION guess_rotary_mb = None
guess_rotary_mb = (3 + 3) * tokens * 4096 * 4 / 1e6
# END SOLUTION

# %% [markdown]
# {{exercise lab02.fused_rotary_cache_write}}


# %%
def fused_rotary_cache_write(qkv, positions, sin, cos, keys, values, slot_mapping):
    """The query that ops.rotary_cache_write returns; also writes keys and values, [slots, heads, head_dim]."""
    count, (_, heads, head_dim) = len(qkv), keys.shape
    query = qkv.new_empty(count, heads, head_dim)
    # BEGIN SOLUTION
    tensors = qkv, positions, sin, cos, keys, values, slot_mapping, query
    half = triton.next_power_of_2(head_dim // 2)
    rotary_kernel[(count, heads)](*tensors, head_dim, 2 * sin.shape[1], BLOCK=half)
    # END SOLUTION
    return query


@triton.jit
def rotary_kernel(
    qkv, positions, sin, cos, keys, values, slots, query, head_dim, rotary_dim, BLOCK: tl.constexpr
):
    token, head, heads = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    pair = tl.arange(0, BLOCK)  # elements 2 * pair and 2 * pair + 1 of the head
    # BEGIN SOLUTION pass
    inside, turned = pair < head_dim // 2, pair < rotary_dim // 2
    angle = tl.load(positions + token) * (rotary_dim // 2) + pair
    s = tl.load(sin + angle, mask=turned, other=0.0)
    c = tl.load(cos + angle, mask=turned, other=1.0)
    width, even = heads * head_dim, head * head_dim + 2 * pair
    q = qkv + token * 3 * width + even
    q0, q1 = tl.load(q, mask=inside), tl.load(q + 1, mask=inside)
    tl.store(query + token * width + even, q0 * c - q1 * s, mask=inside)
    tl.store(query + token * width + even + 1, q1 * c + q0 * s, mask=inside)
    k0, k1 = tl.load(q + width, mask=inside), tl.load(q + width + 1, mask=inside)
    slot = tl.load(slots + token) * width + even
    tl.store(keys + slot, k0 * c - k1 * s, mask=inside)
    tl.store(keys + slot + 1, k1 * c + k0 * s, mask=inside)
    tl.store(values + slot, tl.load(q + 2 * width, mask=inside), mask=inside)
    tl.store(values + slot + 1, tl.load(q + 2 * width + 1, mask=inside), mask=inside)
    # END SOLUTION


# %%
check(fused_rotary_cache_write)

# %%
if predicted(rotary_mb=guess_rotary_mb) and (passed(fused_rotary_cache_write) or not has_triton()):
    engine.same_tokens("rotary kernel", {"rotary_cache_write": fused_rotary_cache_write})
    measurements.show(points, fused_rotary_cache_write, guess_rotary_mb, tokens, where)

# %% [markdown]
# ## Attention in one pass
#
# Before softmax can compute the first weight, it needs the largest score, and then the sum of all exponentials. These are two
# passes over the scores; computing the weights is the third pass. One pass is enough if you keep a **running** maximum and a
# **running** sum, and rescale the sum whenever a larger score comes. FlashAttention uses this method.

# %% [markdown]
# {{exercise lab02.online_softmax}}


# %%
def online_softmax(blocks):
    """softmax(all scores) @ all values: [head_dim]. Uses each block only once."""
    # BEGIN SOLUTION
    largest, total, average = float("-inf"), 0.0, 0.0
    for scores, values in blocks:
        new = max(largest, float(scores.max()))
        if new == float("-inf"):
            continue
        shrink, weights = math.exp(largest - new), torch.exp(scores - new)
        total = total * shrink + weights.sum()
        average = average * shrink + weights @ values
        largest = new
    return average / total
    # END SOLUTION


# %%
check(online_softmax)

# %% [markdown]
# A decode step has only one query for each sequence and head. So there are few programs, and most of the GPU is idle while
# these programs read a long cache. Therefore **Flash-Decoding** also splits the cache into parts. Every program handles one
# **part** of the cache and stores a maximum, a sum and a weighted sum. Then the formula that you just wrote combines the parts,
# exactly as it combines blocks:

# %%
pictures.parts(length=10, block=4)

# %% [markdown]
# Such a kernel works on **tiles**, which are blocks with two dimensions. `[:, None]` makes a block `[n]` a column, and
# `[None, :]` makes it a row. A column combined with a row gives a tile of addresses or of numbers. `tl.max` and `tl.sum`
# return one number per row with `axis=1`, and one per column with `axis=0`. `tl.load(lengths + i)` loads a single number,
# because `i` is a number and not a block. The next kernel uses all these operations:


# %%
@triton.jit
def log_sum_kernel(x, lengths, out, rows, size, ROWS: tl.constexpr, SIZE: tl.constexpr):
    """One program per matrix [rows, size] of x: log(sum(exp(row))) of its first lengths[matrix] rows."""
    matrix = tl.program_id(0)
    row, column = tl.arange(0, ROWS), tl.arange(0, SIZE)
    seen = row < tl.load(lengths + matrix)  # one number compared with a block
    place = (matrix * rows + row[:, None]) * size + column[None, :]  # [ROWS, SIZE]
    both = seen[:, None] & (column < size)[None, :]
    tile = tl.load(x + place, mask=both, other=float("-inf")).to(tl.float32)
    top = tl.max(tile, axis=1)  # [ROWS]
    total = tl.sum(tl.exp(tile - top[:, None]), axis=1)
    tl.store(out + matrix * rows + row, top + tl.log(total), mask=seen)


if has_triton():
    x, lengths, out = torch.randn(4, 6, 10), torch.tensor([6, 1, 3, 5]), torch.zeros(4, 6, device=device)
    log_sum_kernel[(4,)](x.to(device), lengths.to(device), out, 6, 10, ROWS=8, SIZE=16)
    print("equal to torch's:", torch.allclose(out[0].cpu(), x[0].logsumexp(1)))


# %%
# Your next kernel calls this function to load its data; the cell below launches the kernel. The function looks up the slots
# of a part in the slot table. Then it makes a tile of addresses with the formula that you used in the rotary kernel.
@triton.jit
def load_part(q, k, v, table, lengths, width, head_dim, BLOCK: tl.constexpr, DIM: tl.constexpr):
    """Returns query [DIM], key and value [BLOCK, DIM], the masks seen [BLOCK] and inside [DIM], and the place of the part."""
    s, head, part, heads = tl.program_id(0), tl.program_id(1), tl.program_id(2), tl.num_programs(1)
    position, dim = part * BLOCK + tl.arange(0, BLOCK), tl.arange(0, DIM)
    seen, inside = position < tl.load(lengths + s), dim < head_dim
    slot = tl.load(table + s * width + position, mask=seen, other=0)
    place = (slot[:, None] * heads + head) * head_dim + dim[None, :]  # slot, head, dim
    both = seen[:, None] & inside[None, :]
    query = tl.load(q + (s * heads + head) * head_dim + dim, mask=inside, other=0.0)
    key, value = tl.load(k + place, mask=both, other=0.0), tl.load(v + place, mask=both, other=0.0)
    here = (s * heads + head) * tl.num_programs(2) + part  # this part's place in tops and in totals
    return query, key, value, seen, inside, here


# %%
def launch(kernel, query, keys, values, slot_table, lengths, block):
    """Starts one program per sequence, head and part. Returns sums [sequences, heads, parts, head_dim], and tops and totals
    [sequences, heads, parts].
    """
    (sequences, heads, head_dim), width = query.shape, slot_table.shape[1]
    parts, dim = triton.cdiv(width, block), triton.next_power_of_2(head_dim)  # cdiv rounds up
    sums = query.new_empty(sequences, heads, parts, head_dim)
    tops, totals = (query.new_empty(sequences, heads, parts) for _ in range(2))
    tensors = query, keys, values, slot_table, lengths, sums, tops, totals
    kernel[(sequences, heads, parts)](*tensors, width, head_dim, BLOCK=block, DIM=dim)
    return sums, tops, totals


# %%
# Predict: how many MB of keys and values are read? There are `tokens // 8` sequences (4, or 512 on a GPU) of 256 tokens, and 16
# heads of 64 numbers in fp32.
# BEGIN SOLUTION guess_cache_mb = None
guess_cache_mb = 2 * (tokens // 8) * 256 * 16 * 64 * 4 / 1e6
# END SOLUTION

# %% [markdown]
# {{exercise lab02.split_decode_attention}}


# %%
def split_decode_attention(query, keys, values, slot_table, lengths, block=64):
    """Attention of one query per sequence and head, as ops.decode_attention computes it: [sequences, heads, head_dim]."""
    sums, tops, totals = launch(part_kernel, query, keys, values, slot_table, lengths, block)
    # BEGIN SOLUTION
    share = torch.exp(tops - tops.amax(-1, keepdim=True))
    return (share[..., None] * sums).sum(2) / (share * totals).sum(-1, keepdim=True)
    # END SOLUTION


@triton.jit
def part_kernel(
    q, k, v, table, lengths, sums, tops, totals, width, head_dim, BLOCK: tl.constexpr, DIM: tl.constexpr
):
    query, key, value, seen, inside, here = load_part(
        q, k, v, table, lengths, width, head_dim, BLOCK, DIM
    )
    dim = tl.arange(0, DIM)
    # BEGIN SOLUTION pass
    score = tl.sum(query[None, :] * key, axis=1) / tl.sqrt(head_dim.to(tl.float32))
    score = tl.where(seen, score, float("-inf"))
    top = tl.max(score, axis=0)
    weight = tl.where(seen, tl.exp(score - top), 0.0)
    tl.store(tops + here, top)
    tl.store(totals + here, tl.sum(weight, axis=0))
    tl.store(sums + here * head_dim + dim, tl.sum(weight[:, None] * value, axis=0), mask=inside)
    # END SOLUTION


# %%
check(split_decode_attention)

# %%
if passed(online_softmax):
    engine.same_tokens("online_softmax", {"decode_attention": swaps.through_softmax(online_softmax)})
if predicted(cache_mb=guess_cache_mb) and (passed(split_decode_attention) or not has_triton()):
    attention = swaps.through_narrow_table(split_decode_attention)
    engine.same_tokens("attention kernel", {"decode_attention": attention})
    measurements.show(points, split_decode_attention, guess_cache_mb, tokens, where)

# %% [markdown]
# The separate steps move five times as many bytes: they first copy all keys and values out of their slots, and then read the
# copies. Your kernel reads each key and value once, in its slot.
#
# ## Matrix products, and what comes after them
#
# Libraries already multiply matrices well. But the result of a matrix product goes through memory before the next operation
# reads it, unless the next operation is an **epilogue**: the kernel of the product does it while the tile is still in
# registers. The function below computes the tile; you write the epilogue:


# %%
@triton.jit
def product_tile(x, weight, row, column, tokens, outs, SIZE: tl.constexpr):
    """Multiplies rows `row` of x [tokens, SIZE] by rows `column` of weight [outs, SIZE], in float32."""
    total = tl.zeros((row.shape[0], column.shape[0]), tl.float32)
    for begin in range(0, SIZE, 128):
        k = begin + tl.arange(0, 128)
        in_x = (row[:, None] < tokens) & (k[None, :] < SIZE)
        in_weight = (column[None, :] < outs) & (k[:, None] < SIZE)
        a = tl.load(x + row[:, None] * SIZE + k[None, :], mask=in_x, other=0.0)
        b = tl.load(weight + column[None, :] * SIZE + k[:, None], mask=in_weight, other=0.0)
        total = tl.dot(a, b, total, input_precision="ieee")
    return total


# %%
# Predict: how many MB do weight, input and output have together? The input has `tokens` rows (32, or 4,096 on a GPU) of 512
# numbers, the output has rows of 2,048 numbers, and all numbers are in fp32.
# BEGIN SOLUTION guess_gelu_mb = None
guess_gelu_mb = (512 * 2048 + tokens * 512 + tokens * 2048) * 4 / 1e6
# END SOLUTION

# %% [markdown]
# {{exercise lab02.fused_linear_gelu}}


# %%
def fused_linear_gelu(x, weight, bias):
    """gelu(x @ weight.T + bias), as ops.linear_gelu computes it: [tokens, outs]."""
    (count, size), outs = x.shape, len(weight)
    out = x.new_empty(count, outs)
    # BEGIN SOLUTION
    grid = triton.cdiv(count, 16), triton.cdiv(outs, 32)
    gelu_kernel[grid](x, weight, bias, out, count, outs, SIZE=size, ROWS=16, COLUMNS=32)
    # END SOLUTION
    return out


@triton.jit
def gelu_kernel(
    x, weight, bias, out, tokens, outs, SIZE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    # BEGIN SOLUTION pass
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    z = product_tile(x, weight, row, column, tokens, outs, SIZE)
    z += tl.load(bias + column, mask=column < outs, other=0.0)[None, :]
    z *= tl.sigmoid(2 * 0.7978845608 * (z + 0.044715 * z * z * z))
    mask = (row[:, None] < tokens) & (column[None, :] < outs)
    tl.store(out + row[:, None] * outs + column[None, :], z, mask=mask)
    # END SOLUTION


# %%
check(fused_linear_gelu)

# %%
if predicted(gelu_mb=guess_gelu_mb) and (passed(fused_linear_gelu) or not has_triton()):
    engine.same_tokens("GELU kernel", {"linear_gelu": fused_linear_gelu}, every=8)
    measurements.show(points, fused_linear_gelu, guess_gelu_mb, tokens, where)

# %% [markdown]
# With few tokens, nearly all bytes of a matrix product belong to the weight. So it helps to make the weight smaller:
# FasterTransformer stored it in **int8**. It used int8 only for batches of 1 and 2, because its kernel converts every value
# to a float first. Such a kernel is faster only as long as reading is the bottleneck.

# %%
# Predict: how many MB does the product read and write for one token with 2,048 inputs and 2,048 outputs?
# BEGIN SOLUTION guess_int8_mb = None
guess_int8_mb = (2048 * 2048 + 3 * 2048 * 4) / 1e6
# END SOLUTION

# %% [markdown]
# {{exercise lab02.int8_product}}


# %%
def int8_product(x, values, scales, rows=32, block=256):
    """x [tokens, size] times the int8 weight: values [outs, size], scales [outs]; [tokens, outs]."""
    (count, size), outs = x.shape, len(values)
    out = x.new_empty(count, outs)
    # BEGIN SOLUTION
    grid = triton.cdiv(outs, rows), count
    int8_kernel[grid](x, values, scales, out, outs, SIZE=size, BLOCK=block, ROWS=rows)
    # END SOLUTION
    return out


@triton.jit
def int8_kernel(
    x, values, scales, out, outs, SIZE: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr
):
    row, token = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1)
    # BEGIN SOLUTION pass
    total = tl.zeros((ROWS,), tl.float32)
    for begin in range(0, SIZE, BLOCK):
        k = begin + tl.arange(0, BLOCK)
        a = tl.load(x + token * SIZE + k, mask=k < SIZE, other=0.0)
        both = (row[:, None] < outs) & (k[None, :] < SIZE)
        w = tl.load(values + row[:, None] * SIZE + k[None, :], mask=both, other=0)
        total += tl.sum(w.to(tl.float32) * a[None, :], axis=1)
    total *= tl.load(scales + row, mask=row < outs, other=0.0)
    tl.store(out + token * outs + row, total, mask=row < outs)
    # END SOLUTION


# %%
check(int8_product)

# %%
if predicted(int8_mb=guess_int8_mb) and (passed(int8_product) or not has_triton()):
    small = swaps.through_int8(int8_product)
    engine.same_tokens("int8 kernel", small, engine=engine.quantized(), prompts=1, every=4)
    measurements.show(points, int8_product, guess_int8_mb, tokens, where)

# %%
# Tuning: each program reads the whole input, so `rows` decides how often the input is read. If the tiles are too large, there
# are too few programs to keep a GPU busy. FasterTransformer tries every choice on the user's own GPU and keeps the fastest
# (GEMM autotuning). If there is no GPU, the figure shows only bytes. A larger tile always needs fewer bytes, but it can take
# more time, and a figure of bytes does not show this.
if passed(int8_product):
    rows = [4, 8, 16, 32, 64]
    cost = measurements.sweep_rows(int8_product, rows)
    unit = "microseconds" if device.type == "cuda" else "MB (bytes, not time)"
    labels = {"xlabel": "rows of a tile", "ylabel": unit, "caption": where}
    display(plots.sweep_plot(rows, cost, log=False, title="int8 product, 512 x 512, by tile", **labels))

# %% [markdown]
# ## From logits to a token
#
# The last step of the model computes one logit for each token in its vocabulary (50,400 tokens in GPT-J 6B). From these logits
# you draw one token. Your function gets a uniform random number, made from a seed: the same seed gives the same text everywhere.

# %% [markdown]
# {{exercise lab02.sample_token}}


# %%
def sample_token(logits, temperature, top_k, top_p, share):
    """The id of the drawn token, an int."""
    # BEGIN SOLUTION
    probabilities = torch.softmax(logits.double() / temperature, 0)
    ordered, ids = probabilities.sort(descending=True, stable=True)
    if top_k:
        ordered[top_k:] = 0
    before = ordered.cumsum(0) - ordered
    ordered[before >= top_p * ordered.sum()] = 0
    sums = torch.zeros_like(ordered).scatter(0, ids, ordered).cumsum(0)
    return int(torch.searchsorted(sums, share * sums[-1], right=True))
    # END SOLUTION


# %%
check(sample_token)

# %%
if passed(sample_token):
    drawing = {"sample": swaps.through_rows(sample_token)}
    engine.same_tokens("sample_token", drawing, params=swaps.DRAWN)

# %% [markdown]
# ## A step that is captured once
#
# Launching itself takes time. If a GPU finishes its kernels faster than the host launches them, the GPU has to wait. A **CUDA
# graph** records the launches of a step once, and then replays all of them with a single launch. On a CPU, a single call into
# C++ has the same effect: it avoids the time that Python and torch take.

# %%
# Predict: how many times faster is a captured step of gptj-tiny on this machine?
# BEGIN SOLUTION guess_capture_gain = None
guess_capture_gain = 3
# END SOLUTION

# %% [markdown]
# {{exercise lab02.step_seconds}}


# %%
def step_seconds(kernel_seconds, launch_seconds, captured):
    """The time at which the last kernel of the step ends, in seconds."""
    # BEGIN SOLUTION
    if captured:
        return launch_seconds + sum(kernel_seconds)
    done = 0.0
    for index, seconds in enumerate(kernel_seconds):
        done = max(done, (index + 1) * launch_seconds) + seconds
    return done
    # END SOLUTION


# %%
check(step_seconds)

# %%
# The curve is your formula. The dashed lines are your guess and the gain measured on this machine. Where the curve meets the
# measured gain, read on the x axis how long one kernel of this machine runs.
if passed(step_seconds) and predicted(launches=guess_launches, capture_gain=guess_capture_gain):
    lengths = [0.5, 1, 2, 4, 8, 16, 32]  # microseconds of a kernel
    apart, whole = (
        [step_seconds([1e-6 * t] * launches, 5e-6, on) for t in lengths] for on in (False, True)
    )
    gains, lines = {"your formula, 5 us a launch": [a / b for a, b in zip(apart, whole)]}, {}
    if steps := step_launches.captured_step(device):
        gain = measure.ratio(steps["operation by operation"], steps["captured"])
        print("Operation by operation against captured:", gain.words)
        lines = {"your guess": [guess_capture_gain] * 7, f"this machine: {gain}": [gain.shown] * 7}
    labels = {"xlabel": "how long one kernel runs (microseconds)", "ylabel": "times faster when captured"}
    title = f"Time: what capturing {launches} launches gains"
    display(plots.sweep_plot(lengths, gains, limits=lines, title=title, caption=where, **labels))

# %% [markdown]
# ## Your speed ladder
#
# Each rung of the ladder below adds one improvement to the rung before it. The task is to generate 16 new tokens for each of 8
# sequences. On a GPU the rungs run your kernels; on a CPU they run labkit's CPU versions of these kernels. The rungs take turns
# while they are measured, because runs at different times cannot be compared. Lab 01 timed other tasks, so its rungs are on
# other ladders.
#
# **On a CPU** the first rungs are close together. The tensors of gptj-tiny fit into the processor's cache, so moving bytes
# takes little time. Most of the time goes to calls from Python. "GELU in packed products" is labkit's own engine: it stores
# the weights in the order in which the vector registers need them, and its products have bias and GELU as an epilogue.
# "Captured step" removes Python. The gain of the last rung is large because labkit's int8 product multiplies int8 numbers
# directly, if the CPU can: several int8 values fit in the place of one float. So this product is faster for 8 rows too.
# FasterTransformer's int8 product was not faster for 8 rows, because it multiplied floats.
#
# The second figure is the roofline. To the left of its bend, memory is the limit, and a step gets faster only if it moves fewer
# bytes. If a point is above the line, the processor's cache delivered the data. The cache is faster than the memory, and the
# line is drawn for the memory.

# %%
kernels = {
    "residual_layer_norm": "fused_residual_layer_norm",
    "rotary_cache_write": "fused_rotary_cache_write",
    "decode_attention": "split_decode_attention",
    "linear_gelu": "fused_linear_gelu",
}


def measure_rungs():
    is_gpu = device.type == "cuda"  # on a CPU, no rung runs your kernels
    mine = {name: solved(kernel) for name, kernel in kernels.items()} if is_gpu else {}
    return climb.climb(engine, {name: kernel for name, kernel in mine.items() if kernel})


if predicted(launches=guess_launches):
    rungs = measure.KeptRuns("02").keep_timings("rungs in turn", measure_rungs)
    ladder.add_timings(climb.TASK, rungs, where=where)
    display(plots.ladder_plot(ladder.of(climb.TASK), caption=where))


# %%
def measure_limits():
    return measure.ceilings(progress=measure.progress_bar("this machine's limits")).to_dict()


if points:
    limits = measure.Ceilings(**measure.KeptRuns("00").keep("limits", measure_limits))
    roof = limits.read_bytes_per_second, limits.flops_per_second["fp32"]
    title, caption = "The fused operations under the roofline", limits.caption(where)
    display(
        plots.roofline_plot(*roof, measurements.roofline_points(points), title=title, caption=caption)
    )

# %% [markdown]
# ## What you have now
#
# - You have a kernel of your own (five kernels if you did the extras), and a way to predict what the next kernel would save.
# - You have an engine in which each of your kernels ran and produced the same tokens as before.
# - You have measured each of the steps that made FasterTransformer fast as a rung of your ladder.
#
# Your points are in the panel at the top (*Look again*). Next: **lab 03**, where several GPUs share one model.
