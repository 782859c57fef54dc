# %% [markdown]
# # Lab 03 · Tensor and pipeline parallelism
#
# **After this lab you can** cut a model into parts for several processes or GPUs, predict what these will send to each other
# and how long the sending takes, and choose a layout for a machine.
#
# Two NVIDIA libraries made these ways to cut a model well known: **Megatron-LM**, which trains large models on many GPUs, and
# **FasterTransformer** (2021 to 2023), which served large models to users. Most of today's engines cut a model in the same
# ways. You rebuild these cuts in this lab.
#
# *{{lab 03: size; a good place for a break is before "Count before you run"}} · runs on any machine. Your functions run on real
# processes, with the same `torch.distributed` calls as on GPUs.*
#
# {{lab 03: core path}}

# %%
import torch
import torch.nn.functional as F
from torch import distributed as dist

from labkit import measure
from labkit.lab import check, hint, passed, predicted, progress_panel, reset, solution, submit
from labkit.lab.lab03 import Layout, attend, gelu, launch, measurements, pictures, run_layers
from labkit.measure import plots

torch.set_grad_enabled(False)
where = f"processes of one host, torch {torch.__version__}"

# %%
progress_panel("03")

# %% [markdown]
# ## One program, several ranks
#
# A distributed program is one function that several processes run at the same time. The processes are called **ranks**. Ranks
# are numbered from 0, and each rank can ask for its own number. There are only two ways to pass data between ranks: all ranks
# call the same **collective**, or one rank sends and another rank receives. `launch(function, ranks, ...)` starts real
# processes and calls your function in each of them.
#
# The function is sent to the ranks as source code, together with the parts of your code that it uses. It can use functions made
# by `def`, modules, plain values, tensors, and lists or dictionaries of these. Classes and other objects cannot be sent.


# %%
def hello(word):
    number, count = dist.get_rank(), dist.get_world_size()
    mine = torch.tensor([float(number)])
    dist.all_reduce(mine)  # adds up all ranks' tensors, in place, on every rank
    print(f"{word}, I am one of {count}; the sum of our numbers is {mine.item():g}")
    return number * 10


first = launch(hello, 3, "hello", progress=measure.progress_bar("ranks ready"))
print("returned:", first.values)

# %% [markdown]
# The **ledger** lists what the ranks sent to each other. The ledger has one entry for each collective and rank: the shape of
# the tensor, its bytes, and the seconds that the call took. Every check below first compares the values that your function
# returns, and then reads the ledger.
#
# Before you go on, think: what happens when one rank does not call the collective? Run the next cell and read the error message
# (`on ...` is the name of the host). No rank waits for ever: a collective gives up after `timeout` seconds.

# %%
for entry in first.ledger:
    print(
        f"rank {entry.rank}: {entry.what} of {entry.shape}, {entry.byte_count} bytes, {1e3 * entry.seconds:.2f} ms"
    )


def forgetful():
    if dist.get_rank() != 1:  # rank 1 does not take part
        dist.all_reduce(torch.ones(4))


try:
    launch(forgetful, 2, timeout=2)
except Exception as error:
    print(type(error).__name__, "·", error)

# %% [markdown]
# A collective takes time even if it sends almost nothing, because all ranks wait for each other. This time is its
# **latency**.
#
# **Predict:** how many microseconds does an all-reduce of 4 bytes take between two processes on this machine? How many
# microseconds does an all-reduce of 4 MB take?

# %%
# BEGIN SOLUTION guess_small_us, guess_large_us = None, None
guess_small_us, guess_large_us = 200, 5000
# END SOLUTION
if predicted(small=guess_small_us, large=guess_large_us):
    times = measurements.sum_times(2, [4, 4_000, 40_000, 400_000, 4_000_000])
    for size in (4_000, 4_000_000):
        print(f"{size:,} bytes against 4 bytes: {measure.ratio(times[size], times[4]).words}")
    took = {"measured: median": [1e6 * timing.median for timing in times.values()]}
    half = {"measured: median": [(1e6 * timing.low, 1e6 * timing.high) for timing in times.values()]}
    guesses = {"your guesses, joined": [guess_small_us] * 4 + [guess_large_us]}
    labels = {"xlabel": "bytes", "ylabel": "microseconds (band: quartiles)", "caption": where}
    title = "How long an all-reduce takes on two ranks"
    display(plots.sweep_plot(list(times), took, bands=half, limits=guesses, title=title, **labels))

