# %% [markdown]
# # Lab 04 · Triton deployment
#
# **After this lab you can** deploy GPT-J with NVIDIA's Triton Inference Server by hand: describe models, write the code around the
# engine, wire an ensemble, stream to a client, choose how requests are batched, read the counters, and mend what breaks. At the
# end you know from your own runs why servers of language models batch *in flight*.
#
# *About 190 minutes, 160 of them for the 10 exercises · 100 points · the real server, on Linux, with a GPU or without one. Where there is
# none, `labkit serve --install` in a terminal gets it (75 MB); until then its exercises say "not measured here".*

# %%
import math
import queue

import numpy as np
from tritonclient.utils import InferenceServerException

from labkit.exercises.lab04 import measurements
from labkit.exercises.lab04.deployment import deploy
from labkit.exercises.lab04.streaming import prompt_inputs
from labkit.grading import check, hint, passed, predicted, progress_panel
from labkit.measure import plots

# %%
progress_panel("04")

# %% [markdown]
# ## What a server is told
#
# Triton serves a **model repository**: one folder for each model, in it `config.pbtxt` and `1/model.py`, version 1 of its code. Each
# Python model runs in a process of its own. The server queues requests, joins them to batches, and counts. A description:
#
# ```
# name: "upper"
# backend: "python"
# max_batch_size: 8
# input { name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] }
# output { name: "LOUD" data_type: TYPE_STRING dims: [ 1 ] }
# instance_group { count: 2 kind: KIND_CPU }
# ```
#
# Its arrays are `[batch, 1]`: the batch, at most 8, is not written. Two copies run.
#
# GPT-J is served as FasterTransformer's users know it, by three models: `preprocessing` (text to tokens), `fastertransformer` (tokens
# to tokens) and `postprocessing` (tokens to text). Each begins with its description.

# %% [markdown]
# {{exercise lab04.stage_config}}


# %%
def stage_config(name, inputs, outputs, max_batch_size, count):
    """The text of the model's config.pbtxt."""
    # BEGIN SOLUTION
    lines = [f'name: "{name}"', 'backend: "python"', f"max_batch_size: {max_batch_size}"]
    for kind, tensors in (("input", inputs), ("output", outputs)):
        for tensor, data_type, shape in tensors:
            dims = ", ".join(map(str, shape[1:]))
            lines.append(f'{kind} {{ name: "{tensor}" data_type: TYPE_{data_type} dims: [ {dims} ] }}')
    lines.append(f"instance_group {{ count: {count} kind: KIND_CPU }}")
    return "\n".join(lines)
    # END SOLUTION


# %%
check(stage_config)

# %% [markdown]
# The checker names the line of a mistake. Triton itself stops at the first one, names no line, and takes some in silence: a
# `max_batch_size` of 0, say, just means that nothing is ever joined.
#
# ## In front of the engine
#
# Now the code. Your functions are put into the stage's process, which calls them with what the client sent.

# %% [markdown]
# {{exercise lab04.pad_prompts}}


# %%
def pad_prompts(texts, encode, pad):
    """(ids, lengths) of the texts: uint32 arrays [batch, longest] and [batch, 1]."""
    # BEGIN SOLUTION
    rows = [encode(text) for text in texts]
    ids = np.full((len(rows), max(1, *map(len, rows))), pad, np.uint32)
    for row, tokens in zip(ids, rows):
        row[: len(tokens)] = tokens
    return ids, np.array([[len(tokens)] for tokens in rows], np.uint32)
    # END SOLUTION


# %%
check(pad_prompts)

# %% [markdown]
# The next form is FasterTransformer's own, and was nowhere written down. Many of its users had stop words that did not stop.

# %% [markdown]
# {{exercise lab04.word_lists}}


# %%
def word_lists(words, encode):
    """int32 array [batch, 2, n]: tokens of each prompt's words, and where each word ends."""
    # BEGIN SOLUTION
    rows = [[encode(word) for word in own] for own in words]
    lists = np.zeros((len(rows), 2, max(1, *(sum(map(len, row)) for row in rows))), np.int32)
    lists[:, 1] = -1
    for place, row in zip(lists, rows):
        tokens = [token for word in row for token in word]
        place[0, : len(tokens)] = tokens
        place[1, : len(row)] = np.cumsum([len(word) for word in row])
    return lists
    # END SOLUTION


