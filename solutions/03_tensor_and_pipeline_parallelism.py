# %% [markdown]
# # Lab 03 · Tensor and pipeline parallelism
#
# **After this lab you can** cut a model over several processes or GPUs by hand, say before it runs what will pass between
# them and what that costs, and choose a layout for a machine. You rebuild what Megatron-LM and FasterTransformer do.
#
# *About 170 minutes, 140 of them for the 9 exercises · 100 points · runs on any machine: your functions run on real processes here, with the
# same `torch.distributed` calls that they would make between GPUs or hosts.*

# %%
import torch
import torch.nn.functional as F
from torch import distributed as dist

from labkit import measure
from labkit.exercises.lab03 import measurements
from labkit.exercises.lab03.pipeline import run_layers
from labkit.exercises.lab03.small_gptj import attend, gelu
from labkit.grading import check, hint, passed, predicted, progress_panel
from labkit.measure import plots
from labkit.parallel import Layout
from labkit.launch import launch

torch.set_grad_enabled(False)
where = f"processes of one host, torch {torch.__version__}"

# %%
progress_panel("03")

# %% [markdown]
# ## One program, several ranks
#
# A distributed program is a function that several processes run at the same time. They are called **ranks**, numbered from 0,
# and each asks for its own number. Data passes between them only where all of them call the same **collective**, or where one
# sends and another receives. `launch(function, ranks, ...)` starts real processes, and calls your function on each.
#
# What travels to them: the function's source, and what it uses of yours, as long as that is a function made by `def`, a module,
# a plain value, a tensor, or a list or dictionary of these. Classes and objects of your own stay here.


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
# What passed between ranks is in the **ledger**, an entry a collective: on which rank, on what shape, bytes, seconds. Every
# exercise below is held against it, beside its values.
#
# Before you go on: what if one rank does not come? Run this, and read what the error says (`on ...` is the host's name).
# Nobody waits for ever: a collective gives up after `timeout` seconds.

# %%
for entry in first.ledger:
    print(
        f"rank {entry.rank}: {entry.what} of {entry.shape}, {entry.byte_count} bytes, {1e3 * entry.seconds:.2f} ms"
    )


def forgetful():
    if dist.get_rank() != 1:  # rank 1 does not come
        dist.all_reduce(torch.ones(4))


try:
    launch(forgetful, 2, timeout=2)
except Exception as error:
    print(type(error).__name__, "·", error)

# %% [markdown]
# A collective costs time even if it carries next to nothing: everybody waits for everybody. That is its **latency**.
#
# **Predict:** how many microseconds does an all-reduce of 4 bytes take between two processes here? Of 4 MB?

# %%
# BEGIN SOLUTION guess_small_us, guess_large_us = None, None
guess_small_us, guess_large_us = 200, 5000
# END SOLUTION
if predicted(small=guess_small_us, large=guess_large_us):
    times = measurements.sum_times(2, [4, 4_000, 40_000, 400_000, 4_000_000])
    for size in (4_000, 4_000_000):
        print(f"{size:,} bytes take {measure.ratio(times[size], times[4])} as long as 4 bytes")
    took = {"measured: median": [1e6 * timing.median for timing in times.values()]}
    half = {"measured: median": [(1e6 * timing.low, 1e6 * timing.high) for timing in times.values()]}
    guesses = {"your guesses, joined": [guess_small_us] * 4 + [guess_large_us]}
    labels = {"xlabel": "bytes", "ylabel": "microseconds (band: quartiles)", "caption": where}
    title = "How long an all-reduce takes on two ranks"
    display(plots.sweep_plot(list(times), took, bands=half, limits=guesses, title=title, **labels))

# %% [markdown]
# Compare the two lines above the figure: a thousand times the bytes are nearly free where the curve is flat, and a million
# times are not. A token's hidden state in GPT-J 6B has 4,096 numbers, 16 kB. That lies in the flat part, so latency is most of
# what there is to save. Count calls first, then bytes.
#
# ## A product in parts
#
# A linear layer's weight `[out, in]` can be cut in two ways. By **output features**, each rank makes some of them from the
# whole input.

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
# (Megatron-LM calls this *column parallel*, since it writes a weight as `[in, out]`.) By **input features**, each rank has
# some of the numbers that every output is made of.

# %% [markdown]
# {{exercise lab03.split_rows}}


# %%
def split_rows(x, weight, bias):
    """The whole F.linear on every rank, of shares x [tokens, share] and weight [out, share]."""
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
# The two fit together: cut the first layer of an MLP by output and the second by input. What the first one makes on a rank is
# just what the second one needs there, and nothing passes between them. Attention is the same: heads are independent, from
# query, key and value up to the output projection.
#
# **Predict:** the file of gptj-tiny holds 21 MB of weights (2 bytes each, 8 blocks, hidden size 256), embedding and head
# included. Which of its tensors cannot be cut, so that every rank reads them, and how many kB are they?

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
    title = "What every rank reads of a file of 21 MB"
    display(plots.prediction_plot(list(whole), shown, ylabel="kB", title=title, caption=where))

