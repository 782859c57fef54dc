# %% [markdown]
# # Lab 00 · Class environment
#
# **After this lab you can** say what a machine can do at best, how much memory a model needs, how many GPUs the model needs,
# and how fast it can produce a token, all before you run anything. Then you measure, and see how close your prediction was.
#
# *{{lab 00: size}} · runs on any machine. If your machine lacks something that a cell needs, the cell says so.*
#
# {{lab 00: core path}}
#
# How this works:
# - You write the body of a function, run its cell, and run `check(...)` below it. The check calls your function with inputs
#   that you have not seen. The result is **passed**, **failed** (with the likely mistake in words) or **not measured here**.
# - `hint(my_function)` shows up to three hints. The first hint is small; the third contains one line of the answer.
# - `reset(my_function)` shows the empty exercise again in a new cell, and keeps your old text in a file.
# - `solution(my_function)` shows the solution of the course after your function has passed. It also shows the solution if you
#   give up the exercise; then you get no more points for this exercise.
# - When you finish a lab, save the notebook (Ctrl+S) and run `submit()` in a new cell. `submit()` checks that the saved file
#   contains what you ran. Then it writes a copy of the file, which you hand in, and a receipt.
# - Some cells ask for a **prediction** first. A prediction is not graded; the figure shows it next to the measurement.
# - Your progress, your measurements and your speed ladder are kept on disk. After a restart of the kernel, select the cell
#   where you were and choose *Run All Above Selected Cell* in the Run menu; measurements that were kept are not repeated.
# - **Close other programs before you measure.** If other programs disturb a measurement, the cell says so; run the cell again
#   to repeat the measurement.

# %%
import torch
from ipywidgets import interact

import labkit
from labkit import measure
from labkit.config import GPT_J_6B
from labkit.environment import describe
from labkit.lab import check, hint, passed, predicted, progress_panel, reset, solution, submit
from labkit.lab.lab00 import head_flops, matmul_flops_per_token, pictures, weight_bytes_per_step
from labkit.measure import plots

runs = measure.KeptRuns("00")

# %%
progress_panel("00")

# %% [markdown]
# ## A model that is always there
#
# `gptj-tiny` has the architecture of GPT-J 6B and is 600 times smaller. The training text is public-domain English, chosen for
# this course: the Bible, Jane Austen, Moby-Dick, presidents' addresses. The model is part of the package, so every lab runs
# offline.
#
# The model knows no facts, but its text is readable, and the labs can measure its quality.

# %%
engine = labkit.load("gptj-tiny", dtype="fp32")
taste = labkit.SamplingParams(max_new_tokens=60, temperature=0.8, top_p=0.95, seed=1)
print("In the beginning", end="")
for event in engine.stream("In the beginning", taste):
    print(event.text, end="", flush=True)

# %% [markdown]
# ## This machine
#
# Four things decide the speed of inference. In order of importance they are: how fast memory can be **read**, how much
# **memory** there is, how fast **matrices** are multiplied, and, with several GPUs, how fast the **links** between them are.

# %%
machine = describe()
cpu = machine.cpu
print(f"{cpu.model}: {cpu.usable_cores} cores, {', '.join(cpu.instruction_sets)}")
print(
    f"{machine.memory_bytes / 2**30:.1f} GiB of memory, {machine.memory_available_bytes / 2**30:.1f} GiB available"
)

# %%
for gpu in machine.gpus:
    print(
        f"{gpu.name}: {gpu.memory_bytes / 2**30:.0f} GiB, PCIe {gpu.pcie}, {gpu.nvlinks} NVLinks, driver {gpu.driver}"
    )
if not machine.gpus:
    print(
        f"GPU and its links: not measured here ({machine.gpus_why_none}). Everything below runs on the CPU."
    )

# %% [markdown]
# ### Predict, then measure
#
# How many **GB per second** can this machine read, and how many **GFLOP per second** does a matrix product in fp32 achieve? Two
# rules of thumb help you:
#
# - One channel of DDR5-4800 reads 38 GB/s. A laptop has two channels; a virtual machine may get a few channels of its server;
#   an H100 GPU reads 3,350 GB/s.
# - A CPU core does up to 64 fp32 operations per cycle with AVX-512 (two 16-wide multiply-adds), or up to 32 with AVX2. It runs
#   2 to 4 billion cycles per second. Real matrix products achieve half of the resulting rate.
#
# Replace each `None` by your number.

# %%
# BEGIN SOLUTION guess_read_gb_per_second = None
guess_read_gb_per_second = 40
# END SOLUTION
# BEGIN SOLUTION guess_fp32_gflop_per_second = None
guess_fp32_gflop_per_second = 200
# END SOLUTION


# %%
def measure_limits():
    return measure.ceilings(progress=measure.progress_bar("this machine's limits")).to_dict()


