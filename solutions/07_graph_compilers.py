# %% [markdown]
# # Lab 07 · Graph compilers and the ensemble of parts
#
# **After this lab you can** read a model as a graph, say which of its operations a compiler fuses and how many bytes this
# saves, cut the graph at the right place, serve the parts as an ensemble, predict how much faster a pipeline of parts is, and
# choose a compiler by your own measurements.
#
# The lecture shows NVIDIA's **TensorRT**, which gets the whole graph of a model and fuses its operations. If a model is too
# large for one GPU, Triton serves it as an ensemble of parts. TensorRT needs an NVIDIA GPU. In this lab, **ONNX Runtime** (ORT)
# and **torch.compile** do the same kind of work on your CPU, so that you can measure it.
#
# *{{lab 07: size}} · runs on any machine. The graphs need labkit's extra `graphs` (`make env` installs it), and one section
# needs Triton Inference Server (Linux). If the extra or the server is missing, a sentence says so; the checks need neither of
# them.*
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
# Until now, Python called one operation after another. A graph compiler gets **all operations before the first operation
# runs**. `labkit export` writes such a graph in the format ONNX. Each node is an operation, and makes a tensor that later nodes
# read. labkit writes GPT-J with the smallest operations, so that you can see which operations are fused. (The first run of the
# next cell writes the graph.)

# %%
has_graphs = real_graphs.ready()
if has_graphs:
    graph = real_graphs.step_graph()  # gptj-tiny has run once: a prompt of 128 tokens
    begin = real_graphs.block_begins(graph.nodes)[0]  # where the second block begins
    print(f"{len(graph.nodes)} nodes. The layer norm of the second block:")
    for node in graph.nodes[begin : begin + 9]:
        print(node)

# %% [markdown]
# In this lab a node is `(name, operator, reads)`. The tensor that it makes has the name of the node. A tensor that no node
# makes is a weight, a constant or an input.
#
# ## Which nodes become one?
#
# Every node is a **kernel**: it reads tensors from memory and writes the tensor that it makes. A **pointwise** operator
# computes each number from the numbers at the same place. So a chain of pointwise operations can keep a number in a register
# from the first operation to the last operation.

# %%
pictures.fusion()

# %% [markdown]
# The nodes of such a group become one kernel. This is allowed only if no node outside the group needs a number that stays in
# registers. GELU, for example, is not a chain: three nodes read its input. But all three nodes can be in the group, so GELU can
# still be one kernel.
#
# *An example:* `a = x @ w` · `b = a + bias` · `c = b * b` · `d = b + c` · `e = d @ v`. The last node of the group is `d`. `c`
# joins the group, because only `d` reads `c`. `b` joins the group, because both nodes that read `b` are in the group. `a` does
# not join the group, because it is not pointwise. The group is `b, c, d`. If a node after `d` read `b`, too, then `b` would
# have to be stored, and the group would be `c, d`.

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
# In the next cell, your function finds the groups of every block in the real graph, and ONNX Runtime optimises this graph at
# its highest level.
#
# **Predict:** in the exported graph, layer norm and MLP of a block are 20 kernels. How many kernels does ONNX Runtime leave?

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
# This picture shows the fusions that the lecture lists: *"reduction is fused with power ops"* is the layer norm (a mean is a
# reduction). *"GEMM is fused with GELU"* (a GEMM is a matrix product) is only partly true on a CPU: ONNX Runtime fuses the bias
# and GELU into one kernel, and the matrix product stays a kernel of its own.
#
# ONNX Runtime looks for **patterns**, such as a layer norm, for which somebody wrote a kernel. Your rule stops at a mean. So
# `Sub` stays a kernel of its own, too: `Pow` and `Div` read the result of `Sub`, and a mean lies between `Pow` and `Div`. But
# your rule needs no pattern: it finds groups in a graph that nobody has seen before. torch.compile works like your rule, and
# can also fuse a mean.

