# %% [markdown]
# # Lab 07 · Graph compilers and the ensemble of parts
#
# **After this lab you can** read a model as a graph, say which of its operations a compiler joins and how many bytes that
# saves, cut the graph at the right place, serve the parts as an ensemble, predict what a pipeline of parts gains, and choose a
# compiler by your own measurements.
#
# The lecture shows NVIDIA's **TensorRT**: it gets the whole graph of a model, fuses its operations, and Triton serves a model that is
# too large for one GPU as an ensemble of parts. TensorRT needs an NVIDIA GPU. Here **ONNX Runtime** (ORT) and **torch.compile** do the
# same kind of work on your CPU, so that you can measure it.
#
# *{{lab 07: size}} · runs on any machine. The graphs need labkit's extra `graphs` (`make env` installs it), and one section needs Triton
# Inference Server (Linux). If one of them is missing, a sentence says so; the checks need neither.*
#
# {{lab 07: core path}}

# %%
import math

import labkit
from labkit import measure
from labkit.graphs.levels import compare_levels
from labkit.graphs.plots import levels_plot
from labkit.lab import check, hint, passed, predicted, progress_panel, reset, solution, submit
from labkit.lab.lab07 import compilers, figures, lab03, pictures, real_graphs, served_parts, usable_cores
from labkit.measure import plots

runs = measure.KeptRuns("07")

# %%
progress_panel("07")

# %% [markdown]
# ## What a compiler sees
#
# Until now, Python called one operation after another. A graph compiler gets **all of them before the first one runs**. `labkit
# export` writes such a graph in the format ONNX. Each node is an operation, and makes a tensor that later nodes read. labkit writes
# GPT-J with the smallest operations, so that you can see what is joined. (The first run of the next cell writes the graph.)

# %%
has_graphs = real_graphs.ready()
if has_graphs:
    graph = real_graphs.step_graph()  # gptj-tiny has run once: a prompt of 128 tokens
    begin = real_graphs.block_begins(graph.nodes)[0]  # where the second block begins
    print(f"{len(graph.nodes)} nodes. The layer norm of the second block:")
    for node in graph.nodes[begin : begin + 9]:
        print(node)

# %% [markdown]
# In this lab a node is `(name, operator, reads)`. Its tensor has the name of the node. A tensor that no node makes is a weight,
# a constant or an input.
#
# ## Which nodes become one?
#
# Every node is a **kernel**: it reads its tensors from memory and writes its own. A **pointwise** operator computes each number from
# the numbers at the same place. So a chain of them can keep a number in a register from the first operation to the last.

# %%
pictures.fusion()

# %% [markdown]
# This is allowed only if no node outside the group needs what stays in registers. GELU, for example, is not a chain: three
# nodes read its input. But all three can be in the group, so GELU can still be one kernel.
#
# *An example:* `a = x @ w` · `b = a + bias` · `c = b * b` · `d = b + c` · `e = d @ v`. With the last node `d`: `c` joins, because only
# `d` reads it. `b` joins, because both of its readers are in the group. `a` is not pointwise. The group is `b, c, d`. If a node after
# `d` read `b`, too, then `b` would have to be stored, and the group would be `c, d`.

# %% [markdown]
# {{exercise lab07.fusible_group}}


# %%
def fusible_group(nodes, last, pointwise, results):
    """The names of the nodes that run in one kernel with `last`, in the order of the graph: a list."""
    # BEGIN SOLUTION
    group = {last}
    for name, operator, _ in reversed(nodes):
        readers = {other for other, _, reads in nodes if name in reads}
        if readers and readers <= group and operator in pointwise and name not in results:
            group.add(name)
    return [name for name, _, _ in nodes if name in group]
    # END SOLUTION


# %%
check(fusible_group)

# %% [markdown]
# Now the real graph. Your function finds the groups of every block, and ONNX Runtime optimises the same graph at its highest level.
#
# **Predict:** as exported, layer norm and MLP of a block are 20 kernels. How many does ONNX Runtime leave?