limits = measure.Ceilings(**runs.keep("limits", measure_limits))
caption = limits.caption(
    f"{limits.device}, {limits.threads} threads, torch {torch.__version__}; best of several runs"
)

# %%
if predicted(read=guess_read_gb_per_second, fp32=guess_fp32_gflop_per_second):
    series = {
        "your prediction": [guess_read_gb_per_second, guess_fp32_gflop_per_second],
        "measured": [limits.read_bytes_per_second / 1e9, limits.flops_per_second["fp32"] / 1e9],
    }
    names = ["read, GB per second", "fp32 product, GFLOP per second"]
    display(
        plots.prediction_plot(
            names,
            series,
            ylabel="GB or GFLOP per second",
            title="What can this machine do?",
            caption=caption,
        )
    )

# %% [markdown]
# Look at the ratio of the two numbers as well: how many operations can this machine do in the time in which it reads one
# byte?

# %%
for precision, rate in limits.flops_per_second.items():
    per_byte = rate / limits.read_bytes_per_second
    print(f"{precision}: {rate / 1e9:8,.0f} GFLOP/s, {per_byte:6.1f} FLOP in the time of one byte")

# %% [markdown]
# (If a precision is far slower than fp32, this processor has no instructions for it and emulates it. Most CPUs emulate fp16.)
#
# To produce one token, a model does **two** operations with each weight. A weight takes four bytes in fp32 and two in bf16. So
# a model does half an operation (fp32) or one operation (bf16) for each byte that it reads. In the time in which your machine
# reads one byte, it can do more operations than that, in every precision that it does not emulate. Remember this: with batch
# size 1, the processor waits for memory.
#
# ## Executive math: does it fit?
#
# *Executive math* means a few multiplications on paper that decide what to buy and what to run. Before you run any benchmark,
# do the math. The next cell shows the shape of GPT-J 6B:

# %%
GPT_J_6B

# %% [markdown]
# {{core path: go on at The weights}}

# %% [markdown]
# {{exercise lab00.parameter_count}}


# %%
def parameter_count(config):
    """The number of parameters of a GPT-J with this config, a whole number."""
    # BEGIN SOLUTION
    h, inner, vocab = config.hidden_size, config.intermediate_size, config.vocab_size
    block = 4 * h * h + (h * inner + inner) + (inner * h + h) + 2 * h
    return vocab * h + config.num_layers * block + 2 * h + (h * vocab + vocab)
    # END SOLUTION


# %%
check(parameter_count)

# %% [markdown]
# Now compare your formula with a real file, the weights that the engine above has loaded.

# %%
if passed(parameter_count):
    from labkit.checkpoints import open_checkpoint

    checkpoint = open_checkpoint("gptj-tiny")
    in_the_file = sum(checkpoint.read(name).numel() for name in checkpoint.tensor_names())
    print(f"gptj-tiny: {parameter_count(engine.config):,} by your formula, {in_the_file:,} in the file")
    print(f"GPT-J 6B:  {parameter_count(GPT_J_6B):,}")

# %% [markdown]
# ### The weights
#
# This course accompanies a lecture on serving large models; you need not have attended it. One slide of the lecture computes
# the memory of a model with 175 billion parameters in fp16 as $\frac{175 \cdot 10^9 \cdot 2}{1024^3} = 325.96$ "GB". The unit
# of this number is really **GiB** ($1024^3$ bytes); in GB ($10^9$ bytes) the memory is 350 GB. GPUs are sold in GB but report
# their memory in GiB, so always say which unit you mean.

# %% [markdown]
# {{exercise lab00.weight_gib}}


# %%
def weight_gib(parameters, precision, group_size):
    """Size of the weights in GiB, a number."""
    # BEGIN SOLUTION
    bits = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8, "int4": 4 + 16 / group_size}[precision]
    return parameters * bits / 8 / 2**30
    # END SOLUTION


# %%
check(weight_gib)

# %%
if passed(weight_gib):
    precisions = ["fp32", "fp16", "int8", "int4"]
    models = {"6B": 6_050_882_784, "175B": 175_000_000_000, "530B": 530_000_000_000}
    series = {name: [weight_gib(size, p, 128) for p in precisions] for name, size in models.items()}
    lines = {"available here": machine.memory_available_bytes / 2**30, "one 80 GB GPU": 80e9 / 2**30}
    labels = {"ylabel": "GiB of weights", "title": "Weights alone", "caption": "your function"}
    display(plots.prediction_plot(precisions, series, limits=lines, log=True, **labels))

# %% [markdown]
# Which of these models could this machine hold, and in which precision? On a laptop, the 6B model fits only in int4. Lab 05
# shows how much quality that costs.
#
# ## The other memory: keys and values
#
# To produce token 1,001, a model reads the keys and values of the 1,000 tokens before it. Keys and values of earlier tokens do
# not change, so the engine stores them: this is the **KV cache**. The cache grows with every token of every sequence. Each
# layer stores one key and one value for each token; each key and each value is a vector of `hidden_size` numbers:

