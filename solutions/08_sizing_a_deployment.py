# %% [markdown]
# # Lab 08 · Sizing a deployment
#
# **After this lab you can** say, before you rent any GPU, how much memory a model needs, which batch size fits, what limits its
# speed, and how to divide it among GPUs; find the cheapest plan within a latency bound; and defend this plan against all
# others.
#
# Most GPUs of this lab are not in your machine. So you predict, and compare your predictions with measurements: those NVIDIA
# published, and your own.
#
# *{{lab 08: size; a good place for a break is before "A latency model of your own"}} · runs on any machine, with or without a GPU.*
#
# {{lab 08: core path}}

# %%
import math

import labkit
from labkit import measure
from labkit.lab import check, hint, passed, predicted, progress_panel, reset, solution, submit
from labkit.lab.lab08 import GPUS, figures, lab03, lab08, own_machine, planner_page, plans
from labkit.measure import plots
from labkit.precision import as_device

runs, device = measure.KeptRuns("08"), as_device()

# %%
progress_panel("08")

# %% [markdown]
# ## Bytes: the executive math
#
# The lecture begins with 175 billion weights of 2 bytes: more than any GPU holds. Three methods reduce the bytes on a GPU:
# **fewer bits** per weight (lab 05), **pruning** weights, and **dividing** them among GPUs (lab 03).
#
# NVIDIA's GPUs since Ampere have units for **2:4 sparsity**: of each group of 4 neighbours, 2 are zero and not stored. Each
# stored number needs an index: its place in the group.

# %%
lab08.two_of_four()

# %% [markdown]
# *An example:* 8 dense weights of 16 bits take 128 bits. In sparse form, 4 values of 16 bits and 4 indexes of 2 bits take 72
# bits: not half, but 56 %. If the values have 4 bits and share a scale of 16 bits in groups of 4, the weights take 4 · 4 + 4 ·
# 2 + 16 = 40 bits.

# %% [markdown]
# {{exercise lab08.stored_gib}}


# %%
def stored_gib(parameters, bits, sparse, group_size):
    """The size of the weights in GiB, a number."""
    # BEGIN SOLUTION
    each = bits + (16 / group_size if group_size else 0) + (2 if sparse else 0)
    stored = parameters / 2 if sparse else parameters
    return stored * each / 8 / 2**30
    # END SOLUTION


# %%
check(stored_gib)

# %% [markdown]
# **Predict:** how many GiB does GPT-3 175B take in 4 bits with groups of 32? How many with 2:4 sparsity as well?

# %%
# BEGIN SOLUTION guess_int4_gib, guess_sparse_int4_gib = None, None
guess_int4_gib, guess_sparse_int4_gib = 92, 60
# END SOLUTION
if passed(stored_gib) and predicted(int4_gib=guess_int4_gib, sparse_int4_gib=guess_sparse_int4_gib):
    formats, made = {"fp16": (16, 0), "int8": (8, 0), "int4": (4, 32)}, {}
    for sparse in (False, True):
        for name, (bits, group) in formats.items():
            made[name + sparse * ", 2:4"] = stored_gib(175_000_000_000, bits, sparse, group)
    print(f"fp16: {made['fp16']:.2f} GiB, which is {made['fp16'] * 2**30 / 1e9:.0f} GB")
    guesses = {"int4": guess_int4_gib, "int4, 2:4": guess_sparse_int4_gib}
    labels = {"ylabel": "GiB", "title": "The weights of GPT-3 175B", "limits": {"one GPU of 80 GiB": 80}}
    display(figures.guessed(made, guesses, **labels, caption="computed, not measured"))

