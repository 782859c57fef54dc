# %% [markdown]
# # Lab 01 · Hugging Face baseline
#
# **After this lab you can** run GPT-J through `transformers`, time it correctly, time prefill and decode separately, compute
# the size of the KV cache, measure several batch sizes and lengths, and say how far a decode step is from the limit of the
# machine. Your measurements become the rungs of your first **speed ladder**; later labs add ladders for other tasks.
#
# *{{lab 01: size}} · runs on any machine; if there is a GPU, the same cells use it.*
#
# {{lab 01: core path}}
#
# Lab 00 explains how checks, hints and predictions work. Close other programs before you measure.

# %%
import functools
import time
import warnings

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, logging

import labkit
from labkit import measure
from labkit.checkpoints import fetch
from labkit.lab import check, hint, passed, predicted, progress_panel, reset, solution, submit
from labkit.lab.lab01 import AsyncDevice, pictures
from labkit.measure import plots

warnings.filterwarnings("ignore", "`past_key_values`", FutureWarning)  # since 5.24
logging.set_verbosity_error()
runs, ladder = measure.KeptRuns("01"), measure.Ladder()

# %%
progress_panel("01")

# %% [markdown]
# ## GPT-J through `transformers`
#
# The built-in model is an ordinary Hugging Face directory, so `transformers` loads it unchanged. You only run the model, so
# gradients are switched off for the whole notebook.

# %%
device = "cuda" if torch.cuda.is_available() else "cpu"
path = fetch("gptj-tiny").path
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).to(device).eval()
torch.set_grad_enabled(False)
config = labkit.GPTJConfig.from_file(path / "config.json")
where = f"{device}, fp32, {torch.get_num_threads()} threads, torch {torch.__version__}"
one_user = measure.Task("gptj-tiny", sequences=1, prompt_tokens=64, new_tokens=64)

# %%
prompt = tokenizer("The condition of our country", return_tensors="pt").to(device)
made = model.generate(
    **prompt, max_new_tokens=40, do_sample=True, temperature=0.8, top_p=0.95, pad_token_id=0
)
print(tokenizer.decode(made[0]))

# %% [markdown]
# ## A clock that is not fooled
#
# A GPU works in parallel with your program: a call puts work on a queue and returns at once. If you read the clock at that
# moment, most of the work is not done yet:

# %%
pictures.queue()

# %% [markdown]
# You may have no GPU, so this lab has a small **asynchronous device** that behaves like a GPU. It has its own clock. Look at
# what a naive timing reports for a step that takes about 2 ms:

# %%
gpu = AsyncDevice(seed=1)
for run in range(6):
    before = gpu.clock()
    gpu.launch()
    naive = gpu.clock() - before
    gpu.synchronize()
    honest = gpu.clock() - before
    print(f"run {run}: naive {1e6 * naive:5.0f} us, honest {1e3 * honest:6.2f} ms")

# %% [markdown]
# The naive timing is wrong by a factor of several hundred, and nothing warns you. The first runs are slow too: kernels are
# compiled, memory is allocated, and caches are cold.

# %% [markdown]
# {{exercise lab01.time_runs}}


# %%
def time_runs(call, synchronize, clock, warmup, runs):
    """A list: the seconds of each of `runs` runs, after `warmup` runs that do not count."""
    # BEGIN SOLUTION
    for _ in range(warmup):
        call()
    times = []
    for _ in range(runs):
        synchronize()
        before = clock()
        call()
        synchronize()
        times.append(clock() - before)
    return times
    # END SOLUTION


# %%
check(time_runs)

# %% [markdown]
# Now use your function to time the model: one forward pass over 128 tokens. On this machine, the function `wait` is used as
# `synchronize`.


# %%
def wait():
    if device == "cuda":
        torch.cuda.synchronize()


ids = torch.randint(config.vocab_size, (1, 128), device=device)
if passed(time_runs):
    times = [1e3 * t for t in time_runs(lambda: model(ids), wait, time.perf_counter, 0, 20)]
    labels = {
        "xlabel": "run",
        "ylabel": "ms",
        "title": "128 tokens, from the first run on",
        "caption": where,
    }
    display(plots.sweep_plot(range(1, 21), {"forward pass": times}, log=False, **labels))

# %% [markdown]
# Which runs would you count? Because some runs are slow, this course measures after a warm-up and reports a **median** with a
# **spread**. Programs that are compared run in turn: A B A B. From now on, `measure.compare` measures in this way for you.
#
# ## Prefill and decode
#
# Generating text has two phases. **Prefill** runs the whole prompt through the model in one call. **Decode** then passes one
# token in each call, and reads the keys and values of earlier tokens from the cache. `model.generate` hides both phases; you
# write them yourself.