# %%
pictures.kv_cache(lengths=(6, 3, 8), layers=4)

# %% [markdown]
# {{exercise lab00.kv_cache_bytes}}


# %%
def kv_cache_bytes(config, lengths, element_bytes):
    """Bytes of keys and values for a batch of sequences of these lengths, a whole number."""
    # BEGIN SOLUTION
    return 2 * config.num_layers * config.hidden_size * sum(lengths) * element_bytes
    # END SOLUTION


# %%
check(kv_cache_bytes)

# %% [markdown]
# Move the slider. From which batch size on does the cache of GPT-J 6B take more memory than its weights (fp16)? How does this
# batch size change if the sequences are short?

# %%
batches = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]


def draw_cache(length=1024):
    cache = [kv_cache_bytes(GPT_J_6B, [length] * batch, 2) / 1e9 for batch in batches]
    weights = [2 * GPT_J_6B.parameter_count / 1e9] * len(batches)
    flat = {"weights": weights, "one 80 GB GPU": [80] * len(batches)}
    title = f"GPT-J 6B in fp16, {length} tokens per sequence (your function)"
    labels = {"xlabel": "batch", "ylabel": "GB", "title": title}
    display(plots.sweep_plot(batches, {"KV cache": cache}, limits=flat, **labels))


if passed(kv_cache_bytes):
    interact(draw_cache, length=(128, 2048, 128))

# %% [markdown]
# {{exercise lab00.gpus_needed}}


# %%
def gpus_needed(weight_bytes, gpu_bytes, reserve):
    """The smallest number of GPUs (1, 2, 4, 8, ...) that hold the weights and keep this fraction of memory free."""
    # BEGIN SOLUTION
    gpus = 1
    while weight_bytes / gpus > gpu_bytes * (1 - reserve):
        gpus *= 2
    return gpus
    # END SOLUTION


# %%
check(gpus_needed)

# %%
if passed(gpus_needed):
    for name, size in {"GPT-J 6B": 6.05e9, "GPT-3 175B": 175e9, "Megatron-Turing 530B": 530e9}.items():
        needs = {f"{gpu} GB": gpus_needed(2 * size, gpu * 1e9, 0.2) for gpu in (16, 24, 40, 80)}
        print(
            f"{name:>21} in fp16, a fifth kept free: "
            + ", ".join(f"{n} x {gpu}" for gpu, n in needs.items())
        )

# %% [markdown]
# A table in the lecture puts the 175B model on 8 to 32 GPUs of 80 GB, and a 530B model on 16 to 32 GPUs. Your function returns
# 8 GPUs for the 175B model and 32 GPUs for the 530B model. If there were 16 GPUs, each GPU would have to hold 66 GB of the 530B
# model, but only 64 GB are left if a fifth of its memory is kept free (try a reserve of 0.15). Why would anyone use more GPUs
# than necessary? Labs 03 and 08 return to this question.
#
# ## Executive math: how fast can it be?
#
# A step of the model reads bytes and does arithmetic. A good implementation reads and computes at the same time, so the step
# takes the longer of the two times. This is the **roofline** model (Williams, Waterman and Patterson, 2009):

# %%
pictures.overlap()

# %% [markdown]
# **Decode** produces one token: it reads all weights and computes little. **Prefill** reads the same weights once for the whole
# prompt, but computes with them for every token of the prompt.

# %% [markdown]
# {{exercise lab00.roofline_time}}


# %%
def roofline_time(flops, bytes_read, flops_per_second, bytes_per_second):
    """The pair (seconds, "memory" or "compute")."""
    # BEGIN SOLUTION
    compute, memory = flops / flops_per_second, bytes_read / bytes_per_second
    return max(compute, memory), "memory" if memory >= compute else "compute"
    # END SOLUTION


# %%
check(roofline_time)

# %% [markdown]
# Your function distinguishes the two phases. The next cell calls it for `gptj-tiny` on this machine, with a prompt of 128
# tokens:

# %%
if passed(roofline_time):
    token_flops = matmul_flops_per_token(engine.config) + head_flops(engine.config)
    weight_bytes = weight_bytes_per_step(engine.config, 4)
    for phase, tokens in {"decode": 1, "prefill": 128}.items():
        rates = limits.flops_per_second["fp32"], limits.read_bytes_per_second
        seconds, bound = roofline_time(tokens * token_flops, weight_bytes, *rates)
        print(f"{phase:>8} of {tokens:>3} tokens: at least {1e3 * seconds:6.2f} ms, bound by {bound}")