# %% [markdown]
# Only int4 with 2:4 sparsity fits into one GPU of 80 GiB, and leaves little room. Is such a model still good? Lab 05 answers
# this for fewer bits.
#
# ## What is left: the KV cache
#
# The remaining memory is for the KV cache: a key and a value of `hidden` numbers, for each token and each layer. If it is full,
# a server must refuse requests.
#
# *An example:* with 2 layers, `hidden` 8 and 2 bytes per number, a token takes 2 · 2 · 8 · 2 = 64 bytes in the cache, and a
# sequence of 10 tokens takes 640 bytes. Two GPUs have 10,000 bytes each, of which 10 % is kept free, and the weights have
# 12,000 bytes. So each GPU has 9,000 - 6,000 = 3,000 bytes left. A sequence takes 320 bytes on each, so 9 fit.

# %% [markdown]
# {{exercise lab08.largest_batch}}


# %%
def largest_batch(model, gpu_bytes, reserve, shards, tokens, element_bytes):
    """The largest number of sequences that fit, a whole number."""
    # BEGIN SOLUTION
    room = gpu_bytes * (1 - reserve) - model["weight_bytes"] / shards
    each = 2 * model["layers"] * model["hidden"] * element_bytes * tokens / shards
    return max(0, math.floor(room / each))
    # END SOLUTION


# %%
check(largest_batch)

# %% [markdown]
# In fp16, GPT 20B has 44 layers, `hidden` 6,144 and 40.5 · 10⁹ bytes of weights. Sequences have 2,048 tokens, and an A100 has
# 80 GiB, of which a tenth is kept free. **Predict:** how many sequences fit on 1 GPU, and how many on 8? (8 times as many?)

# %%
# BEGIN SOLUTION guess_one_gpu, guess_eight_gpus = None, None
guess_one_gpu, guess_eight_gpus = 16, 200
# END SOLUTION
if passed(largest_batch) and predicted(one_gpu=guess_one_gpu, eight_gpus=guess_eight_gpus):
    model, made = plans.model_of("gpt-20b"), {}
    for shards in (1, 2, 4, 8):
        made[f"TP {shards}"] = largest_batch(model, 80 * 2**30, 0.1, shards, 2048, 2)
    guesses = {"TP 1": guess_one_gpu, "TP 8": guess_eight_gpus}
    labels = {"ylabel": "sequences", "title": "The largest batch of GPT 20B, 2,048 tokens", "log": True}
    display(figures.guessed(made, guesses, **labels, caption="fp16; computed, not measured"))

# %% [markdown]
# Eight GPUs hold more than 8 times as many sequences, because they share one copy of the weights. The next figure shows the
# memory that labkit's planner counts, including the activations and a workspace for driver and libraries. **Look at TP 1 with a
# batch of 16:** does it fit?

# %%
long = plans.rows_of("gpt-20b", [(1, 1), (2, 1)], (1, 8, 16, 32), input_tokens=1920, output_tokens=128)
title = "GPT 20B in fp16, 1,920 + 128 tokens: memory of one GPU"
figures.memory(long, 80, title=title, caption="A100 with 80 GiB; labkit's planner; not measured here")

# %% [markdown]
# It does not. Weights and cache leave a tenth of the memory free, as planned, but the activations of 16 long prompts and the
# workspace need more. A reserve is a guess until somebody counts what goes into it, so exercise 8.2 computes only an upper
# limit.
#
# ## When does a batch stop being free?
#
# A decode step reads all weights, for one sequence or a hundred. While reading takes longer than computing, a larger batch
# costs almost nothing. But each sequence also reads its own cache.
#
# *An example:* a model has 100 parameters in 200 bytes, and no cache. A device reads 10 bytes and computes 500 FLOPs per
# second. Reading takes 20 seconds. Each sequence takes 200 / 500 = 0.4 seconds to compute, so with a batch of B = 50, computing
# takes as long as reading. If each sequence also reads 2 bytes of cache, reading takes 0.2 seconds more for each: 20 + 0.2 B =
# 0.4 B, so B = 100.

# %% [markdown]
# {{exercise lab08.turning_batch}}