# %%
check(word_lists)

# %% [markdown]
# ## Behind the engine

# %% [markdown]
# {{exercise lab04.postprocess}}


# %%
def postprocess(token_ids, lengths, decode):
    """The text of each beam: a list of lists of strings."""
    # BEGIN SOLUTION
    found = []
    for row, own in zip(token_ids, lengths):
        found.append([decode(ids[:length].tolist()) for ids, length in zip(row, own)])
    return found
    # END SOLUTION


# %%
check(postprocess)

# %% [markdown]
# ## The ensemble
#
# An **ensemble** is a model without code: it says which tensor goes where, and the server carries it. A client sends one request
# in place of three. The tensors of the models:
#
# | model | reads | makes |
# | --- | --- | --- |
# | `preprocessing` | `QUERY` (prompt), `REQUEST_OUTPUT_LEN`, `BAD_WORDS_DICT`, `STOP_WORDS_DICT` | `INPUT_ID`, `REQUEST_INPUT_LEN`, `REQUEST_OUTPUT_LEN`, `BAD_WORDS_IDS`, `STOP_WORDS_IDS` |
# | `fastertransformer` | `input_ids`, `input_lengths`, `request_output_len`, `bad_words_list`, `stop_words_list` | `output_ids`, `sequence_length` |
# | `postprocessing` | `TOKENS_BATCH`, `SEQUENCE_LENGTH` | `OUTPUT` |

# %% [markdown]
# {{exercise lab04.ensemble_maps}}


# %%
def ensemble_maps():
    """{model: (input_map, output_map)} of the three stages."""
    # BEGIN SOLUTION
    words = ("BAD_WORDS", "STOP_WORDS")
    given = {"QUERY": "INPUT_0", "REQUEST_OUTPUT_LEN": "INPUT_1"}
    given |= {"BAD_WORDS_DICT": "INPUT_2", "STOP_WORDS_DICT": "INPUT_3"}
    made = {"INPUT_ID": "_ids", "REQUEST_INPUT_LEN": "_lengths", "REQUEST_OUTPUT_LEN": "_asked"}
    made |= {f"{name}_IDS": f"_{name}" for name in words}
    taken = {"input_ids": "_ids", "input_lengths": "_lengths", "request_output_len": "_asked"}
    taken |= {f"{name.lower()}_list": f"_{name}" for name in words}
    out = {"output_ids": "_tokens", "sequence_length": "sequence_length"}
    last = {"TOKENS_BATCH": "_tokens", "SEQUENCE_LENGTH": "sequence_length"}
    stages = {"preprocessing": (given, made), "fastertransformer": (taken, out)}
    return stages | {"postprocessing": (last, {"OUTPUT": "OUTPUT_0"})}
    # END SOLUTION


# %%
check(ensemble_maps)

# %% [markdown]
# All parts are there. The next cell starts a server of your own with labkit's engine, your two stages and your ensemble. It ends
# with this notebook. (Run it again after you have changed a function.)

# %%
is_wired = all([passed(pad_prompts), passed(word_lists), passed(postprocess), passed(ensemble_maps)])
if is_wired:
    mine = deploy(pad_prompts, word_lists, postprocess, ensemble_maps)
    for text in mine.ask(["In the beginning", "The captain said that"], 16):
        print(repr(text))
    print("until a comma:", mine.ask(["In the beginning"], 40, stop='","'))

# %% [markdown]
# ## Streaming
#
# The ensemble answers when the text is done. A reader wants the first word. labkit's engine is also served as `gptj`, a **decoupled**
# model: one request, many responses. An ensemble's stages hand on whole answers; `gptj` goes from text to text itself.
#
# **Predict:** of the time that a text of 48 tokens takes, which share (0 to 1) is over when a streaming client has its first piece?

# %%
# BEGIN SOLUTION guess_first_share = None
guess_first_share = 0.1
# END SOLUTION

# %% [markdown]
# {{exercise lab04.stream_text}}


# %%
def stream_text(client, model, inputs):
    """Yields pieces of text as they come."""
    # BEGIN SOLUTION
    answers = queue.SimpleQueue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer(model, inputs, enable_empty_final_response=True)
    try:
        while True:
            result, error = answers.get()
            if error is not None:
                raise error
            text = result.as_numpy("text_output")
            if text is not None:
                yield text[0].decode()
            if result.get_response().parameters["triton_final_response"].bool_param:
                return
    finally:
        client.stop_stream(cancel_requests=True)
    # END SOLUTION