# %%
# BEGIN SOLUTION guess_left = None  # your prediction
guess_left = 5
# END SOLUTION
if has_graphs and passed(fusible_group) and predicted(left=guess_left, at_most=20):
    groups = real_graphs.groups_of(graph, fusible_group)
    fused = real_graphs.step_graph("all")
    before, after = (figures.norm_and_mlp(each) for each in (graph, fused))
    print(f"{len(before)} kernels become {len(after)} in ONNX Runtime; your prediction: {guess_left}")
    print(f"your groups leave {figures.kernels_left(before, groups)}")
    display(figures.before_and_after(graph, fused, groups))

# %% [markdown]
# The lecture's list is in this picture: *"reduction is fused with power ops"* is the layer norm (a mean is a reduction). *"GEMM
# is fused with GELU"* (GEMM: a matrix product) is only partly true on a CPU: ONNX Runtime makes the bias and GELU one kernel,
# and the matrix product stays alone.
#
# ONNX Runtime looks for **patterns**, such as a layer norm, for which somebody wrote a kernel. Your rule stops at a mean. So `Sub` stays
# alone, too: `Pow` and `Div` read it, and a mean separates them. But your rule needs no pattern: it finds groups in a graph that nobody
# has seen before. torch.compile works like your rule, and can also join a mean.

# %% [markdown]
# ## What a fusion saves
#
# A pointwise kernel does little arithmetic for each number that it reads. So its time is the time of its memory traffic, even at the 2
# TB per second of a large GPU, and the gain of a fusion can be computed: count bytes.
#
# *An example:* `b = a + bias` · `c = b * b` · `d = b + c`; each tensor has 100 bytes, and `bias` has 4. Alone, `b` moves 100 + 4 + 100,
# `c` moves 100 + 100 (it reads `b` once), and `d` moves 100 + 100 + 100: 704 bytes. Together they read `a` and `bias` and write `d`:
# 204 bytes. 500 bytes are saved.

# %% [markdown]
# {{exercise lab07.bytes_saved}}


# %%
def bytes_saved(nodes, group, sizes, results):
    """How many fewer bytes are moved if the nodes of `group` run in one kernel, a whole number."""
    # BEGIN SOLUTION
    inside = [node for node in nodes if node[0] in group]
    before = sum(sizes[name] + sum(sizes[t] for t in set(reads)) for name, _, reads in inside)
    read = {t for _, _, reads in inside for t in reads} - set(group)
    needed = {t for name, _, reads in nodes if name not in group for t in reads} | set(results)
    after = sum(sizes[t] for t in read) + sum(sizes[t] for t in group if t in needed)
    return before - after
    # END SOLUTION


# %%
check(bytes_saved)

# %% [markdown]
# The next cells count a whole prefill: as exported, with **your** groups, and in ONNX Runtime, whose profiler reports the bytes
# of each kernel. **Predict:** how many megabytes does the prefill move with your groups? First read what the next cell prints.
# No fusion removes the weights.

# %%
if has_graphs:
    megabytes, weights = graph.moved_bytes / 1e6, graph.weight_bytes / 1e6
    print(
        f"as exported: {graph.kernels} kernels move {megabytes:.1f} MB, of which {weights:.1f} MB are weights"
    )
    if passed(fusible_group):
        groups = real_graphs.groups_of(graph, fusible_group)
        joined = sum(map(len, groups))
        print(f"your {len(groups)} groups join {joined} of the kernels")

# %%
# BEGIN SOLUTION guess_megabytes = None
guess_megabytes = 120
# END SOLUTION
ready = has_graphs and passed(fusible_group) and passed(bytes_saved)
if ready and predicted(megabytes=guess_megabytes, at_most=megabytes):
    fused = real_graphs.step_graph("all")
    saved = [bytes_saved(graph.nodes, group, graph.sizes, graph.results) for group in groups]
    own = graph.kernels - sum(len(group) - 1 for group in groups), graph.moved_bytes - sum(saved)
    rows = {"as exported": (graph.kernels, graph.moved_bytes), "your groups": own}
    rows["ONNX Runtime"] = fused.kernels, fused.moved_bytes
    where = "gptj-tiny, prefill of 128 tokens; your groups are computed, the others are ORT's profile"
    labels = {"title": "One prefill, before and after fusion", "caption": where}
    display(figures.kernels_and_bytes(rows, guess_megabytes, **labels))
    for kind, count in figures.in_operators(graph, groups).items():
        print(f"{count} x {kind}")