# %% [markdown]
# Next to nothing is read twice: only the layer norms, which need all numbers of a token (a weight and a bias of 256 each, once a
# block and once at the end). So n ranks hold an n-th of the model each, and no rank ever holds it in full. FasterTransformer wrote a file for each rank instead; `labkit convert` reads and writes its form.
#
# ## A block, and one sum
#
# Now the block itself. Most models add up twice a layer, behind attention and behind the MLP, which needs attention's
# result. GPT-J's MLP does not.
#
# **Predict:** one token goes through 28 small blocks on two processes of this machine. How many times as long does it take
# with two all-reduces a block as with one?

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
    print(f"Yours: {sums[0]} sums, {one}. The other: {sums[1]} sums, {two}. That is {times}.")
    names = [f"{sums[1]} sums in place of {sums[0]}"]
    shown = {"measured": [times.median], "your prediction": [guess_two_sums]}
    half = {"measured": [(times.low, times.high)]}
    labels = {"ylabel": "times as long (whisker: quartiles)", "caption": where}
    title = "A token through 28 blocks: two sums a block against one"
    display(plots.prediction_plot(names, shown, ranges=half, title=title, **labels))

# %% [markdown]
# Twice the sums are not twice the time, since only the waiting doubles: the products of a block are computed once in either
# way. The smaller the products are (more shards, fewer tokens), the closer it comes to 2. FasterTransformer and Megatron-LM
# have one code for all their models and add up twice. labkit's engine adds up once a block.
#
# ## The vocabulary
#
# Embedding and head are large, too: 50,400 rows in GPT-J. Each rank holds some. For the embedding, the rank that has a
# token's row gives it, the others give zeros, and one all-reduce makes it known to all. The head needs more thought.

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
# That is a whole tensor parallel model. **Pipeline parallel** is the other way to cut: whole blocks go to different ranks,
# called stages, and the hidden state goes from stage to stage. You can say what any step will send. The rule that you wrote for
# rows in 3.1 is given here, for blocks:

# %%
from labkit.exercises.lab03.counting import share

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
# Does labkit's engine do that? The next cell lays gptj-tiny out on two shards, then on two stages, runs a decode step of
# four sequences, and reads the ledger of rank 0 or, for stages, of the rank in front.

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
    title = "A step of 4 sequences: how often one rank calls"
    display(plots.prediction_plot(names, shown, ylabel="calls", title=title, caption=where))

# %% [markdown]
# Stages send far less, and far less often. That does not make them faster: one token goes through one stage after the other, and
# while it is in one, the others stand idle, unless they have something else to do. Waiting is what stages cost.
#
# ## A pipeline
#
# So a batch is cut into **micro-batches**, which follow one another through the stages.

# %% [markdown]
# {{exercise lab03.pipeline_stage}}


# %%
def pipeline_stage(pieces, shapes, layers):
    """Take each micro-batch, compute, hand it on; the last stage returns the list of results, others []."""
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
# Before you see it run, plan it. A pipeline fills and drains: at its begin and its end some stages have nothing to do. That
# is its **bubble**.
#
# **Predict:** 512 tokens go through two equal stages as 2 or as 8 micro-batches. Which share of the time (a number between 0
# and 1) do the stages stand idle, on average?

# %%
# BEGIN SOLUTION guess_idle_2, guess_idle_8 = None, None
guess_idle_2, guess_idle_8 = 1 / 3, 1 / 9
# END SOLUTION

# %% [markdown]
# {{exercise lab03.pipeline_schedule}}


# %%
def pipeline_schedule(seconds, pieces):
    """(begins, idle): when each stage begins with each micro-batch, and the share of idle time."""
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

# %% [markdown]
# Now your stage runs on two real processes, and the timeline shows who worked when: a bar is a micro-batch in a stage.

# %%
if passed(pipeline_stage) and predicted(two=guess_idle_2, eight=guess_idle_8, as_share=True):
    runs = measurements.run_pipelines(pipeline_stage, (1, 2, 4, 8, 16, 32))
    for count in (1, 8):
        title = f"Micro-batches: {count}. Idle: {measurements.idle_share(runs[count]):.0%}"
        display(plots.timeline_plot(measurements.bars_of(runs[count]), title=title, caption=where))

# %%
is_planned = passed(pipeline_schedule) and passed(pipeline_stage)
if is_planned and predicted(two=guess_idle_2, eight=guess_idle_8, as_share=True):
    plans = {n: pipeline_schedule(measurements.stage_seconds(run), n) for n, run in runs.items()}
    shown = {
        "your timetable": [100 * idle for _, idle in plans.values()],
        "measured": [100 * measurements.idle_share(run) for run in runs.values()],
    }
    guesses = {"your guesses": {"2": 100 * guess_idle_2, "8": 100 * guess_idle_8}}
    labels = {"ylabel": "percent of the time", "caption": f"groups: micro-batches; {where}"}
    title = "Idle time of two stages, by the number of micro-batches"
    display(plots.prediction_plot(list(map(str, runs)), shown, marks=guesses, title=title, **labels))