# %%
check(stream_text)

# %%
if is_wired and passed(stream_text) and predicted(first_share=guess_first_share, as_share=True):
    for piece in stream_text(mine.client, "gptj", prompt_inputs("In the beginning", 24)):
        print(piece, end="", flush=True)
    came = measurements.piece_times(mine, stream_text, 48)
    share = came[0] / came[-1]
    print(
        f"\n\nfirst piece after {1e3 * came[0]:.0f} ms, last after {1e3 * came[-1]:.0f} ms: {share:.2f}"
    )
    rows = {"pieces": [(n, start, end - start) for n, (start, end) in enumerate(zip([0, *came], came))]}
    where = f"gptj-tiny, {len(came)} pieces; you predicted a share of {guess_first_share}"
    display(plots.timeline_plot(rows, title="When each piece reached your client", caption=where))

# %% [markdown]
# Bar 0 is the prompt and one token, the rest are one step each.
#
# ## Many clients
#
# From here on the question is load. A language model reads all its weights for every step, for one sequence or for eight. So a server
# should let several requests share steps. Triton's way is **dynamic batching**: requests that wait in the queue are handed to the
# model together. What the model makes of them is its own affair.

# %% [markdown]
# {{exercise lab04.answer_together}}


# %%
def answer_together(requests, generate):
    """The texts of each request's jobs, made by one call of generate."""
    # BEGIN SOLUTION
    texts = iter(generate([job for request in requests for job in request]))
    return [[next(texts) for _ in request] for request in requests]
    # END SOLUTION


# %%
check(answer_together)

# %% [markdown]
# The next cell puts your function around labkit's engine, and lets 1, 2, 4 and 8 clients ask for 32 tokens again and again: first with
# a request a batch, then with `dynamic_batching { }` in the configuration, nothing else.
#
# **Predict:** with 8 clients, how many times as many tokens a second does dynamic batching give?

# %%
# BEGIN SOLUTION guess_gain = None
guess_gain = 3
# END SOLUTION
has_load = is_wired and passed(answer_together) and predicted(gain=guess_gain)
if has_load:
    before, counts = measurements.scrape(mine), (1, 2, 4, 8)
    loads = measurements.by_clients(mine, answer_together, counts)
    after = measurements.scrape(mine)
    speeds = {name: [measurements.tokens_per_second(one) for one in runs] for name, runs in loads.items()}
    alone, joined = speeds.values()
    gain = joined[-1] / alone[-1]
    print(f"8 clients: {gain:.1f} times the tokens a second; your prediction: {guess_gain}")
    where = {"xlabel": "clients", "caption": "gptj-tiny, 32 tokens a request", "log": False}
    marks = {"your prediction": (counts[-1], alone[-1] * guess_gain)}
    labels = {"ylabel": "tokens a second", "title": "Throughput"}
    display(plots.sweep_plot(counts, speeds, marks=marks, **labels, **where))

# %%
if has_load:
    waits = {name: [1e3 * measurements.latency(one, 0.5) for one in runs] for name, runs in loads.items()}
    labels = {"ylabel": "milliseconds, median", "title": "Latency of a request"}
    display(plots.sweep_plot(counts, waits, **labels, **where))

# %% [markdown]
# Without joining, clients queue: the latency grows with their number, and the throughput hardly does. Joined, they share the steps.
# While one batch runs, the next ones gather by themselves. (Where other programs use your cores, run the cell again.)
#
# ## What the server has seen
#
# You measured at the clients. In production you have the server's own counters, on its metrics port. These are those of your load:

# %%
if has_load:
    lines = [line for line in after.splitlines() if 'model="batched"' in line]
    print("\n".join(line for line in lines if "failure" not in line))

# %% [markdown]
# {{exercise lab04.read_metrics}}


# %%
def read_metrics(before, after, model):
    """(mean seconds in the queue, mean inferences an execution) between two texts of /metrics."""

    # BEGIN SOLUTION
    def value(text, name):
        start = f'{name}{{model="{model}",'
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(start))

    names = "request_success", "queue_duration_us", "count", "exec_count"
    grown = [value(after, f"nv_inference_{n}") - value(before, f"nv_inference_{n}") for n in names]
    requests, waited, inferences, runs = grown
    return (waited / requests / 1e6 if requests else 0.0), (inferences / runs if runs else 0.0)
    # END SOLUTION