# %% [markdown]
# In layer norm and MLP, ONNX Runtime left fewer kernels than you. In the whole graph you win, because your rule also joins what
# fits none of ONNX Runtime's patterns: `Mul Mul Add` and `Mul Mul Sub` (the rotary embedding, of queries and of keys),
# `Add Add Add` (the residual) and `Mul Where` (the mask).
#
# The weights are read once anyway. In a **decode step** they are nearly everything. The next figure shows such a step at each
# optimisation level of ONNX Runtime.

# %%
if has_graphs:
    levels = compare_levels(real_graphs.exported(), past=64)
    display(levels_plot(levels, "gptj-tiny, one new token after 64 cached tokens, 1 thread"))
    for one in levels[-1].fusions[:6]:
        print(f"{one.count} x {one.kind}: {' '.join(one.replaced)}")

# %% [markdown]
# So for one token, a compiler on a CPU saves **launches** rather than bytes: fewer kernels to start. On a large GPU model, the same
# fusions save both.

# %% [markdown]
# ## Where to cut
#
# TensorRT does not divide a model among GPUs. The lecture's way is: cut the graph into parts, make each part a model of its own, and let
# Triton pass the tensors on. But where?

# %%
pictures.parallel_block()

# %% [markdown]
# In GPT-J, attention and MLP read the **same** normed tensor, and both are added to the **same** residual. So a cut between attention
# and MLP must send three tensors, and the MLP's own tensors are four times as wide. *An example:* in the graph `a, b(a), c(b), d(a, c)`, a cut after two nodes sends `a` and `b`: `d` still needs `a`.

# %% [markdown]
# {{exercise lab07.crossing_tensors}}


# %%
def crossing_tensors(nodes, first):
    """The names of the tensors that part 1 sends to part 2, in the order of the graph: a list."""
    # BEGIN SOLUTION
    needed = {tensor for _, _, reads in nodes[first:] for tensor in reads}
    return [name for name, _, _ in nodes[:first] if name in needed]
    # END SOLUTION


# %%
check(crossing_tensors)

# %% [markdown]
# The next cell cuts gptj-tiny after each of its nodes. Positions, the mask and the rotary angles are left out: every part can compute
# them itself. **Predict:** how many times as many bytes does the worst cut send as a cut between two blocks?

# %%
# BEGIN SOLUTION guess_worst = None
guess_worst = 8
# END SOLUTION
if has_graphs and passed(crossing_tensors) and predicted(worst=guess_worst):
    values = real_graphs.of_values(graph)
    nodes, ends = values.nodes, real_graphs.block_begins(values.nodes)
    cuts = [crossing_tensors(nodes, first) for first in range(1, len(nodes))]
    sent = [sum(graph.sizes[name] for name in names) for names in cuts]
    print(f"worst / between blocks: {max(sent) / sent[ends[0] - 1]:.0f}; your prediction: {guess_worst}")
    worst = [node for node in nodes if node[0] in cuts[sent.index(max(sent))]]
    print("it sends:", ", ".join(f"{kind} {graph.sizes[name] / 1e3:.0f} kB" for name, kind, _ in worst))
    print("cut before the fifth block:", cuts[ends[3] - 1])
    display(figures.crossing(sent, ends, None, caption="gptj-tiny, prefill of 128 tokens"))

# %% [markdown]
# The worst cut goes through GELU: three of its tensors, each four times as wide as the hidden state, cross together with the residual
# and the result of attention, 3 × 4 + 2. Between two blocks there is one tensor, the hidden state: a **seam**. labkit's export cuts at
# seams, and lab 03 cut its pipeline there, too. (At the right end, the head needs the hidden state of one token only.)

# %% [markdown]
# {{core path: go on at The parts as an ensemble}}

# %% [markdown]
# ### The seam that balances the parts
#
# Which seam is best? The slower of the two parts decides how many requests per second are possible. *An example:* blocks of 3,
# 3, 3 and 4 milliseconds, with a head of 3: the cut 3 + 3 + 3 | 4 + 3 has a slower part of 9, and 3 + 3 | 3 + 4 + 3 one of 10.