# %% [markdown]
# ## What a fusion saves
#
# A pointwise kernel does little arithmetic for each number that it reads. So its time is the time of its memory traffic, even
# on a large GPU that moves 2 TB per second. You can compute the gain of a fusion if you count bytes.
#
# *An example:* `b = a + bias` · `c = b * b` · `d = b + c`; `bias` has 4 bytes, and each other tensor has 100 bytes. As separate
# kernels, `b` moves 100 + 4 + 100 bytes, `c` moves 100 + 100 bytes (it reads `b` once), and `d` moves 100 + 100 + 100 bytes:
# 704 bytes in total. As one kernel, they read `a` and `bias` and write `d`: 204 bytes. So 500 bytes are saved.

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
# The next cells count the bytes of a whole prefill: for the exported graph, with **your** groups, and in ONNX Runtime, whose
# profiler reports the bytes of each kernel. **Predict:** how many megabytes does the prefill move with your groups? First read
# the text that the next cell prints. The weights must be read with any fusion.

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
# In layer norm and MLP, ONNX Runtime left fewer kernels than your groups. In the whole graph your groups leave fewer kernels,
# because your rule also fuses operations that fit none of ONNX Runtime's patterns: `Mul Mul Add` and `Mul Mul Sub` (the rotary
# embedding of queries and keys), `Add Add Add` (the residual) and `Mul Where` (the mask).
#
# The weights are read once with any fusion. In a **decode step** nearly all bytes are weights. The next figure shows a decode
# step at each optimisation level of ONNX Runtime.

# %%
if has_graphs:
    levels = compare_levels(real_graphs.exported(), past=64)
    display(levels_plot(levels, "gptj-tiny, one new token after 64 cached tokens, 1 thread"))
    for one in levels[-1].fusions[:6]:
        print(f"{one.count} x {one.kind}: {' '.join(one.replaced)}")

# %% [markdown]
# So for one token, a compiler on a CPU saves **launches** rather than bytes: there are fewer kernels to start. With a large
# model on a GPU, these fusions save launches and bytes.

# %% [markdown]
# ## Where to cut
#
# TensorRT does not divide a model among GPUs. The lecture solves this as follows: cut the graph into parts, make each part a
# model of its own, and let Triton pass the tensors from part to part. But where should you cut?

# %%
pictures.parallel_block()

# %% [markdown]
# In GPT-J, attention and MLP read the **same** normed tensor, and the results of both are added to the **same** residual. So a
# cut between attention and MLP must send three tensors, and the tensors inside the MLP are four times as wide. *An example:* in
# the graph `a, b(a), c(b), d(a, c)`, a cut after two nodes sends `a` and `b`, because `c` needs `b`, and `d` still needs `a`.

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
# The next cell tries a cut of gptj-tiny after each of its nodes. Positions, the mask and the rotary angles are not counted,
# because every part can compute them itself. **Predict:** how many times as many bytes does the worst cut send as a cut between
# two blocks?

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
# The worst cut goes through GELU: it sends three tensors of GELU, each four times as wide as the hidden state, together with
# the residual and the result of attention. This is 3 × 4 + 2 times the hidden state. A cut between two blocks sends one tensor,
# the hidden state; such a cut is a **seam**. labkit's export cuts at seams, and lab 03 cut its pipeline at seams, too. (At the
# right end of the figure, the head needs the hidden state of one token only.)

# %% [markdown]
# {{core path: go on at The parts as an ensemble}}

# %% [markdown]
# ### The seam that balances the parts
#
# Which seam is best? The slower of the two parts decides how many requests per second are possible. *An example:* the blocks
# take 3, 3, 3 and 4 milliseconds, and the head takes 3. With the cut 3 + 3 + 3 | 4 + 3, the slower part takes 9 milliseconds.
# With the cut 3 + 3 | 3 + 4 + 3, the slower part takes 10 milliseconds.

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
# token. The matrix products of a block have 12 × 256 × 256 weights, and run for every token. Does the time of the head change
# which seam is best? **Predict:** how many blocks take as long as the head (0.5 is half a block)?

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
# Each part becomes a model of Triton, and an **ensemble** connects the parts: it has no code, only names. The lecture shows an
# ensemble with two parts of a GPT-3 with 18 B parameters: output `4888` of part 1 goes into the wire `middle_tensor`, and part
# 2 reads this wire. Each part has two maps, one for its inputs and one for its outputs. The key in a map is the name of the
# model's tensor, and the value is the name of the **wire**.