# %%
def turning_batch(parameters, weight_bytes, cache_bytes, flops_per_second, bytes_per_second):
    """The batch for which computing takes as long as reading, a number; None if there is none."""
    # BEGIN SOLUTION
    rest = 2 * parameters * bytes_per_second / flops_per_second - cache_bytes
    return weight_bytes / rest if rest > 0 else None
    # END SOLUTION


# %%
check(turning_batch)

# %% [markdown]
# By its data sheet, an A100 computes 312 · 10¹² FLOPs per second in fp16 and reads 2,039 · 10⁹ bytes per second. The next cell
# measures both for your machine (as lab 01 did). **Predict:** without a cache, at which batch size does decode become
# compute-bound on an A100 in fp16? And on this machine in fp32?

# %%
# BEGIN SOLUTION guess_a100, guess_here = None, None
guess_a100, guess_here = 150, 20
# END SOLUTION
if passed(turning_batch) and predicted(a100=guess_a100, here=guess_here):
    limits, made = runs.keep("this machine's limits", own_machine.limits_here), {}
    for name in ("t4-16gb", "a100-80gb", "h100-80gb", "h200-141gb"):
        rates = GPUS[name].rate("fp16"), GPUS[name].read_bytes_per_second
        made[name] = turning_batch(10**9, 2 * 10**9, 0, *rates)
    here = limits["flops_per_second"]["fp32"], limits["read_bytes_per_second"]
    made["this machine"] = turning_batch(10**9, 4 * 10**9, 0, *here)
    guesses = {"a100-80gb": guess_a100, "this machine": guess_here}
    labels = {"ylabel": "sequences", "title": "Below this batch, decode without a cache is memory-bound"}
    display(figures.guessed(made, guesses, **labels, caption=f"{device}, measured; GPUs: data sheets"))
    for tokens in (0, 80, 256, 512, 1024, 2048):
        cache = 2 * 44 * 6144 * 2 * tokens  # of GPT 20B
        batch = turning_batch(20_262_014_976, 40_524_029_952, cache, 312e12, 2039e9)
        print(f"GPT 20B on an A100, {tokens} cached tokens: batch {batch and round(batch)}")

# %% [markdown]
# With a few hundred cached tokens per sequence, GPT 20B **never** becomes compute-bound: each new sequence adds more reading
# time than computing time. Therefore GPUs for serving are chosen by their memory, and the cache is often stored in 8 bits.
#
# ## Links
#
# Tensor parallelism divides bytes and FLOPs among GPUs, but needs two all-reduces per layer (one for GPT-J). Lab 03 showed
# their ring:

# %%
lab03.ring(4)

# %% [markdown]
# *An example:* 4 ranks add up 4,000 bytes, a hop takes 1 microsecond, and the link sends 1 GB/s. A step sends 1,000 bytes and
# takes 1 + 1 = 2 microseconds. The 6 steps take 12 microseconds. With 4 bytes, they would still take 6 microseconds.

# %% [markdown]
# {{exercise lab08.all_reduce_ms}}


# %%
def all_reduce_ms(size, ranks, hop_seconds, bytes_per_second):
    """The milliseconds of an all-reduce of `size` bytes in a ring, a number."""
    # BEGIN SOLUTION
    steps = 2 * (ranks - 1)
    return 1000 * steps * (hop_seconds + size / ranks / bytes_per_second)
    # END SOLUTION


# %%
check(all_reduce_ms)

# %% [markdown]
# On paper, the two links of an A100 are:
#
# | link | a hop (assumed) | bytes per second, one direction |
# | --- | --- | --- |
# | NVLink 3 | 1 microsecond | 300 · 10⁹ |
# | PCIe 4 | 2 microseconds | 31.5 · 10⁹ |
#
# GPT 20B runs in fp16 on 8 A100 GPUs. **Predict:** how many milliseconds do all its all-reduces take in a decode step of batch
# 1 over NVLink? And in a prefill of 16 prompts of 60 tokens over PCIe 4?