# %% [markdown]
# {{exercise lab07.best_seam}}


# %%
def best_seam(nodes, work, sizes, most):
    """The number of nodes in part 1, or None if every cut sends too much."""
    # BEGIN SOLUTION
    cuts, made = [], {name for name, _, _ in nodes}
    for first in range(1, len(nodes)):
        needed = {tensor for _, _, reads in nodes[first:] for tensor in reads}
        sent = sum(sizes[name] for name, _, _ in nodes[:first] if name in needed & made)
        times = [sum(work[name] for name, _, _ in part) for part in (nodes[:first], nodes[first:])]
        if sent <= most:
            cuts.append((max(times), sent, first))
    return min(cuts)[2] if cuts else None
    # END SOLUTION


# %%
check(best_seam)

# %% [markdown]
# gptj-tiny has 8 blocks. Its head computes 8,192 logits from 256 numbers, but in a prefill of 128 tokens only for the last
# token. The matrix products of a block have 12 × 256 × 256 weights, and run for every token. Does the head move the seam?
# **Predict:** how many blocks take as long as the head (0.5 is half a block)?

# %%
# BEGIN SOLUTION guess_head = None
guess_head = 0.02
# END SOLUTION
if has_graphs and passed(crossing_tensors) and passed(best_seam) and predicted(head=guess_head):
    values = real_graphs.of_values(graph)
    nodes, ends = values.nodes, real_graphs.block_begins(values.nodes)
    sent = [sum(graph.sizes[t] for t in crossing_tensors(nodes, k)) for k in range(1, len(nodes))]
    seam = best_seam(nodes, values.work, values.sizes, sent[ends[0] - 1])
    block, head = (
        sum(values.work[name] for name, _, _ in some)
        for some in (nodes[ends[0] : ends[1]], real_graphs.head(nodes))
    )
    print(f"the head takes as long as {head / block:.2f} blocks; your prediction: {guess_head}")
    print(f"whole blocks in part 1: {sum(end <= seam for end in ends)} of 8")
    for name, part in (("part 1", nodes[:seam]), ("part 2", nodes[seam:])):
        print(f"{name}: {sum(values.work[node[0]] for node in part) / 1e3:.1f} ms measured")
    if values.disturbed:
        print(values.disturbed)
    display(figures.crossing(sent, ends, seam, caption="gptj-tiny, prefill of 128 tokens"))

# %% [markdown]
# ## The parts as an ensemble
#
# Each part becomes a model of Triton, and an **ensemble** connects them: it has no code, only names. The lecture shows one with
# two parts of a GPT-3 with 18 B parameters: output `4888` of part 1 goes into the wire `middle_tensor`, and part 2 reads it.
# Each part has two maps, for its inputs and for its outputs. The key of a map is the model's tensor, the value is the **wire**.

# %%
pictures.parts_on_a_server()

# %% [markdown]
# *An example:* part `a` reads `x` and makes `y`, part `b` reads `x` and makes `y`. The client sends `x` and reads `y`. The maps
# are `{"a": ({"x": "x"}, {"y": "_seam_1"}), "b": ({"x": "_seam_1"}, {"y": "y"})}`. If every wire had the name of its tensor,
# `b` would get the client's `x`.

# %% [markdown]
# {{exercise lab07.part_maps}}


# %%
def part_maps(parts):
    """{model: (input_map, output_map)} of an ensemble whose steps are the parts."""
    # BEGIN SOLUTION
    maps = {}
    for k, (model, inputs, outputs) in enumerate(parts):
        into, out = {name: name for name in inputs}, {name: name for name in outputs}
        if k > 0:
            into[inputs[0]] = f"_seam_{k}"
        if k < len(parts) - 1:
            out[outputs[0]] = f"_seam_{k + 1}"
        maps[model] = into, out
    return maps
    # END SOLUTION


# %%
check(part_maps)

# %% [markdown]
# The next cell exports gptj-tiny in two parts of 4 blocks, and starts the real server with two models: `whole`, and `parts`, the
# ensemble with your maps. In both, ONNX Runtime computes with one thread in each model. The caches travel with each request, so the
# server keeps nothing, and any copy of a part can take any request.