# %% [markdown]
# Compare the two lines of text above the figure. Where the curve is flat, sending a thousand times as many bytes takes hardly
# any longer. Sending a million times as many bytes takes much longer. The hidden state of one token in GPT-J 6B has 4,096
# numbers, which are 16 kB. This size is in the flat part of the curve, so the time of an all-reduce for one token is mostly
# latency. So count the calls first, then the bytes.
#
# ## A matrix product in parts
#
# The weight `[out, in]` of a linear layer can be cut in two ways:

# %%
pictures.two_cuts()

# %% [markdown]
# On the left of the drawing, each rank computes some **output features** from the whole input.

# %% [markdown]
# {{exercise lab03.split_columns}}


# %%
def split_columns(x, weight, bias):
    """This rank's output features of F.linear(x, weight, bias): [tokens, share]."""
    # BEGIN SOLUTION
    size, more = divmod(len(weight), dist.get_world_size())
    rank = dist.get_rank()
    begin = rank * size + min(rank, more)
    end = begin + size + (rank < more)
    return F.linear(x, weight[begin:end], bias[begin:end])
    # END SOLUTION


# %%
check(split_columns)

# %% [markdown]
# (Megatron-LM calls the cut on the left *column parallel*, because it writes a weight as `[in, out]`.) On the right of the
# drawing, each rank has some **input features**. Every output needs all input features, so each rank computes one part of every
# sum.

# %% [markdown]
# {{exercise lab03.split_rows}}


# %%
def split_rows(x, weight, bias):
    """The result of the whole F.linear, on every rank. A rank holds the shares x [tokens, share] and weight [out, share]."""
    # BEGIN SOLUTION
    out = x @ weight.T
    if dist.get_rank() == 0:
        out += bias
    dist.all_reduce(out)
    return out
    # END SOLUTION


# %%
check(split_rows)

# %% [markdown]
# The two cuts fit together. If you cut the first layer of an MLP by output features and the second layer by input features,
# each rank has exactly the features that it needs for the second layer, and the ranks send nothing in between. Attention can
# be cut in the same way, because its heads do not depend on each other until the output projection. This is **tensor
# parallelism**, and its ranks are also called shards.

# %% [markdown]
# {{core path: go on at The timetable of a pipeline}}

# %% [markdown]
# **Predict:** the file of gptj-tiny holds 21 MB of weights, including embedding and head (2 bytes for each weight, 8 blocks,
# hidden size 256). Some of these tensors cannot be cut, so every rank reads them in full. How many kB do these tensors hold?

# %%
# BEGIN SOLUTION guess_whole_kb = None
guess_whole_kb = 9
# END SOLUTION

# %% [markdown]
# {{exercise lab03.shard_layer}}


# %%
def shard_layer(layer, rank, ranks):
    """The shard of `layer` (a dictionary of tensors) that a rank holds, under the same names."""

    # BEGIN SOLUTION
    def rows(tensor):
        size = len(tensor) // ranks
        return tensor[rank * size : (rank + 1) * size]

    shard = {name: rows(layer[name]) for name in ("query", "key", "value", "fc_in", "fc_in_bias")}
    shard |= {name: rows(layer[name].T).T for name in ("out", "fc_out")}
    bias = layer["fc_out_bias"]
    return shard | {"fc_out_bias": bias if rank == 0 else torch.zeros_like(bias)}
    # END SOLUTION


# %%
check(shard_layer)

# %%
if passed(shard_layer) and predicted(whole=guess_whole_kb):
    whole = {ranks: size / 1e3 for ranks, size in measurements.whole_part("gptj-tiny").items()}
    shown = {"your prediction": [guess_whole_kb] * len(whole), "measured": list(whole.values())}
    title = "What every rank reads from a file of 21 MB"
    display(plots.prediction_plot(list(whole), shown, ylabel="kB", title=title, caption=where))

# %% [markdown]
# The layer norms are the only tensors that every rank reads in full, because a layer norm needs all numbers of a token. (Each
# layer norm has a weight and a bias of 256 numbers; there is one norm in each block and one at the end.) So each of n ranks
# holds about one n-th of the model, and no rank holds the whole model. All ranks of labkit read their shards from the same
# file. In contrast, FasterTransformer wrote one file for each rank; `labkit convert` reads and writes such files.
#
# ## A block, and one sum
#
# Next, you compute the block itself. In most models the MLP needs the result of attention, so each layer needs two all-reduces:
# one after attention and one after the MLP. In GPT-J attention and MLP read the same input.
#
# **Predict:** one token goes through 28 small blocks on two processes of this machine. How many times as long does the token
# take with two all-reduces in each block as with one all-reduce?