# %%
# BEGIN SOLUTION guess_decode_ms, guess_prefill_ms = None, None
guess_decode_ms, guess_prefill_ms = 1, 60
# END SOLUTION
if passed(all_reduce_ms) and predicted(decode_ms=guess_decode_ms, prefill_ms=guess_prefill_ms):
    links, made = {"NVLink": plans.link_of(), "PCIe 4": plans.link_of(name="pcie4")}, {}
    for what, tokens in {"decode": 1, "prefill": 16 * 60}.items():
        for name, link in links.items():
            one = all_reduce_ms(2 * 6144 * tokens, 8, link["hop"], link["rate"])
            made[f"{what}, {name}"] = 88 * one
    guesses = {"decode, NVLink": guess_decode_ms, "prefill, PCIe 4": guess_prefill_ms}
    labels = {"ylabel": "milliseconds", "title": "All-reduces of GPT 20B on 8 A100", "log": True}
    display(figures.guessed(made, guesses, **labels, caption="from data sheets; hops are assumed"))

# %%
if passed(all_reduce_ms):
    kilobytes, lines = [4**power for power in range(11)], {}
    for name, link in links.items():
        for ranks in (2, 8):
            waits = [all_reduce_ms(1024 * size, ranks, link["hop"], link["rate"]) for size in kilobytes]
            lines[f"{name}, {ranks} GPUs"] = waits
    labels = {"xlabel": "kilobytes", "ylabel": "milliseconds", "title": "Hops first, then bytes"}
    display(plots.sweep_plot(kilobytes, lines, **labels))

# %% [markdown]
# On the left, the lines are flat: the hops decide, and a faster link helps little. On the right, the bytes decide. Your decode
# step (12 KB) is on the left, your prefill (12 MB) on the right. Between servers, a hop takes longer (labkit assumes five times
# as long). This gives a rule of thumb: use tensor parallelism inside a server, stages between servers. The last section tests
# it.

# %% [markdown]
# {{core path: go on at Your machine first}}

# %% [markdown]
# ## A latency model of your own
#
# Now compute a request's time from its parts: reading the weights, arithmetic, gaps between kernels, and all-reduces.
#
# *An example:* a model has 1 layer and 1 shard. A pass of 1 token takes 5 ms (reading), a pass of 60 tokens 9 ms (computing),
# and a gap 1 ms. So one request with a prompt of 60 tokens and 20 new tokens takes (9 + 1) + 19 · (5 + 1) = 124 ms.

# %% [markdown]
# {{exercise lab08.request_ms}}


# %%
def request_ms(model, gpu, link, shards, batch, prompt_tokens, new_tokens):
    """The milliseconds of a batch of requests, a number."""

    # BEGIN SOLUTION
    def once(tokens):
        reading = model["weight_bytes"] / shards / gpu["read"]
        computing = 2 * tokens * model["parameters"] / shards / gpu["flops"]
        one = link["hop"] + 2 * tokens * model["hidden"] / shards / link["rate"]
        return max(reading, computing) + model["layers"] * (gpu["gap"] + 2 * 2 * (shards - 1) * one)

    return 1000 * (once(batch * prompt_tokens) + (new_tokens - 1) * once(batch))
    # END SOLUTION


# %%
check(request_ms)

# %% [markdown]
# NVIDIA published FasterTransformer's latencies of GPT 20B on A100 GPUs, for TP 1 to 8 and batches of 1 to 256. The next cell
# gives your latency model first the rates of the data sheet, then those that software reaches. labkit's planner adds the cache,
# the activations and the choice of tokens; it was fitted to the published rows of all **other** lengths. **Predict:** with the
# data sheet's rates, how large is the median error of your model in percent?