# %%
has_server = served_parts.ready() and passed(part_maps)
if has_server:
    server = served_parts.ServedParts(part_maps)
    with labkit.load("gptj-tiny", dtype="fp32", device="cpu") as engine:
        ids = engine.tokenizer.encode("In the beginning")
        for name, tokens in server.greedy(ids, 12).items():
            print(f"{name}: {engine.tokenizer.decode(tokens)!r}")

# %% [markdown]
# ## What a pipeline gains
#
# A single request is not faster in parts: it passes one part after the other, and is handed over between them. But while one request is
# in part 2, the next can be in part 1. This is lab 03's pipeline, with requests as micro-batches.

# %%
lab03.timetable(2, 4, piece_word="request", stage_word="part", first_stage=1)

# %% [markdown]
# *An example:* two parts of 4 and 6 ms, a request takes 12 ms alone, 2 cores. One user sends at most 1 / 0.012 = 83 requests per second.
# Ten users could send 833, but the slower part takes at most 1 / 0.006 = 167, and the cores at most 2 / 0.010 = 200. So it is 167.

# %% [markdown]
# {{exercise lab07.pipelined_rate}}


# %%
def pipelined_rate(seconds, latency, users, cores):
    """The requests per second that users, parts and cores allow, a number."""
    # BEGIN SOLUTION
    return min(users / latency, 1 / max(seconds), cores / sum(seconds))
    # END SOLUTION


# %%
check(pipelined_rate)

# %% [markdown]
# The next cell sends single requests (a prefill of 128 tokens), and reads from the server how long each part computed.

# %%
has_load = has_server and passed(pipelined_rate)
if has_load:
    alone = runs.keep("single requests", server.alone)["models"]
    for name, one in alone.items():
        parts = " + ".join(f"{1e3 * part:.1f}" for part in one["seconds"])
        print(f"{name}: {1e3 * one['latency']:.1f} ms for a request alone, computing {parts} ms")
    print(f"{usable_cores()} cores, which the server and its users share")

# %% [markdown]
# Now 1, 2 and 4 users send requests to `whole` and `parts` in turn. **Predict:** with 4 users, how many times as many requests per
# second do the parts answer?

# %%
# BEGIN SOLUTION guess_gain = None
guess_gain = 1.5
# END SOLUTION
counts = [1, 2, 4]
has_load = has_load and predicted(gain=guess_gain)
if has_load:
    loads = runs.keep("loads", lambda: server.under_load(counts, alone["whole"]["latency"]))

# %%
if has_load:
    rates = {
        name: [pipelined_rate(one["seconds"], one["latency"], users, usable_cores()) for users in counts]
        for name, one in alone.items()
    }
    formula = [part / whole for part, whole in zip(rates["parts"], rates["whole"])]
    low, middle, high = zip(*served_parts.gains(loads).values())
    bars = {"your prediction": [math.nan, math.nan, guess_gain], "your formula": formula}
    labels = {"ylabel": "requests per second, parts / whole", "title": "The gain of two parts"}
    labels |= {"ranges": {"measured": list(zip(low, high))}}
    where = f"gptj-tiny, 128 tokens, {usable_cores()} cores; whiskers: lowest and highest round"
    names = ["1 user", "2 users", "4 users"]
    display(plots.prediction_plot(names, bars | {"measured": list(middle)}, **labels, caption=where))

# %% [markdown]
# Where the measurement is below your formula, look for what the formula leaves out: the users' own work, the server's, and the
# copies of the hidden state between processes need the same cores. Two copies of the whole model would gain more, but hold the
# weights twice. In a real deployment, each part has its own GPU, because the model does not fit on one GPU: then the parts are
# there for memory, not for speed, and the pipeline keeps the GPUs from idling.

# %%
if has_server:
    server.stop()

# %% [markdown]
# ## Which compiler?
#
# A compiler costs time before it saves any. With many steps, this time hardly matters; with a single answer, it can matter
# most. And a way that rounds to 8 bits must be accurate enough.

# %% [markdown]
# {{exercise lab07.choose_compiler}}


# %%
def choose_compiler(table, steps, most_error):
    """The name of the way that finishes all its steps first, or None."""
    # BEGIN SOLUTION
    totals = {}
    for name, (compile_seconds, step_seconds, error) in table.items():
        if error <= most_error:
            totals[name] = compile_seconds + steps * step_seconds
    return min(totals, key=totals.get) if totals else None
    # END SOLUTION