# %%
# BEGIN SOLUTION guess_two_sums = None
guess_two_sums = 1.5
# END SOLUTION

# %% [markdown]
# {{exercise lab03.parallel_block}}


# %%
def parallel_block(normed, shard, head_dim):
    """What attention and MLP of all ranks add to the residual: [tokens, hidden], on every rank."""
    # BEGIN SOLUTION
    query, key, value = (normed @ shard[name].T for name in ("query", "key", "value"))
    attention = attend(query, key, value, head_dim) @ shard["out"].T
    inner = gelu(F.linear(normed, shard["fc_in"], shard["fc_in_bias"]))
    part = attention + F.linear(inner, shard["fc_out"], shard["fc_out_bias"])
    dist.all_reduce(part)
    return part
    # END SOLUTION


# %%
check(parallel_block)

# %%
if passed(parallel_block) and predicted(two_sums=guess_two_sums):
    sums, (one, two) = measurements.one_token(parallel_block, measurements.two_sums)
    times = measure.ratio(two, one)
    print(f"Two sums in each block ({sums[1]} in all) against yours ({sums[0]}): {times.words}")
    names = [f"{sums[1]} sums instead of {sums[0]}"]
    shown = {"measured": [times.shown], "your prediction": [guess_two_sums]}
    half = {"measured": [(times.low, times.high)]}
    labels = {"ylabel": "times as long (whisker: quartiles)", "caption": where}
    title = "One token through 28 blocks: two sums in each block against one"
    display(plots.prediction_plot(names, shown, ranges=half, title=title, **labels))

# %% [markdown]
# With twice as many all-reduces, a block does not take twice as long: only the waiting doubles, while the matrix products of
# the block stay the same. If the matrix products are smaller (with more shards or fewer tokens), the ratio comes closer to 2.
# FasterTransformer and Megatron-LM use the same code for all their models, so they need two all-reduces in each block. labkit's
# engine needs one all-reduce.
#
# ## The vocabulary
#
# Embedding and head are large, too: they have 50,400 rows in GPT-J, and each rank holds some of these rows. The embedding is
# easy: the rank that holds a token's row uses this row, the other ranks use zeros, and one all-reduce adds up the rows of all
# ranks. The head needs more thought.

# %% [markdown]
# {{exercise lab03.sharded_argmax}}


# %%
def sharded_argmax(hidden, head, bias, first):
    """The best token of all ranks for each row of hidden: [rows], int64."""
    # BEGIN SOLUTION
    value, place = F.linear(hidden, head, bias).max(-1)
    mine = torch.stack((value.double(), (place + first).double()))
    found = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(found, mine)
    values, tokens = torch.stack(found).unbind(1)
    return tokens.gather(0, values.argmax(0, keepdim=True))[0].long()
    # END SOLUTION


# %%
check(sharded_argmax)

# %% [markdown]
# ## Count before you run
#
# You now have all parts of a tensor parallel model. **Pipeline parallelism** is the other way to cut a model: each rank, called
# a stage, gets whole blocks, and sends the hidden state to the next stage. For both ways to cut a model, you can say in advance
# how many bytes a step will send. `share` is the rule of exercise 3.1, but for blocks instead of rows:

# %%
from labkit.lab.lab03 import share

print("7 blocks in 3 stages:", [share(7, stage, 3) for stage in range(3)])

# %% [markdown]
# {{exercise lab03.step_traffic}}


# %%
def step_traffic(layers, hidden, tokens, shards, stages, stage):
    """{'all_reduce': [calls, bytes], 'send': [calls, bytes]} of a rank of this stage."""
    # BEGIN SOLUTION
    held = share(layers, stage, stages)
    sums = held + (stage == 0) if shards > 1 else 0
    sends = 1 if stage < stages - 1 else 0
    one = tokens * hidden * 4
    return {"all_reduce": [sums, sums * one], "send": [sends, sends * one]}
    # END SOLUTION


# %%
check(step_traffic)