# %%
# BEGIN SOLUTION guess_off = None
guess_off = 40
# END SOLUTION
if passed(request_ms) and predicted(off=guess_off):
    model, link, truth = plans.model_of("gpt-20b"), plans.link_of(), plans.published("gpt-20b")
    sheet, fitted = {"read": 2039e9, "flops": 312e12, "gap": 0.0}, plans.fit_to_other_lengths()
    series = {"labkit's planner": [plans.ms_of("gpt-20b", plan, fitted) for plan in truth]}
    for name, gpu in {"data sheet": sheet, "reached rates": plans.reached_by(found=fitted)}.items():
        mine = [request_ms(model, gpu, link, tp, batch, 60, 20) for tp, _, batch in truth]
        series[f"yours, {name}"] = mine
    off = {name: figures.median_error(values, truth) for name, values in series.items()}
    labels = {"ylabel": "median error in %", "title": "GPT 20B, 60 + 20 tokens, against the table"}
    display(figures.guessed(off, {"yours, data sheet": guess_off}, "found", **labels))
    display(figures.against(list(truth.values()), series, title="Predicted and published"))

# %% [markdown]
# A data sheet alone is too optimistic, because it leaves out many small costs. Each is a number in the planner's fit;
# `labkit.planning.efficiencies` names them all.

# %% [markdown]
# ## Your machine first
#
# The next cell fits labkit's latency model to **two** measurements of your machine: a batch of 1 shows how fast it reads, and a
# batch of 64 how fast it computes. Batches of 4 and 16 are predicted, then measured. Each call has new prompts, because
# labkit's engine caches the prompts it has seen. **Predict:** how many times as long as a batch of 1 does a batch of 16 take?

# %%
# BEGIN SOLUTION guess_sixteen = None
guess_sixteen = 4
# END SOLUTION
engine = labkit.load("gptj-tiny", device=device)
if predicted(sixteen=guess_sixteen):
    limits = runs.keep("this machine's limits", own_machine.limits_here)
    measured = lambda: own_machine.seconds_of(engine, (1, 4, 16, 64))
    timings = runs.keep_timings("batches of new prompts", measured)
    found = own_machine.predictions(engine, limits, timings)
    own_machine.tell(timings, found)
    display(own_machine.figure(timings, found, {"16": guess_sixteen}, caption=str(device)))

# %% [markdown]
# Are the times measured for batches of 4 and 16 within the planner's whiskers? `gptj-tiny` fits into a processor's caches,
# which the planner does not model. (If it misses even a fitted batch, the machine was busy.) So look at the interval before you
# believe a prediction.
#
# ## TP x PP for GPT 20B under 300 ms
#
# In the lecture's table, GPT 20B's lowest latency is 230 ms (99th percentile); in this lab's table, 212 ms. Your users accept
# 300 ms for a prompt of 60 tokens and 20 new tokens, and you have one server with 8 A100 GPUs. A plan divides the model in two
# ways:

# %%
lab08.division(tensor=4, stages=2)

# %% [markdown]
# Among the plans within the bound, the best has the most tokens per second **per GPU**: it is the cheapest, because you pay for
# GPUs.
#
# *An example:* plan A has 2 GPUs, 250 ms and 400 tokens/s, B has 4 GPUs, 200 ms and 900 tokens/s, and C has 1 GPU, 310 ms and
# 300 tokens/s. C is too slow. A generates 200 tokens/s per GPU and B 225, so B wins.

# %% [markdown]
# {{exercise lab08.choose_plan}}


# %%
def choose_plan(plans, bound_ms, gpu_gib):
    """The best plan of a list, a dictionary; None if no plan is allowed."""
    # BEGIN SOLUTION
    allowed = [plan for plan in plans if plan["ms"] <= bound_ms and plan["gib"] <= gpu_gib]

    def worth(plan):
        gpus = plan["tensor_parallel"] * plan["pipeline_parallel"]
        return plan["tokens_per_second"] / gpus, -plan["ms"]

    return max(allowed, key=worth, default=None)
    # END SOLUTION


# %%
check(choose_plan)

# %% [markdown]
# **Predict:** which TP and batch size does the best plan have?