# %% [markdown]
# The more micro-batches, the smaller the bubble. Where the measured share lies above the timetable, it is what a timetable of
# this kind leaves out: a micro-batch is handed on for itself, and that takes time on each. Is less idle time a faster batch?

# %%
if is_planned and predicted(two=guess_idle_2, eight=guess_idle_8, as_share=True):
    ends = [begins[-1][-1] + measurements.stage_seconds(runs[n])[-1] for n, (begins, _) in plans.items()]
    took = {n: 1e3 * measurements.batch_seconds(run) for n, run in runs.items()}
    shown = {"your timetable": [1e3 * end for end in ends], "measured": list(took.values())}
    for n in (8, 32):
        late = 1e3 * measurements.hand_over_seconds(runs[n])
        work = 1e3 * sum(measurements.stage_seconds(runs[n])) / 2
        print(
            f"{n} micro-batches: each works {work:.2f} ms in a stage, and is handed on in {late:.2f} ms"
        )
    print(f"Quickest: {min(took, key=took.get)} micro-batches, {min(took.values()):.1f} ms")
    labels = {"ylabel": "milliseconds", "caption": f"groups: micro-batches; {where}"}
    title = "How long a batch of 512 tokens takes in two stages"
    display(plots.prediction_plot(list(map(str, runs)), shown, title=title, **labels))

# %% [markdown]
# There is a best number. Up to it the bubble shrinks; beyond it what each micro-batch costs for itself weighs more: a stage
# reads all its weights again for every one, so that small ones take more than their share of the work, and each is handed
# on. (Is a single one the quickest here? Then your two ranks have no core each.)
#
# Decoding has a bubble of its own: the next token of a sequence needs the one before. labkit's engine keeps a step of
# different sequences in flight for each stage.
#
# ## Choose
#
# Shards make a single token faster, and pay by many all-reduces. Stages save memory, and send next to nothing. Which is best
# depends on what lies between the GPUs. The exercise takes a model and a machine, dictionaries of this form:

# %%
model = {"layers": 28, "hidden": 4096, "heads": 16, "weight_bytes": 12_100_000_000}  # GPT-J 6B
machine = {
    "nodes": 2,
    "gpus": 2,  # in each node
    "memory": 4e9,  # bytes of a GPU
    "read": 6e11,  # bytes a second that a GPU reads of its memory
    "inside": (20e-6, 12e9),  # of a message within a node: latency in seconds, rate in bytes a second
    "between": (100e-6, 1.2e9),  # of a message from node to node
}

# %% [markdown]
# {{exercise lab03.choose_layout}}


# %%
def choose_layout(model, machine):
    """(shards, stages) with the shortest time of a token."""
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
    for times in (1, 5, 50):  # the same machine, and with slower links
        slower = {name: (times * machine[name][0], machine[name][1]) for name in ("inside", "between")}
        print(f"{times} times the latency:", choose_layout(model, machine | slower))

# %% [markdown]
# ## Your machine
#
# Last, labkit's engine on this machine: 8 sequences of gptj-tiny, in one process, on two shards, on two stages. All ranks
# share the cores and the memory that one process has for itself. So more ranks gain nothing here, as long as nothing else
# runs on the machine.
#
# **Predict:** what share of one process's tokens a second do two shards reach? (Between two GPUs it would be up to twice as
# many: each has a memory of its own.)

# %%
# BEGIN SOLUTION guess_shards_share = None
guess_shards_share = 0.8
# END SOLUTION
if predicted(shards=guess_shards_share):
    layouts = {"one process": None, "2 shards": Layout(2, 1), "2 stages": Layout(1, 2)}
    (times, passes), ladder = measurements.run_layouts(layouts), measure.Ladder()
    for name, timing in times.items():
        ladder.add_timing(f"lab 03: {name}", timing, tokens=measurements.TOKENS, where=where)
    reached = measure.ratio(times["one process"], times["2 shards"])
    print(f"Two shards: {reached} as fast as one process; your prediction was {guess_shards_share}")
    print("Passes through the model for the same tokens:", passes)
    rungs = [rung for rung in ladder.rungs if rung.name.startswith("lab 03")]
    display(plots.ladder_plot(rungs, title="labkit's engine: tokens a second", caption=where))

# %% [markdown]
# Stages send far less than shards; look at the passes to see why they need not be faster. To keep both stages busy, the engine
# takes the eight sequences as two groups of four, so each stage makes twice the passes. A pass of four costs nearly as much as
# one of eight, since it reads the same weights and calls the same operations. Between GPUs it is the same: stages pay off
# where the model does not fit, or where there are sequences for large groups.
#
# ## What you have now
#
# - A transformer in parts, with the fewest sums, that no rank holds in full.
# - A pipeline that you wrote and whose timetable you can compute.
# - A way to choose a layout before you rent the machine.
#
# Your points are in the panel at the top (*Look again*). Next: **lab 04**, where a server takes requests for all of it.