# %% [markdown]
# Does labkit's engine send as much as your function says? The next cell puts gptj-tiny on two shards, then on two stages. On
# each layout it runs one decode step of four sequences, and reads the ledger of rank 0 (which is in the first stage).

# %%
if passed(step_traffic):
    layouts, names, yours, counts = {"2 shards": Layout(2, 1), "2 stages": Layout(1, 2)}, [], [], []
    for name, ledger in measurements.engine_steps(layouts).items():
        layout = layouts[name]
        mine = step_traffic(8, 256, 4, layout.tensor_parallel, layout.pipeline_parallel, 0)
        for what, (calls, size) in ledger.items():
            print(f"{name}, {what}: {calls} calls, {size:,} bytes; you said {mine[what]}")
            if calls:
                names.append(f"{name}: {what}")
                yours.append(mine[what][0])
                counts.append(calls)
    shown = {"yours": yours, "the engine's ledger": counts}
    title = "One step of 4 sequences: calls of rank 0"
    display(plots.prediction_plot(names, shown, ylabel="calls", title=title, caption=where))

# %% [markdown]
# Stages send far fewer bytes than shards, and in far fewer calls. But this does not make stages faster than shards. A token
# goes through one stage after the other. While the token is in one stage, the other stages are idle, unless they have other
# work. This idle time is the price of stages.
#
# ## A pipeline
#
# To keep all stages busy, a batch is cut into **micro-batches**, which follow one another through the stages.

# %% [markdown]
# {{exercise lab03.pipeline_stage}}


# %%
def pipeline_stage(pieces, shapes, layers):
    """Take each micro-batch, run the layers, send it on. The last stage returns the list of results; the others return []."""
    # BEGIN SOLUTION
    rank, ranks = dist.get_rank(), dist.get_world_size()
    results = []
    for number, shape in enumerate(shapes):
        if rank == 0:
            x = pieces[number]
        else:
            x = torch.empty(shape)
            dist.recv(x, rank - 1)
        x = run_layers(x, layers, number)
        if rank == ranks - 1:
            results.append(x)
        else:
            dist.send(x, rank + 1)
    return results
    # END SOLUTION


# %%
check(pipeline_stage)

# %% [markdown]
# ## The timetable of a pipeline
#
# A pipeline has one **stage** for each rank: a stage holds whole blocks, and sends the hidden state to the next stage. So that
# several stages work at the same time, a batch is cut into micro-batches. At the beginning the pipeline fills, and at the end it
# drains; at these times some stages have nothing to do. The idle time is called the **bubble**:

# %%
pictures.timetable(stages=4, pieces=4)

# %% [markdown]
# **Predict:** 512 tokens go through *two* equal stages, as 2 or as 8 micro-batches. What fraction of the time (from 0 to 1) is
# a stage idle, on average?

# %%
# BEGIN SOLUTION guess_idle_2, guess_idle_8 = None, None
guess_idle_2, guess_idle_8 = 1 / 3, 1 / 9
# END SOLUTION

# %% [markdown]
# {{exercise lab03.pipeline_schedule}}


# %%
def pipeline_schedule(seconds, pieces):
    """(begins, idle): when each stage begins each micro-batch, and the share of idle time."""
    # BEGIN SOLUTION
    begins = [[0.0] * pieces for _ in seconds]
    for s in range(len(seconds)):
        for i in range(pieces):
            ready = begins[s - 1][i] + seconds[s - 1] if s else 0.0
            free = begins[s][i - 1] + seconds[s] if i else 0.0
            begins[s][i] = max(ready, free)
    end = begins[-1][-1] + seconds[-1]
    return begins, 1 - pieces * sum(seconds) / (len(seconds) * end)
    # END SOLUTION


# %%
check(pipeline_schedule)

# %%
if passed(pipeline_schedule) and predicted(two=guess_idle_2, eight=guess_idle_8, as_share=True):
    counts = [1, 2, 4, 8, 16, 32]
    idle = {"two equal stages, your timetable": [pipeline_schedule([1, 1], n)[1] for n in counts]}
    marks = {"your guess for 2": (2, guess_idle_2), "your guess for 8": (8, guess_idle_8)}
    labels = {"xlabel": "micro-batches", "ylabel": "share of the time that a stage is idle"}
    display(plots.sweep_plot(counts, idle, marks=marks, title="The bubble", log=False, **labels))