# %%
# BEGIN SOLUTION guess_tensor_parallel, guess_batch = None, None
guess_tensor_parallel, guess_batch = 4, 8
# END SOLUTION
powers = [2**power for power in range(9)]
if passed(choose_plan) and predicted(tensor_parallel=guess_tensor_parallel, batch=guess_batch):
    fitted = plans.fit_to_other_lengths()  # to tables without 60 + 20 tokens
    rows = plans.rows_of("gpt-20b", plans.layouts("gpt-20b", gpus=8), powers, found=fitted)
    best = choose_plan(rows, 300, 80)
    made = {"TP": best["tensor_parallel"], "batch": best["batch"]}
    guesses = {"TP": guess_tensor_parallel, "batch": guess_batch}
    display(figures.guessed(made, guesses, "chosen", ylabel="number", title="GPT 20B under 300 ms"))
    labels = {"title": "Predicted plans, GPT 20B, 8 A100", "caption": "fp16, NVLink, 60 + 20 tokens"}
    display(figures.front(rows, 300, best, **labels))

# %%
if passed(choose_plan) and predicted(tensor_parallel=guess_tensor_parallel, batch=guess_batch):
    truth = plans.published("gpt-20b")
    print("your choice:", plans.told(best, truth))
    print(plans.best_published(truth, 300))
    if passed(all_reduce_ms):
        link, size, shards = plans.link_of(), 2 * 6144 * best["batch"], best["tensor_parallel"]
        prompts, token = (all_reduce_ms(n * size, shards, link["hop"], link["rate"]) for n in (60, 1))
        print(plans.links_told(best, 88 * (prompts + 19 * token), fitted))

# %% [markdown]
# Why does the cell say "mostly link", if your `all_reduce_ms` finds so little time? The planner counts everything that an
# all-reduce waits for as link time. This request has 1,760 all-reduces, most of them tiny, so hops and software cost more than
# bytes, and twice the bandwidth would hardly help.
#
# Why not 8 copies on single GPUs? One GPU needs more than half a second for these tokens, with any batch. Why no stages? They
# divide the weights as well as shards do, but a token passes through them one after the other: stages make a model *fit*,
# shards make it *fast*.
#
# labkit's search finds the best plan for any model. It also tries TP 3 and TP 6, for which nobody published latencies. Is one
# of them better than your plan, and would you trust it? Then try the menus: PCIe instead of NVLink, int8, or a bound of 100 ms.

# %%
planner_page.show()

# %%
# This cell shows a best plan without menus, for a printed page.
planner_page.best_plan("gpt-20b", "a100-80gb", link="pcie4", precision="fp16", gpus=8, bound_ms=600)

# %% [markdown]
# {{core path: go on at Defend a plan for 530B}}

# %% [markdown]
# ## What does it cost?
#
# GPU prices change every month, so labkit has none: you give your own.
#
# *An example:* 2 GPUs cost 3.00 an hour each, generate 1,000 tokens per second together, and are busy half the time. In an hour
# they cost 6.00 and generate 1.8 million tokens, so a million tokens cost 3.33.

# %% [markdown]
# {{exercise lab08.price_per_million}}


# %%
def price_per_million(price, gpus, tokens_per_second, busy):
    """The price of a million new tokens, a number."""
    # BEGIN SOLUTION
    return price * gpus / (3600 * busy * tokens_per_second) * 1e6
    # END SOLUTION


# %%
check(price_per_million)

# %% [markdown]
# Your machine ran batches of 1, 4, 16 and 64. The next cell assumes that an hour of it costs 0.10 (change this price).
# **Predict:** how many times cheaper is a token with a batch of 64 than with a batch of 1?