# %%
pictures.parts_on_a_server()

# %% [markdown]
# *An example:* part `a` reads `x` and makes `y`, and part `b` reads `x` and makes `y`. The client sends `x` and reads `y`. The
# maps are `{"a": ({"x": "x"}, {"y": "_seam_1"}), "b": ({"x": "_seam_1"}, {"y": "y"})}`. If every wire had the name of its
# tensor, `b` would get the client's `x`.

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
# The next cell exports gptj-tiny in two parts of 4 blocks, and starts the real server with `whole` (the model in one part) and
# `parts` (the ensemble with your maps). In each model, ONNX Runtime computes with one thread. The caches travel with each
# request, so the server keeps nothing, and any copy of a part can take any request.

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
# A single request is not faster if the model is in parts: the request passes one part after the other, and handing it over
# takes time. But while one request is in part 2, the next request can be in part 1. This is the pipeline of lab 03, with
# requests as micro-batches.

# %%
lab03.timetable(2, 4, piece_word="request", stage_word="part", first_stage=1)

# %% [markdown]
# *An example:* two parts compute for 4 and 6 ms, a single request takes 12 ms, and there are 2 cores. One user sends at most
# 1 / 0.012 = 83 requests per second. Ten users could send 833 requests per second, but the slower part can compute at most
# 1 / 0.006 = 167 of them, and the cores can compute at most 2 / 0.010 = 200. So 167 requests per second are possible.

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
# In the next cells, 1, 2 and 4 users send requests to `whole` and `parts` in turn. **Predict:** with 4 users, how many times as
# many requests per second does `parts` answer as `whole`?

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
# If the measurement is below your formula, think of the work that the formula leaves out: the work of the users, the work of
# the server, and the copies of the hidden state between processes need the same cores. Two copies of the whole model would gain
# more, but hold the weights twice. In a real deployment, each part has its own GPU, because the model does not fit on one GPU.
# Then the model is cut to save memory, not to be faster, and the pipeline keeps the GPUs busy.

# %%
if has_server:
    server.stop()

# %% [markdown]
# ## Which compiler?
#
# A compiler takes time before it saves any time. If a model runs many steps, the time for compiling hardly matters; if it gives
# a single answer, the time for compiling can be the largest part. And a way to run the model that rounds to 8 bits must be
# accurate enough.

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
# int8. The time *Ready after* includes reading the weights and compiling. The error is the share of greedy tokens that differ
# from the tokens of eager. The cell takes one to three minutes, most of this for torch.compile.
#
# **Predict:** how many times faster is a step under torch.compile than in eager? How many times faster is a step in ONNX
# Runtime with all optimisations than with none?

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
# You chose among the compilers; the dashed line is labkit's engine. At the place where two lines cross, compiling has paid off.
# A server that runs for a day is far to the right; a notebook that answers once is at the left. And an engine that is written
# for one model needs no compiler, because people found its fusions.
#
# Look at the largest gap in your table. *ORT, none* runs the same graph as eager, kernel by kernel, but it saves the time of
# Python, which calls every operation of eager. Fewer kernels then save little or no more time (compare *ORT, all* with *ORT,
# none*): in a small step on a CPU, starting a kernel is cheap, and most of the time is spent in the matrix products, which no
# fusion shortens. On a GPU, launches cost more.
#
# **And TensorRT?** It is *not measured here*: it needs an NVIDIA GPU. TensorRT does one thing that the compilers above do not
# do: it **times** several kernels for each node on your GPU and keeps the fastest kernel. Therefore building a *plan* (its
# compiled model) takes minutes. `labkit.graphs.tensorrt` builds and runs such plans, and
# `labkit export --platform tensorrt_plan` writes an ensemble of plans.

# %% [markdown]
# ## What you have now
#
# - You have the rule by which a compiler fuses pointwise nodes, and you have compared the bytes that it saves with the bytes
#   that ONNX Runtime saves.
# - You have GPT-J in two parts on a real server. You connected the parts, and predicted the gain.
# - You have a table of compilers from one run on your machine, and can choose a compiler for a number of steps.
#
# `labkit export --help` shows how to export a model of your own. Your points are in the panel at the top (*Look again*).