# %% [markdown]
# {{exercise lab01.greedy_decode}}


# %%
def greedy_decode(model, input_ids, new_tokens):
    """The greedy continuation of `input_ids` [batch, length]: [batch, new_tokens]."""
    # BEGIN SOLUTION
    out = model(input_ids, use_cache=True)
    token = out.logits[:, -1].argmax(-1, keepdim=True)
    made = [token]
    for _ in range(new_tokens - 1):
        out = model(token, past_key_values=out.past_key_values, use_cache=True)
        token = out.logits[:, -1].argmax(-1, keepdim=True)
        made.append(token)
    return torch.cat(made, dim=1)
    # END SOLUTION


# %%
check(greedy_decode)

# %% [markdown]
# The check used a tiny model that counts the tokens of each call. With the real model, your function must produce the same text
# as `model.generate`:

# %%
if passed(greedy_decode):
    mine = greedy_decode(model, prompt["input_ids"], 40)
    theirs = model.generate(
        **prompt, max_new_tokens=40, min_new_tokens=40, do_sample=False, pad_token_id=0
    )
    same = torch.equal(mine, theirs[:, prompt["input_ids"].shape[1] :])
    print(tokenizer.decode(mine[0]), f"\n\nequal to model.generate: {same}")

# %% [markdown]
# Greedy text repeats itself, because the likeliest word is often one that was just used. But greedy text is ideal for
# measuring, because it is the same every time.
#
# ### What the cache saves

# %%
pictures.positions(prompt=4, new=4)

# %% [markdown]
# {{exercise lab01.positions_processed}}


# %%
def positions_processed(prompt_tokens, new_tokens, cached):
    """The total number of positions that run through the model, an int."""
    # BEGIN SOLUTION
    if cached:
        return prompt_tokens + new_tokens - 1
    return new_tokens * prompt_tokens + new_tokens * (new_tokens - 1) // 2
    # END SOLUTION


# %%
check(positions_processed)

# %%
if passed(positions_processed):
    lengths = [1, 4, 16, 64, 256, 384]
    lines = {
        name: [positions_processed(128, n, on) for n in lengths]
        for name, on in (("no cache", False), ("cache", True))
    }
    labels = {"xlabel": "new tokens", "ylabel": "positions run"}
    display(
        plots.sweep_plot(
            lengths, lines, **labels, title="Work for a prompt of 128 tokens", caption="your function"
        )
    )

# %% [markdown]
# For a prompt of 64 tokens and 64 new tokens, your function says how many times more positions run without a cache than with
# a cache. **Predict the measured time: how many times faster is decoding with a cache?** Is the measured factor the same as the
# factor of positions, or is it larger or smaller? Remember that positions are not the only cost of a step.

# %%
if passed(positions_processed):
    counted = positions_processed(64, 64, False) / positions_processed(64, 64, True)
    print(f"{counted:.1f} times as many positions without a cache")
# BEGIN SOLUTION guess_cache_speedup = None
guess_cache_speedup = 10
# END SOLUTION