# %%
# BEGIN SOLUTION guess_cheaper = None
guess_cheaper = 8
# END SOLUTION
hour_here, hour_a100 = 0.10, 2.00  # your prices, in your currency
if passed(price_per_million) and predicted(cheaper=guess_cheaper):
    timings = runs.keep_timings(
        "batches of new prompts", lambda: own_machine.seconds_of(engine, (1, 4, 16, 64))
    )
    speeds = own_machine.tokens_per_second(timings)
    rates = [row["tokens_per_second"] for row in plans.rows_of("gpt-20b", [(8, 1)], speeds)]
    here = [price_per_million(hour_here, 1, speed, 1.0) for speed in speeds.values()]
    there = [price_per_million(hour_a100, 8, rate, 1.0) for rate in rates]
    lines = {"gptj-tiny here, measured": here, "GPT 20B on 8 A100, predicted": there}
    labels = {"xlabel": "batch", "ylabel": "price of a million tokens", "title": "Cost against batch"}
    display(plots.sweep_plot(list(speeds), lines, **labels))
    made, labels = {"batch 64": here[0] / here[-1]}, {"ylabel": "times cheaper than batch 1"}
    display(figures.guessed(made, {"batch 64": guess_cheaper}, "measured", **labels, title="Cost here"))

# %% [markdown]
# A large batch is cheap, but slow for each user: the latency bound decides how large it may be.
#
# ## A million requests a day
#
# *An example:* 86,400 requests a day are 1 per second. In the evening, 3 times as many arrive. An instance answers 2 per
# second, and may be busy half the time, so it gets 1 per second. So 3 instances are needed, and 1 spare in case one fails: 4.

# %% [markdown]
# {{exercise lab08.instances_needed}}


# %%
def instances_needed(requests_per_day, peak, per_instance, most_busy, spare):
    """The number of instances, a whole number."""
    # BEGIN SOLUTION
    busiest = requests_per_day / 86400 * peak
    return math.ceil(busiest / (per_instance * most_busy)) + spare
    # END SOLUTION


# %%
check(instances_needed)

# %%
if passed(instances_needed):
    rows = plans.rows_of("gpt-175b", [(8, 1)], (1, 4, 16, 64))
    for row in rows:
        each = row["tokens_per_second"] / plans.OUTPUT_TOKENS
        count = instances_needed(1_000_000, 3.0, each, 0.7, 1)
        print(f"{row['name']}: {row['ms']:.0f} ms, {each:.1f} requests/s: {count} instances of 8 GPUs")

# %% [markdown]
# These are predictions for GPT-3 175B on A100 GPUs. An instance is busy for at most 70 % of the time, because requests arrive
# at random, and an always busy server has an endless queue. The page *A million requests a day* (`docs/million_requests.md`)
# simulates such a deployment, with failures.

# %% [markdown]
# ## Defend a plan for 530B
#
# The lecture's largest model is Megatron-Turing NLG 530B. You have 32 A100 GPUs, and your users accept 2 seconds for 60 prompt
# tokens and 20 new ones. A plan for so much money needs reasons: why this plan, and what is wrong with each of the others? And
# a prediction can be wrong, so the **upper end** of its interval must meet the bound. This is stricter than exercise 8.6 and
# labkit's search, which compare the prediction itself.

# %% [markdown]
# {{exercise lab08.defend}}


# %%
def defend(plans, bound_ms, gpu_gib):
    """{name of a plan: "too large", "too slow", "fewer tokens" or "chosen"}."""
    # BEGIN SOLUTION
    reasons, left = {}, []
    for plan in plans:
        gpus = plan["tensor_parallel"] * plan["pipeline_parallel"]
        if plan["gib"] > gpu_gib:
            reasons[plan["name"]] = "too large"
        elif plan["high_ms"] > bound_ms:
            reasons[plan["name"]] = "too slow"
        else:
            reasons[plan["name"]] = "fewer tokens"
            left.append((plan["tokens_per_second"] / gpus, plan["name"]))
    if left:
        reasons[max(left)[1]] = "chosen"
    return reasons
    # END SOLUTION


# %%
check(defend)

# %% [markdown]
# The next cell has 72 plans: 8 ways to divide the model, each with the 9 batch sizes 1, 2, 4 … 256. In fp16, the weights take 2
# · 530 · 10⁹ bytes. With TP 16, a batch of 1 takes about 1,360 ms (predicted); the upper end of an interval is about a quarter
# above the prediction. The 105 layers can be divided by 3, 5 and 7, not by 2 or 4. The 8 ways are:
#
# | TP | PP |
# | --- | --- |
# | 4 | 1, 3, 5, 7 |
# | 8 | 1, 3 |
# | 16, 32 | 1 |
#
# **Predict:** how many plans are too large for 80 GiB? How many of the others are too slow?