# %%
check(read_metrics)

# %%
if has_load and passed(read_metrics):
    waited, batch = read_metrics(before, after, "batched")
    print(f"On average a request waited {1e3 * waited:.0f} ms, and an execution held {batch:.1f}.")
    sizes = measurements.batch_sizes(mine, "batched", clients=8)
    labels = {"xlabel": "inferences in an execution", "ylabel": "executions"}
    labels |= {"title": "How large batches were", "caption": "dynamic batching, 8 clients, 1 second"}
    display(plots.prediction_plot(list(sizes), {"executions": list(sizes.values())}, **labels))

# %% [markdown]
# Does the histogram surprise you? Hardly any batch holds all 8: while one runs, those who were answered gather behind it, so the clients
# fall into two groups that take turns. A mean hides that; look at the histogram before you turn a knob.
#
# ## Waiting on purpose
#
# The knob is `max_queue_delay_microseconds`: how long the server holds a batch that could begin, for others to join. The other one is the
# number of copies (`count`). What they do to latency is arithmetic, as long as requests come evenly.

# %% [markdown]
# {{exercise lab04.choose_batching}}


# %%
def choose_batching(rate, first, more, most, bound):
    """(copies, n, delay, latency), or None if no n meets the bound."""
    # BEGIN SOLUTION
    plans = []
    for n in range(1, most + 1):
        delay, work = (n - 1) / rate, first + more * n
        if delay + work <= bound:
            plans.append((math.ceil(work * rate / n), n, delay, delay + work))
    return min(plans, key=lambda plan: (plan[0], plan[3]), default=None)
    # END SOLUTION


# %%
check(choose_batching)

# %% [markdown]
# Does the server keep to it? The next cell deploys your `answer_together` with your plan, on a model that takes just as long as the
# arithmetic says (each copy has, so to speak, a GPU of its own), and sends 80 requests a second for two seconds.
#
# **Predict:** what percentage of requests will be over the bound of 200 ms?

# %%
# BEGIN SOLUTION guess_late = None
guess_late = 10
# END SOLUTION
rate, first, more, bound = 80, 0.060, 0.004, 0.200
has_plan = is_wired and passed(answer_together) and passed(choose_batching)
if has_plan and predicted(late=guess_late, as_percent=True):
    plan = choose_batching(rate, first, more, 16, bound)
    print("copies, n, delay, latency:", plan)
    answers, *around = measurements.run_plan(mine, answer_together, plan, rate, first, more)
    waited, batch = measurements.queue_and_batch(*around, "planned")
    late = sum(one.seconds > bound for one in answers) / len(answers)
    print(
        f"{late:.0%} over the bound (you: {guess_late} %), {batch:.1f} a batch, {1e3 * waited:.0f} ms in the queue"
    )
    shares = {"median": 0.5, "p95": 0.95, "longest": 1.0}
    took = {"measured": [1e3 * measurements.latency(answers, share) for share in shares.values()]}
    limits = {"your plan's latency": 1e3 * plan[3], "the bound": 1e3 * bound}
    title = "The latency of requests under your plan"
    display(plots.prediction_plot(list(shares), took, limits=limits, ylabel="milliseconds", title=title))

# %% [markdown]
# A plan on paper knows no network and no request that comes a little late and closes a batch later. Where a plan has
# one copy busy most of the time, a small delay of one batch is handed on to the next. Leave room: plan for 80 % of the bound.
#
# ## Batches that fit a language model
#
# So far all requests were alike. Texts are not: one wants 8 tokens, another 96. The next cell sends 16 requests, 20 ms apart, every
# fourth one long, to the same engine in two ways. Your batched model takes what the server joins, and answers when its longest text is
# done. `gptj` hands each request to the engine when it comes: it joins the **next step**, and leaves when it is done. That is
# **in-flight** (or continuous) **batching**. The server itself joins nothing there.
#
# **Predict:** how many times as long does a *short* request take, in the median, with dynamic batching as in flight?