# %% [markdown]
# With more micro-batches the bubble is smaller. But even if there is no bubble, a token is not faster: it goes through one
# stage after the other. So stages improve the throughput, and shards shorten the time per token.

# %% [markdown]
# {{core path: go on at Your machine}}

# %% [markdown]
# Now your stage runs on two real processes. The timeline shows when each stage worked; each bar is one micro-batch.

# %%
if passed(pipeline_stage) and predicted(two=guess_idle_2, eight=guess_idle_8, as_share=True):
    runs, times = measurements.run_pipelines(pipeline_stage, (1, 2, 4, 8, 16, 32))
    quicker = measure.ratio(times[1], times[8])
    print("One micro-batch against 8:", quicker.words)
    for count in (1, 8):
        idle = f", idle {measurements.idle_share(runs[count]):.0%}" if quicker.trusted else ""
        title = f"Micro-batches: {count}{idle}"
        display(plots.timeline_plot(measurements.bars_of(runs[count]), title=title, caption=where))

# %%
is_planned = passed(pipeline_schedule) and passed(pipeline_stage)
if is_planned and predicted(two=guess_idle_2, eight=guess_idle_8, as_share=True):
    plans = {n: pipeline_schedule(measurements.stage_seconds(run), n) for n, run in runs.items()}
    shown = {"your timetable": [100 * idle for _, idle in plans.values()]}
    measured = {"measured": [100 * measurements.idle_share(run) for run in runs.values()]}
    shown |= measured if quicker.trusted else {}
    print("One micro-batch against 8:", quicker.words)
    guesses = {"your guesses": {"2": 100 * guess_idle_2, "8": 100 * guess_idle_8}}
    labels = {"ylabel": "percent of the time", "caption": f"groups: micro-batches; {where}"}
    title = "Idle time of two stages, by the number of micro-batches"
    display(plots.prediction_plot(list(map(str, runs)), shown, marks=guesses, title=title, **labels))

# %% [markdown]
# The measured idle share is larger than the idle share in your timetable, because sending a micro-batch takes time, too. Is a
# batch with less idle time always faster?

# %%
if is_planned and predicted(two=guess_idle_2, eight=guess_idle_8, as_share=True):
    ends = [begins[-1][-1] + measurements.stage_seconds(runs[n])[-1] for n, (begins, _) in plans.items()]
    took = {n: 1e3 * measurements.batch_seconds(run) for n, run in runs.items()}
    shown = {"your timetable": [1e3 * end for end in ends], "measured": list(took.values())}
    for n in (8, 32):
        late = 1e3 * measurements.hand_over_seconds(runs[n])
        work = 1e3 * sum(measurements.stage_seconds(runs[n])) / 2
        print(f"{n} micro-batches: each takes {work:.2f} ms in a stage, and {late:.2f} ms to be sent")
    best = f"{min(took, key=took.get)} micro-batches, {min(took.values()):.1f} ms"
    print("Quickest:", best if quicker.trusted else quicker.words)
    labels = {"ylabel": "milliseconds", "caption": f"groups: micro-batches; {where}"}
    title = "How long a batch of 512 tokens takes in two stages"
    display(plots.prediction_plot(list(map(str, runs)), shown, title=title, **labels))

# %% [markdown]
# There is a best number of micro-batches. Up to this number, the batch gets faster, because the bubble shrinks. Above this
# number, the batch gets slower, because every micro-batch has a fixed cost: a stage reads all its weights again and sends one
# more message. (If a single micro-batch is the quickest on your machine, your two ranks have to share a core.)
#
# Decoding also has a bubble, because the next token of a sequence needs the token before it. So labkit's engine keeps several
# groups of sequences in flight, one group for each stage.
#
# ## Choose
#
# Shards make a single token faster, but need many all-reduces. Stages save memory and send almost nothing, but a single token
# is not faster. Whether shards or stages are better depends on the links between the GPUs. How much does an all-reduce send?
# Large tensors are often added up in a **ring**:

# %%
pictures.ring(4)

# %% [markdown]
# In the first half of the steps the partial sums grow; in the second half the finished parts are copied to all ranks. With n
# ranks there are 2 (n - 1) steps, and in each step a rank sends one n-th of the tensor. For a tensor of b bytes, this gives
# two formulas:
#
# - an all-reduce between n ranks takes `latency + 2 (n - 1) / n · b / rate` seconds,
# - a send takes `latency + b / rate` seconds.
#
# The next exercise uses both formulas. Its function takes two dictionaries, `model` and `machine`, in this form:

# %%
model = {"layers": 28, "hidden": 4096, "heads": 16, "weight_bytes": 12_100_000_000}  # GPT-J 6B
machine = {
    "nodes": 2,
    "gpus": 2,  # in each node
    "memory": 4e9,  # bytes of a GPU
    "read": 6e11,  # bytes a second that a GPU reads from its memory
    "inside": (20e-6, 12e9),  # a message within a node: latency in seconds, rate in bytes a second
    "between": (100e-6, 1.2e9),  # a message from one node to another
}

# %% [markdown]
# {{exercise lab03.choose_layout}}


# %%
def choose_layout(model, machine):
    """(shards, stages) with the shortest time per token."""
    # BEGIN SOLUTION
    gpus, best = machine["nodes"] * machine["gpus"], None
    for shards in range(1, gpus + 1):
        for stages in range(1, gpus // shards + 1):
            if model["heads"] % shards or stages > model["layers"]:
                continue
            if model["weight_bytes"] / (shards * stages) > machine["memory"]:
                continue
            latency, rate = machine["between" if shards > machine["gpus"] else "inside"]
            one = latency + 2 * (shards - 1) / shards * 4 * model["hidden"] / rate
            seconds = model["weight_bytes"] / shards / machine["read"]
            seconds += model["layers"] * one if shards > 1 else 0
            latency, rate = machine["between" if shards * stages > machine["gpus"] else "inside"]
            seconds += (stages - 1) * (latency + 4 * model["hidden"] / rate)
            found = seconds, shards * stages, (shards, stages)
            best = found if best is None or found < best else best
    return best[2]
    # END SOLUTION


# %%
check(choose_layout)

# %%
if passed(choose_layout):
    for factor in (1, 5, 50):  # the same machine, then with slower links
        slower = {name: (factor * machine[name][0], machine[name][1]) for name in ("inside", "between")}
        print(f"{factor} times the latency:", choose_layout(model, machine | slower))

# %% [markdown]
# ## Your machine
#
# At the end, labkit's engine runs gptj-tiny on this machine with 8 sequences: in one process, on two shards, and on two stages.
# Two ranks must share the cores and the memory that one process has for itself, so on this machine they are not faster than one
# process.
#
# **Predict:** one process generates a number of tokens per second. Which fraction of this number do two shards generate? (Two
# GPUs would generate up to twice as many tokens as one GPU, because each GPU has its own memory.)

# %%
# BEGIN SOLUTION guess_shards_share = None
guess_shards_share = 0.8
# END SOLUTION
if predicted(shards=guess_shards_share):
    layouts = {"one process": None, "2 shards": Layout(2, 1), "2 stages": Layout(1, 2)}
    (times, passes), ladder = measurements.run_layouts(layouts), measure.Ladder()
    named = {f"lab 03: {name}": timing for name, timing in times.items()}
    ladder.add_timings(measurements.LAYOUT_TASK, named, where=where)
    reached = measure.ratio(times["one process"], times["2 shards"])
    print("The time of one process against the time of two shards:", reached.words)
    print(f"You predicted that two shards are {guess_shards_share} times as fast.")
    print("Passes through the model for the same tokens:", passes)
    rungs = ladder.of(measurements.LAYOUT_TASK)
    display(plots.ladder_plot(rungs, title="labkit's engine: tokens a second", caption=where))

# %% [markdown]
# Stages send far less than shards, but are not always faster. The number of passes shows why. To keep both stages busy,
# the engine splits the eight sequences into two groups of four. So each stage makes twice as many passes. A pass with four
# sequences takes nearly as long as a pass with eight, because both passes read the same weights. On GPUs, too, stages are an
# advantage only if the model does not fit into one GPU, or if there are enough sequences for large groups.
#
# ## What you have now
#
# - You have cut a layer into parts (a whole transformer, if you did the extras), with as few all-reduces as possible.
# - You can compute the timetable of a pipeline. If you did the extras, you have also built the pipeline itself.
# - You have measured tensor and pipeline parallelism on this machine. If you did the extras, you can also choose between them
#   in advance.
#
# Your points are in the panel at the top (*Look again*). Next: **lab 04**, in which a server receives requests for the model.