# %%
check(choose_compiler)

# %% [markdown]
# The next cell builds seven ways to run gptj-tiny, and then times decode steps of all of them in turn: the graph in plain torch
# (*eager*), under torch.compile, in ONNX Runtime without and with optimisation and in 8 bits, and labkit's engine in fp32 and
# int8. *Ready after* includes reading the weights and compiling. The error is the share of greedy tokens that differ from
# eager. The cell takes one to three minutes, most of this for torch.compile.
#
# **Predict:** how many times faster is a step after torch.compile than eager, and in ONNX Runtime with all optimisations than with none?

# %%
# BEGIN SOLUTION guess_compiled, guess_optimised = None, None
guess_compiled, guess_optimised = 2, 1.5
# END SOLUTION
has_table = has_graphs and passed(choose_compiler)
has_table = has_table and predicted(compiled=guess_compiled, optimised=guess_optimised)
if has_table:
    found = runs.keep("compilers", compilers.measure)
    compilers.tell(found)
    step = {way: row["step"] for way, row in found["rows"].items()}
    pairs = {"torch.compile": "eager", "ORT, all": "ORT, none"}
    gains = [step[slow] / step[way] if way in step else math.nan for way, slow in pairs.items()]
    bars = {"your prediction": [guess_compiled, guess_optimised], "measured": gains}
    labels = {"ylabel": "times faster", "title": "What compiling gains, decode with one sequence"}
    names = ["torch.compile / eager", "ORT: all / none"]
    display(plots.prediction_plot(names, bars, **labels, caption="gptj-tiny, 64 cached tokens"))

# %%
if has_table:
    table, steps = compilers.table(found), [1, 10, 100, 1_000, 10_000, 100_000]
    lines = {way: [begin + n * each for n in steps] for way, (begin, each, _) in table.items()}
    engine = {"labkit": lines.pop("labkit")}
    table = {way: table[way] for way in lines if way != "labkit, int8"}
    marks = {}
    for n, most in ((10, 0.02), (100_000, 0.02), (100_000, 0.5)):
        best = choose_compiler(table, n, most)
        marks[f"you: {n:,} steps, {most:.0%}: {best}"] = n, lines[best][steps.index(n)]
    lines = {way: lines[way] for way in table}
    labels = {
        "xlabel": "decode steps",
        "ylabel": "seconds until all are done",
        "title": "Which way is done first?",
    }
    where = "gptj-tiny; you: your choice; percent: how many of the tokens may differ from eager"
    display(plots.sweep_plot(steps, lines, limits=engine, marks=marks, **labels, caption=where))

# %% [markdown]
# You chose among the compilers; the dashed line is labkit's engine. Two lines cross where compiling has paid off. A server that runs for
# a day is far to the right; a notebook that answers once is at the left. And an engine that is written for one model needs no
# compiler: its fusions were found by people.
#
# Look at the largest gap in your table. *ORT, none* runs the same graph as eager, kernel by kernel. What it saves is Python,
# which calls every operation of eager. After that, fewer kernels can gain little or nothing here (*ORT, all* against *none*):
# in a small step on a CPU, starting a kernel is cheap, and most of the time is in the matrix products, which no fusion
# shortens. On a GPU, launches cost more.
#
# **And TensorRT?** It is *not measured here*: it needs an NVIDIA GPU. It adds one thing to this list: it **times** several kernels for
# each node on your GPU and keeps the fastest, which is why building a *plan* (its compiled model) takes minutes. `labkit.graphs.tensorrt` builds and runs such
# plans, and `labkit export --platform tensorrt_plan` writes the ensemble for it.

# %% [markdown]
# ## What you have now
#
# - The rule by which a compiler joins pointwise nodes, and the bytes that this saves, next to what ONNX Runtime does.
# - GPT-J in two parts on a real server, wired by you, with a gain that you predicted.
# - A table of compilers from one run on your machine, and a choice that depends on the number of steps.
#
# `labkit export --help` shows how to do this with a model of your own. Your points are in the panel at the top (*Look again*).