# %%
# BEGIN SOLUTION guess_too_large, guess_too_slow = None, None
guess_too_large, guess_too_slow = 20, 30
# END SOLUTION
if passed(defend) and predicted(too_large=guess_too_large, too_slow=guess_too_slow):
    pairs = plans.layouts("gpt-530b", gpus=32, tensor=(4, 8, 16, 32), stages=(1, 3, 5, 7))
    rows = plans.rows_of("gpt-530b", pairs, powers, found=plans.fit_to_other_lengths())
    why = defend(rows, 2000, 80)
    reasons = ("too large", "too slow", "fewer tokens", "chosen")
    made = {reason: list(why.values()).count(reason) for reason in reasons}
    guesses = {"too large": guess_too_large, "too slow": guess_too_slow}
    display(figures.guessed(made, guesses, ylabel="plans", title=f"{len(rows)} plans for 530B"))

# %%
if passed(defend) and predicted(too_large=guess_too_large, too_slow=guess_too_slow):
    best = next((row for row in rows if why[row["name"]] == "chosen"), None)
    fits = [row for row in rows if why[row["name"]] != "too large"]
    caption = "A100 80GB, fp16, 60 + 20 tokens; predicted by labkit from tables of other lengths"
    display(figures.front(fits, 2000, best, title="Plans for 530B that fit the memory", caption=caption))
    shown = [row for row in rows if row["batch"] == 16]
    display(figures.memory(shown, 80, title="530B, batch 16: memory of one GPU", caption=caption))
    truth = plans.published("gpt-530b")
    print("chosen:", plans.told(best, truth) if best else "no plan")
    print(plans.best_published(truth, 2000))
    found, pairs = plans.fit_to_other_lengths(), plans.layouts("gpt-20b", gpus=8)
    small = defend(plans.rows_of("gpt-20b", pairs, powers, found=found), 300, 80)
    print(
        "GPT 20B under 300 ms by this rule:",
        {why: name for name, why in small.items()}.get("chosen", "no plan"),
    )

# %% [markdown]
# **The best plan breaks the rule of thumb:** TP 32 spans four servers. This is worthwhile, because each GPU reads only 1/32 of
# the weights per token. With TP 8 x PP 3, the token passes three stages one after the other, and in each, a GPU reads 1/8 of
# the stage's weights: the links take less time, but the reading takes more.
#
# **Caution has a price:** the best published row meets the bound and is cheaper than your plan. Its prediction meets the bound
# as well, so labkit's search takes it; but its interval ends above the bound, so your rule rejects it. Your rule also rejects
# all plans for GPT 20B, even yours.
#
# Write your defence in two sentences. What limits this plan? If the bound were halved, would you pay for a faster link, more
# GPUs, or fewer bits? Ask the planner, for example `planner_page.best_plan("gpt-530b", gpus=64, bound_ms=1000)`.
#
# *An example, for GPT 20B under 300 ms:* "We take TP 8 with a batch of 16, because with fewer shards each GPU reads too many
# bytes for a token, and stages do not make a token faster. The all-reduces limit this plan. If the bound is halved, the planner
# finds nothing to buy: even int8 and H100 GPUs are too slow, because hops and launches take as long as before."
#
# *Your defence:* …
#
# ## What you have now
#
# - Short formulas for memory, batch size, link, latency and price.
# - The measured errors of such predictions, for published machines and for yours.
# - A plan, with a reason against every other. `labkit plan` writes one in a second, for any GPT and any GPU of its catalogue.
#
# Your points are in the panel at the top (*Look again*). `submit()` makes a copy of this notebook for your instructor.

# %%
progress_panel("08")