# %%
if passed(roofline_time):
    points = {}
    for phase, tokens in {
        "decode, batch 1": 1,
        "decode, batch 16": 16,
        "prefill, 128 tokens": 128,
    }.items():
        work = tokens * token_flops
        points[phase] = (work / weight_bytes, work / roofline_time(work, weight_bytes, *rates)[0])
    title = "Where the phases of gptj-tiny lie (fp32)"
    display(
        plots.roofline_plot(
            *reversed(rates),
            points,
            title=title,
            caption=limits.caption("from the limits measured above"),
        )
    )

# %% [markdown]
# To the left of the bend in the roofline, memory is the limit, and faster arithmetic gains nothing. Additional sequences in a
# step take hardly any time until the bend is reached. To the right of the bend, arithmetic is the limit. The bend of an H100 in
# bf16 is at 295 operations per byte (989 TFLOP/s divided by 3.35 TB/s, from its data sheet), so an H100 needs large batches.
# Every technique of this course moves a point in the figure up or to the right, or raises the roof.

# %% [markdown]
# {{exercise lab00.decode_floor_ms}}


# %%
def decode_floor_ms(config, batch, length, element_bytes, bytes_per_second):
    """The least time in milliseconds in which the bytes of one decode step can be read."""
    # BEGIN SOLUTION
    weights = (config.parameter_count - config.vocab_size * config.hidden_size) * element_bytes
    cache = config.kv_bytes_per_token(element_bytes) * batch * length
    return 1e3 * (weights + cache) / bytes_per_second
    # END SOLUTION


# %%
check(decode_floor_ms)

# %% [markdown]
# This formula gives the shortest possible time per token on any machine. The bandwidths in the figure are from data sheets:

# %%
if passed(decode_floor_ms):
    bandwidths = {
        "this machine": limits.read_bytes_per_second,
        "V100": 900e9,
        "A100 80GB": 2039e9,
        "H100 SXM": 3350e9,
    }
    for name, rate in bandwidths.items():
        print(
            f"At best, GPT-J 6B in fp16 on {name:>12}: {decode_floor_ms(GPT_J_6B, 1, 128, 2, rate):7.1f} ms per token"
        )

# %% [markdown]
# ### Your first tested prediction
#
# How many **milliseconds** does one decode step of `gptj-tiny` take here, in fp32 and with batch size 1? Start from the
# floor: this is the shortest possible time, which the next cell computes with your function. Can a plain PyTorch loop over 8
# layers be as fast as this? If not, how many times slower is it?

# %%
if passed(decode_floor_ms):
    floor = decode_floor_ms(engine.config, 1, 96, 4, limits.read_bytes_per_second)
    print(f"the floor: {floor:.2f} ms")

# %%
# BEGIN SOLUTION guess_decode_ms = None
guess_decode_ms = 4
# END SOLUTION


# %%
def measure_decode():
    """Milliseconds per token when 64 tokens are generated: the median of several runs. The first run stores the prompt's keys
    and values, so the later runs only decode.
    """
    params = labkit.SamplingParams(max_new_tokens=64, ignore_eos=True)
    call = lambda: engine.generate([[5] * 64], params)
    bar = measure.progress_bar("decoding")
    timing = measure.time_call(call, device=engine.device, max_runs=20, max_seconds=4, progress=bar)
    found = {"median": 1e3 * timing.median / 64, "spread": timing.spread, "runs": timing.runs}
    return found | {"disturbed": timing.disturbed}


# %%
if passed(decode_floor_ms) and predicted(decode_ms=guess_decode_ms):
    decode = runs.keep("decode", measure_decode)
    series = {
        "your prediction": [guess_decode_ms],
        "memory floor": [floor],
        "measured": [decode["median"]],
    }
    busy = ", on a busy machine" if decode["disturbed"] else ""
    title = f"One decode step of gptj-tiny, batch 1{busy}"
    caption = limits.caption(
        f"{engine.device}, fp32, 64 + 64 tokens, {decode['runs']} runs, spread {decode['spread']:.0%}"
    )
    display(
        plots.prediction_plot(["gptj-tiny"], series, ylabel="ms per token", title=title, caption=caption)
    )

# %% [markdown]
# A small model takes far longer than its shortest possible time, the floor. Starting many small operations from Python takes
# time. And multiplying a single row by a small matrix reads memory far more slowly than the machine could. Lab 01 profiles
# these costs, and lab 02 removes them. The floor is correct, but something else limits the model *for now*.
#
# ## What you have now
#
# - Memory: you compute the memory of the weights from parameters and precision, and the memory of the cache from layers,
#   width and tokens.
# - Time: a step takes as long as its reading or as long as its computing, whichever takes longer. Decode with a small batch
#   mostly reads, and prefill mostly computes.
# - The measured limits of *this* machine. Every later figure is compared with these limits.
#
# Next: **lab 01**, where you run GPT-J through Hugging Face and learn to time it correctly.

# %%
progress_panel("00")