# %%
def measure_cache():
    """The times for 64 new tokens after a prompt of 64 tokens, without a cache and with a cache, in turn."""
    ids = torch.randint(config.vocab_size, (1, 64), device=device)
    options = {"max_new_tokens": 64, "min_new_tokens": 64, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones_like(ids)
    calls = {
        name: lambda on=on: model.generate(ids, attention_mask=mask, use_cache=on, **options)
        for name, on in (("Hugging Face, no cache", False), ("Hugging Face", True))
    }
    bar = measure.progress_bar("without and with a cache")
    return measure.compare(
        calls, device=device, warmup=1, min_runs=3, max_runs=10, max_seconds=12, progress=bar
    )


# %%
if passed(positions_processed) and predicted(cache_speedup=guess_cache_speedup):
    found = runs.keep_timings("without and with a cache", measure_cache)
    gain = measure.ratio(found["Hugging Face, no cache"], found["Hugging Face"])
    print("Without a cache against with one:", gain.words)
    ladder.add_timings(one_user, found, where=where)
    bars = {"your prediction": [guess_cache_speedup], "positions": [counted], "measured": [gain.shown]}
    title = f"What the KV cache gains: {gain}"
    display(
        plots.prediction_plot(["64 + 64 tokens"], bars, ylabel="times faster", title=title, caption=where)
    )

# %% [markdown]
# If the bar *measured* is well below the bar *positions*, each step has a cost that does not depend on its positions. The
# profile below shows this cost.

# %% [markdown]
# {{core path: go on at Sweeps: batch and length}}

# %% [markdown]
# ### What the cache costs

# %% [markdown]
# {{exercise lab01.cache_bytes}}


# %%
def cache_bytes(cache):
    """Bytes of all tensors in a list of (keys, values) pairs, an int."""
    # BEGIN SOLUTION
    return sum(t.numel() * t.element_size() for pair in cache for t in pair)
    # END SOLUTION


# %%
check(cache_bytes)

# %%
if passed(cache_bytes):
    past = model(
        torch.randint(config.vocab_size, (3, 100), device=device), use_cache=True
    ).past_key_values
    weighed = cache_bytes([(layer.keys, layer.values) for layer in past.layers])
    print(f"3 x 100 tokens: {weighed:,} bytes weighed, {300 * config.kv_bytes_per_token(4):,} by lab 00")

# %% [markdown]
# In `transformers` the KV cache grows by one token per step: in every step, every layer allocates new tensors and copies the
# old tensors into them. In lab 02 you write a cache that is allocated once.

# %% [markdown]
# ## Sweeps: batch and length
#
# A server seldom has a single user. What happens to the speed when a step generates tokens for 16 sequences at once? Your
# roofline from lab 00 predicts the answer. First, turn the raw seconds of a sweep into tokens per second:

# %% [markdown]
# {{exercise lab01.throughput}}


# %%
def throughput(batch, prompt_tokens, new_tokens, prefill_seconds, decode_seconds):
    """Tokens per second in the median run: {"prefill": ..., "decode": ..., "per user": ...}."""
    # BEGIN SOLUTION
    import statistics

    decode = statistics.median(decode_seconds)
    return {
        "prefill": batch * prompt_tokens / statistics.median(prefill_seconds),
        "decode": batch * (new_tokens - 1) / decode,
        "per user": (new_tokens - 1) / decode,
    }
    # END SOLUTION


# %%
check(throughput)

# %% [markdown]
# Below, `run_once` times your own `greedy_decode` twice on a random prompt. In the first run, `greedy_decode` generates one new
# token, so the time is the time of the prefill alone. In the second run, it generates all new tokens, so the time is the time
# of prefill plus decode. `sweep` measures several points in turn. **Predict** before you run the third cell: how many times
# more tokens per second does *decode* produce in total with batch 16 than with batch 1?


# %%
def run_once(batch, prompt_tokens, new_tokens):
    """The seconds that your greedy_decode takes for the prefill, and for the decode steps after it."""
    ids = torch.randint(config.vocab_size, (batch, prompt_tokens), device=device)
    last_only = functools.partial(
        model, logits_to_keep=1
    )  # only the last position's logits, as in generate
    seconds = []
    for tokens in (1, new_tokens):
        wait()
        started = time.perf_counter()
        greedy_decode(last_only, ids, tokens)
        wait()
        seconds.append(time.perf_counter() - started)
    return seconds[0], max(seconds[1] - seconds[0], 1e-9)  # noise can make the difference negative


# %%
batches = [1, 2, 4, 8, 16]


def sweep(points, rounds=5):
    """The seconds of each point (batch, prompt_tokens, new_tokens): one pair [prefill, decode] per round."""
    bar = measure.progress_bar("sweep")
    taken = [[] for _ in points]
    with measure.Contention() as others:  # other programs on the processor
        for done in range(rounds + 1):
            for index, point in enumerate(points):
                seconds = run_once(*point)
                taken[index] += [seconds] if done else []  # the first round warms up
                bar(done * len(points) + index + 1, (rounds + 1) * len(points))
    return {"seconds": taken, "disturbed": others.words}


# %%
# BEGIN SOLUTION guess_batch_gain = None  # your prediction
guess_batch_gain = 10
# END SOLUTION
if passed(greedy_decode) and passed(throughput) and predicted(batch_gain=guess_batch_gain):
    run = runs.keep("batch sweep", lambda: sweep([(batch, 64, 24) for batch in batches]))
    by_batch, disturbed = run["seconds"], run["disturbed"]
    rates = [throughput(b, 64, 24, *zip(*taken)) for b, taken in zip(batches, by_batch)]
    lines = {name: [rate[name] for rate in rates] for name in ("prefill", "decode", "per user")}
    whole_16 = measure.Timing(tuple(prefill + decode for prefill, decode in by_batch[-1]), disturbed)
    batch_16 = measure.Task("gptj-tiny", sequences=16, prompt_tokens=64, new_tokens=24)
    ladder.add_timings(batch_16, {"Hugging Face": whole_16}, where=where)
    title = "More sequences in a step" + ", on a busy machine" * bool(disturbed)
    display(
        plots.sweep_plot(
            batches, lines, xlabel="batch", ylabel="tokens per second", title=title, caption=where
        )
    )

# %%
if passed(greedy_decode) and passed(throughput) and predicted(batch_gain=guess_batch_gain):
    times = (
        [16 * d for _, d in by_batch[0]],
        [d for _, d in by_batch[-1]],
    )  # for the same number of tokens
    gain = measure.ratio(*(measure.Timing(tuple(seconds), disturbed) for seconds in times))
    print("16 x 23 tokens at batch 1 against batch 16:", gain.words)
    shown = {
        "your prediction": [guess_batch_gain],
        "if a step cost the same": [16],
        "measured": [gain.shown],
    }
    labels = {"ylabel": "times as many tokens per second", "caption": where}
    display(plots.prediction_plot(["decode"], shown, title=f"Decode at batch 16: {gain}", **labels))

# %% [markdown]
# Decode gains from batching because the weights are read once for all sequences. Prefill gains less, because arithmetic
# limits it even at batch 1. But each user gets *fewer* tokens per second than a single user would get alone: batching
# improves the throughput and makes the latency worse.

# %% [markdown]
# {{core path: go on at Where does the time go?}}

# %% [markdown]
# Now vary the length of the text instead of the batch size. A longer text has more keys and values, and every step must read
# all of them:

# %%
lengths = [16, 64, 128, 256, 448]
if passed(greedy_decode) and passed(throughput):
    run = runs.keep("length sweep", lambda: sweep([(1, n, 24) for n in lengths], rounds=4))
    seconds = [measure.Timing(tuple(d / 23 for _, d in taken)) for taken in run["seconds"]]
    bands = {"decode": [(1e3 * t.low, 1e3 * t.high) for t in seconds]}
    lines = {"decode": [1e3 * t.median for t in seconds]}
    labels = {
        "xlabel": "prompt tokens",
        "ylabel": "ms per step",
        "title": "Longer texts" + ", on a busy machine" * bool(run["disturbed"]),
        "caption": where,
    }
    display(plots.sweep_plot(lengths, lines, bands=bands, log=False, **labels))

# %% [markdown]
# ## How far from the limit?
#
# The next cell reads this machine's limits from lab 00, or measures them now. Then the decode steps of the batch sweep are
# compared with the memory limit. The cache is counted as if half of the new tokens were in it. If the bend in the roofline of
# lab 00 is below batch 16, arithmetic limits the steps with large batches. Then the fraction of the memory limit that these
# steps reach cannot come near 1.


# %%
def measure_limits():
    return measure.ceilings(progress=measure.progress_bar("this machine's limits")).to_dict()


limits = measure.Ceilings(**measure.KeptRuns("00").keep("limits", measure_limits))

# %% [markdown]
# {{exercise lab01.roofline_fraction}}


# %%
def roofline_fraction(config, batch, length, element_bytes, step_seconds, bytes_per_second):
    """The least time in which the bytes of the step can be read, divided by the measured time; 1.0 is perfect."""
    # BEGIN SOLUTION
    weights = (config.parameter_count - config.vocab_size * config.hidden_size) * element_bytes
    cache = config.kv_bytes_per_token(element_bytes) * batch * length
    return (weights + cache) / bytes_per_second / step_seconds
    # END SOLUTION


# %%
check(roofline_fraction)

# %% [markdown]
# **Predict:** with Hugging Face, which fraction of the memory limit does decode achieve here at batch 1? A fraction of 1.0 is
# perfect.

# %%
# BEGIN SOLUTION guess_fraction = None  # your prediction
guess_fraction = 0.3
# END SOLUTION
if all(map(passed, (roofline_fraction, greedy_decode, throughput))) and predicted(
    fraction=guess_fraction, batch_gain=guess_batch_gain
):
    steps = [measure.Timing(tuple(decode / 23 for _, decode in taken)).median for taken in by_batch]
    rate = limits.read_bytes_per_second
    reached = [roofline_fraction(config, b, 64 + 24 // 2, 4, s, rate) for b, s in zip(batches, steps)]
    bars = {"your prediction": [guess_fraction] + [float("nan")] * 4, "measured": reached}
    names = [f"batch {batch}" for batch in batches]
    title = "Decode: fraction of the memory limit reached"
    display(
        plots.prediction_plot(
            names, bars, ylabel="fraction of the limit", title=title, caption=limits.caption(where)
        )
    )

# %% [markdown]
# ## Where does the time go?
#
# The next cell profiles one decode step. **Predict** first: which fraction of the time, between 0 and 1, do matrix products
# (`mm`, `addmm`, `bmm`, `linear`) take?

# %%
# BEGIN SOLUTION guess_matmul_share = None  # your prediction
guess_matmul_share = 0.5
# END SOLUTION
if predicted(matmul_share=guess_matmul_share):
    out = model(torch.randint(config.vocab_size, (1, 64), device=device), use_cache=True)
    token = torch.full((1, 1), 5, device=device)
    step = lambda: model(token, past_key_values=out.past_key_values, use_cache=True)
    operations = measure.profile_call(step, device)
    whole = sum(row.seconds for row in operations)
    print(f"{sum(row.count for row in operations)} calls for one token; the host's time goes to")
    for row in operations[:8]:
        print(f"{row.seconds / whole:6.1%} {row.count:5} x {row.name}")

# %%
if predicted(matmul_share=guess_matmul_share):
    products = ("aten::mm", "aten::addmm", "aten::bmm", "aten::linear", "aten::matmul")
    share = sum(row.seconds for row in operations if row.name in products) / whole
    shown = {"your prediction": [guess_matmul_share], "profiled": [share]}
    title = "Share of the host's time in matrix products"
    display(plots.prediction_plot(["one decode step"], shown, ylabel="share", title=title, caption=where))

# %% [markdown]
# A step takes longer than reading its bytes, for two reasons. The first reason is **many small calls**: views, copies,
# concatenations of the cache, and half a dozen operations for the rotary embedding. Each call takes microseconds in Python and
# in torch, even if it computes little; a GPU is idle during this time. The second reason is **thin matrix products**:
# multiplying one row by a small matrix reads the weights far more slowly than memory could deliver them. Your bars above show
# which of the two reasons takes more time here.
#
# **Lab 02** removes both causes. It uses one matrix product for query, key and value. It fuses the rotary embedding with the
# cache write, and the residual with the layer norm. It captures the step once, and uses matrix products that are made for few
# rows.
#
# ## Your speed ladder
#
# All rungs of a ladder do the same task, because speeds of different tasks cannot be compared. The task of this ladder is to
# generate 64 new tokens after one prompt of 64 tokens. The batch of 16 sequences is another task, so its speed is on another
# ladder. The last rung is `labkit`'s own engine. It is measured in turn with Hugging Face (with and without a cache), because
# runs at different times cannot be compared either. In lab 04 a real server does the task of this ladder, and adds the rung
# *served*.


# %%
def measure_labkit():
    """The times for 64 new tokens after a prompt of 64 tokens: Hugging Face without a cache and with one, and labkit, in turn."""
    engine = labkit.load("gptj-tiny", device=device, dtype="fp32", prefix_reuse=False)
    params = labkit.SamplingParams(max_new_tokens=64, ignore_eos=True)
    ids = torch.randint(config.vocab_size, (1, 64), device=device)
    options = {"max_new_tokens": 64, "min_new_tokens": 64, "do_sample": False, "pad_token_id": 0}
    peer = lambda cache: model.generate(
        ids, attention_mask=torch.ones_like(ids), use_cache=cache, **options
    )
    calls = {"Hugging Face, no cache": lambda: peer(False), "Hugging Face": lambda: peer(True)}
    calls["labkit engine"] = lambda: engine.generate(ids.tolist(), params)
    bar = measure.progress_bar("in turn")
    return measure.compare(calls, device=device, max_runs=10, max_seconds=15, progress=bar)


# %%
if passed(greedy_decode) and predicted(cache_speedup=guess_cache_speedup):
    found = runs.keep_timings("labkit in turn", measure_labkit)
    gain = measure.ratio(found["Hugging Face"], found["labkit engine"])
    print("Hugging Face against labkit:", gain.words)
    ladder.add_timings(one_user, found, where=where)
    display(plots.ladder_plot(ladder.of(one_user), caption=where))

# %% [markdown]
# ## What you have now
#
# - You can time a program correctly: you warm up, wait for the device, and take the median. Programs that are compared take
#   turns.
# - You have measured the times of prefill and decode, and the gain of batching. If you did the extras, you have also measured
#   the size of the cache, and longer texts.
# - You have a baseline, and a profile that shows what to improve first. If you did the extras, you also know how far the
#   baseline is from the limit.
#
# Next: **lab 02**, where you build the fused steps one at a time and put each of them into a running engine.

# %%
progress_panel("01")