# %%
# BEGIN SOLUTION guess_times = None
guess_times = 10
# END SOLUTION
if is_wired and passed(answer_together) and predicted(times=guess_times):
    mixed = measurements.mixed_load(mine, answer_together)
    short = {
        name: [one for one in runs if one.job[1] == measurements.SHORT] for name, runs in mixed.items()
    }
    joined, in_flight = (measurements.latency(one, 0.5) for one in short.values())
    times = f"{joined / in_flight:.1f} times; your prediction: {guess_times}"
    print(f"short requests: {1e3 * joined:.0f} ms joined, {1e3 * in_flight:.0f} ms in flight: {times}")
    where = "a bar: from sending to the answer; its number: of its batch, or its own"
    for name, runs in mixed.items():
        look = {"seconds": measurements.longest(mixed.values()), "title": name.capitalize()}
        display(plots.timeline_plot(measurements.bars(runs), caption=where, **look))

# %% [markdown]
# Look at the ends of the bars. Joined by the server, everybody waits twice: for the batch before to end, and for the longest text of
# their own. In flight, short ones are gone after their own steps, and their places are free for who comes next.
#
# This is why `dynamic_batching` "did nothing" for GPT-J in FasterTransformer's backend, and why its successors moved the queue into the
# engine. The server's batching is right for models whose requests all take equally long.
#
# ## The trade-off
#
# Last, the plot that you deploy by: the mixed load at growing rates. More requests a second are more tokens a second, until the
# server cannot keep up; and latency is what they cost.
#
# **Predict:** the rates are a quarter, a half and 90 % of the tokens a second that your batched model reached with 8 clients. At the highest,
# how many milliseconds does a request take in flight, in the median?

# %%
# BEGIN SOLUTION guess_median_ms = None
guess_median_ms = 100
# END SOLUTION
if has_load and predicted(median_ms=guess_median_ms):
    rates = measurements.rates_for(loads["dynamic batching"])
    runs = measurements.trade_off(mine, answer_together, rates)
    for name, load in runs.items():
        print(
            f"{name}: {', '.join(f'{measurements.tokens_per_second(one):.0f}' for one in load)} tokens a second"
        )
    labels = {"xlabel": "requests a second", "ylabel": "milliseconds", "log": False}
    labels["caption"] = "gptj-tiny, every fourth request 96 tokens, others 8"
    guesses = {"your prediction, in flight": (rates[-1], guess_median_ms)}
    for share, title in ((0.5, "Latency, median"), (0.95, "Latency of 95 % of the requests")):
        took = {
            name: [1e3 * measurements.latency(one, share) for one in load] for name, load in runs.items()
        }
        marks = guesses if share == 0.5 else None
        display(plots.sweep_plot(rates, took, marks=marks, title=title, **labels))

# %% [markdown]
# The median is a short request, the 95th percentile a long one. In flight it shares its 96 steps with whoever comes; joined, it first
# waits for the batch before. Which figure would your users notice? And what did waiting on purpose (the delay) buy?
#
# ## When it breaks
#
# A model's process can die: of memory, of a bug. Kill yours, and ask the server how it is.

# %%
if is_wired and passed(answer_together):
    mine.load_batched("batched", answer_together, {"work": "echo"}, largest=8)
    mine.kill("batched")
    print("ready, says the server:", mine.client.is_model_ready("batched"))
    print("asked for real:", measurements.said_by(mine, "batched"))

# %% [markdown]
# {{exercise lab04.keep_alive}}


# %%
def keep_alive(client, model, inputs):
    """Whether the model had to be repaired; it answers afterwards."""
    # BEGIN SOLUTION
    try:
        client.infer(model, inputs, client_timeout=2.0)
        return False
    except InferenceServerException as error:
        if "INVALID_ARGUMENT" in str(error.status()):
            return False
    client.unload_model(model)
    client.load_model(model)
    return True
    # END SOLUTION


# %%
check(keep_alive)

# %%
if is_wired and passed(answer_together) and passed(keep_alive):
    for _ in range(2):
        print("repaired:", keep_alive(mine.client, "batched", measurements.one_job()))

# %% [markdown]
# ## What you have now
#
# - A GPT-J in the real server whose every part you wrote: `labkit serve` does the same, with a watchdog like your `keep_alive`.
# - A client that streams, and stops the engine when its reader leaves.
# - Numbers of your own for when to join requests in the server, and when to leave that to the engine.
#
# The server ends with this notebook; the next cell ends it now. Your points are in the panel at the top (*Look again*).

# %%
if is_wired:
    mine.stop()
