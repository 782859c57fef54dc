# %% [markdown]
# # Lab 04 · Triton deployment
#
# **After this lab you can** deploy GPT-J with NVIDIA's Triton Inference Server: describe models, write the code before and
# after the engine, connect models to an ensemble, stream text to a client, choose how requests are batched, read the server's
# counters, and repair a model that died. Your own measurements will show you why servers of language models batch *in flight*.
#
# *{{lab 04: size; a good place for a break is before "Many clients"}} · runs on the real server (Linux, with or without a GPU).
# If the server is missing, `labkit serve --install` in a terminal installs it (75 MB). Until then, the exercises that need the
# server say "not measured here".*
#
# {{lab 04: core path}}

# %%
import math
import queue

import numpy as np
from tritonclient.utils import InferenceServerException

from labkit import measure
from labkit.lab import check, hint, passed, predicted, progress_panel, reset, solution, solved, submit
from labkit.lab.lab04 import deploy, measurements, pictures, prompt_inputs, served
from labkit.measure import plots

# %%
progress_panel("04")

# %% [markdown]
# ## How you describe a model to the server
#
# Triton serves a **model repository**, which has one folder for each model. The folder contains a description of the model
# (`config.pbtxt`) and version 1 of its code (`1/model.py`). Every copy of a Python model runs in its own process. The server
# queues the requests, combines them into batches, passes the batches to a process, and counts all these steps.

# %%
pictures.server()

# %% [markdown]
# This is a description:
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
# Both arrays have the shape `[batch, 1]`. The batch dimension is not written in `dims`; it is at most 8. Two copies of the
# model run at the same time.
#
# **FasterTransformer** was NVIDIA's library for running transformers, and its backend for Triton (2021 to 2023) served GPT-J
# with three models. Many clients still use these three models, so your server has them: `preprocessing` (text to tokens),
# `fastertransformer` (tokens to tokens, the engine) and `postprocessing` (tokens to text). Each needs a description and code;
# labkit has both. In the extras, you write a description, and the code before and after the engine.

# %% [markdown]
# {{core path: go on at The ensemble}}

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
# labkit's checker names the line of a mistake. Triton itself stops at the first mistake, names no line, and silently accepts
# some mistakes. If `max_batch_size` is 0, for example, Triton never combines requests.
#
# ## Before the engine
#
# Your functions are copied into the process of the model `preprocessing`. This process calls them with the client's tensors.

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
# The format of the next exercise is FasterTransformer's own. It was not documented, so for many users the stop words did not
# stop the text. An array for one prompt and three words, which have 1, 2 and 2 tokens, looks like this:
#
# | | | | | | |
# | --- | --- | --- | --- | --- | --- |
# | row 0, tokens | 7 | 8 | 9 | 8 | 5 |
# | row 1, ends | 1 | 3 | 5 | -1 | -1 |
#
# The first word is `7` and ends after 1 token. The second word is `8 9` and ends after 3 tokens. The third word is `8 5` and
# ends after 5 tokens.

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
# ## After the engine

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
# An **ensemble** is a model without code: its description only says which tensor goes to which model, and the server passes
# them on. So a client sends one request with text instead of three requests, and gets text back. With the prompt, the client
# sends the maximum number of new tokens, *bad words*, which must not be in the new text, and *stop words*, which end the text.

# %%
pictures.ensemble()

# %% [markdown]
# These are the models' tensors:
#
# | model | reads | makes |
# | --- | --- | --- |
# | `preprocessing` | `QUERY` (prompt), `REQUEST_OUTPUT_LEN`, `BAD_WORDS_DICT`, `STOP_WORDS_DICT` | `INPUT_ID`, `REQUEST_INPUT_LEN`, `REQUEST_OUTPUT_LEN`, `BAD_WORDS_IDS`, `STOP_WORDS_IDS` |
# | `fastertransformer` | `input_ids`, `input_lengths`, `request_output_len`, `bad_words_list`, `stop_words_list` | `output_ids`, `sequence_length` |
# | `postprocessing` | `TOKENS_BATCH`, `SEQUENCE_LENGTH` | `OUTPUT` |
#
# You give the connections as a dictionary. An ensemble of the model `upper` alone, with the client's tensors `INPUT_0` and
# `OUTPUT_0`, would be `{"upper": ({"TEXT": "INPUT_0"}, {"LOUD": "OUTPUT_0"})}`.

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
# The next cell starts your own server, with labkit's engine, your ensemble, and your functions for `preprocessing` and
# `postprocessing`. If one of these functions is not solved, labkit's own takes its place. The server stops when this notebook
# stops. If you change a function, run the next cell again.

# %%
is_wired = passed(ensemble_maps)
if is_wired:
    own = [solved(name) for name in ("pad_prompts", "word_lists", "postprocess")]
    mine = deploy(*own, ensemble_maps)
    for text in mine.ask(["In the beginning", "The captain said that"], 16):
        print(repr(text))
    # The stop words are one line of CSV; here it has one word, a comma.
    print("until a comma:", mine.ask(["In the beginning"], 40, stop='","'))

# %% [markdown]
# {{core path: go on at Many clients}}

# %% [markdown]
# ## Streaming
#
# The ensemble answers when the whole text is complete, but a reader wants the first word at once. labkit's engine is also
# served as `gptj`, a **decoupled** model: it sends many responses to one request. It takes text and returns text. It is not
# part of an ensemble, whose models could only pass on complete answers.
#
# **Predict:** a text of 48 tokens takes some time. What fraction of this time (0 to 1) has passed when a streaming client
# receives its first piece?

# %%
# BEGIN SOLUTION guess_first_share = None
guess_first_share = 0.1
# END SOLUTION

# %%
pictures.stream()

# %% [markdown]
# After `start_stream`, the client calls your callback in *another thread*, once for each response. A queue carries the
# responses from that thread to your generator:
#
# ```python
# answers = queue.SimpleQueue()
# client.start_stream(lambda result, error: answers.put((result, error)))  # called as callback(result=..., error=...)
# client.async_stream_infer(model, inputs, enable_empty_final_response=True)  # the last response may have no text
# while True:
#     result, error = answers.get()  # waits for the next response
#     ...  # yours: an error, a piece of text, the end
# client.stop_stream(cancel_requests=True)  # yours, too: this line must run however the loop ends
# ```
#
# A reader can leave before the end of the text. Python then raises `GeneratorExit` at your `yield`, and after that only
# `finally:` blocks run.

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
    came, share = measurements.piece_times(mine, stream_text, 48)
    print(f"\n\nfirst piece after {1e3 * came[0]:.0f} ms, last after {1e3 * came[-1]:.0f} ms")
    print("share:", f"{share.median:.2f}" if share.trusted else share.words)
    rows = {"pieces": [(n, start, end - start) for n, (start, end) in enumerate(zip([0, *came], came))]}
    where = f"gptj-tiny, {len(came)} pieces; you predicted a share of {guess_first_share}"
    display(plots.timeline_plot(rows, title="When each piece reached your client", caption=where))

# %% [markdown]
# Bar 0 is the time for the prompt and the first token; each other bar is one step.

# %% [markdown]
# ## Many clients
#
# Now many requests arrive at the same time. In every step a language model reads all its weights, whether for one sequence or
# for eight. So a server should let several requests share each step. Triton does this with **dynamic batching**: the server
# passes all requests waiting in its queue to the model together. The model must then answer them in shared steps.

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
# The next cell deploys your function with labkit's engine. Then 1, 2, 4 and 8 clients ask for 32 tokens again and again. Two
# configurations take turns: the first combines no requests, and the second has `dynamic_batching { }`.
#
# **Predict:** with 8 clients, how many times as many tokens per second does the server generate with dynamic batching as
# without it?

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
    gain = measurements.gain(*(runs[-1] for runs in loads.values()))
    print(f"8 clients, time of a token: {gain.words}; your prediction: {guess_gain} x")
    about = measurements.caption("gptj-tiny, 32 tokens a request", loads)
    where = {"xlabel": "clients", "caption": about, "log": False}
    marks = {"your prediction": (counts[-1], alone[-1] * guess_gain)}
    labels = {"ylabel": "tokens a second", "title": "Throughput"}
    display(plots.sweep_plot(counts, speeds, marks=marks, **labels, **where))

# %%
if has_load:
    waits = {name: [1e3 * measurements.latency(one, 0.5) for one in runs] for name, runs in loads.items()}
    labels = {"ylabel": "milliseconds, median", "title": "Latency of a request"}
    display(plots.sweep_plot(counts, waits, **labels, **where))

# %% [markdown]
# If the server does not combine requests, the clients queue: with more clients the latency is longer, and the throughput hardly
# grows. Requests in one batch share their steps. While one batch runs, the next requests collect in the queue, so batches get
# large even without a delay.

# %% [markdown]
# {{core path: go on at Batches that fit a language model}}

# %% [markdown]
# ## What the server has counted
#
# In production you use the server's own counters, from its metrics port. The next cell shows them after your load:

# %%
if has_load:
    lines = [line for line in after.splitlines() if 'model="batched"' in line]
    print("\n".join(line for line in lines if "failure" not in line))

# %% [markdown]
# {{exercise lab04.read_metrics}}


# %%
def read_metrics(before, after, model):
    """(mean seconds in the queue, mean inferences per execution) between two texts of /metrics."""

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
    print(
        f"On average a request waited {1e3 * waited:.0f} ms, and an execution held {batch:.1f} inferences."
    )
    sizes = measurements.batch_sizes(mine, "batched", clients=8)
    labels = {"xlabel": "inferences in an execution", "ylabel": "executions"}
    labels |= {"title": "How large batches were", "caption": "dynamic batching, 8 clients, 1 second"}
    display(plots.prediction_plot(list(sizes), {"executions": list(sizes.values())}, **labels))

# %% [markdown]
# Hardly any batch holds all 8 requests. While one batch runs, the other clients wait for the next batch. So the clients form
# two groups that take turns. A mean does not show these groups; look at the histogram before you change a setting.
#
# ## Waiting on purpose
#
# `max_queue_delay_microseconds` is how long the server holds back a batch that could already start, so that more requests can
# join it. `count` is the number of copies of the model. If requests come at equal intervals, you can compute the effect of both
# settings:

# %%
pictures.batch_that_waits(rate=80, first=0.060, more=0.004, size=4)

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
# Does the real server behave as you planned? The next cell deploys your `answer_together` with your plan, and sends 80 requests
# per second for two seconds. The model only sleeps for the planned time, as if each copy had its own GPU.
#
# **Predict:** what percentage of the requests takes longer than the bound of 200 ms?

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
    late = f"{sum(one.seconds > bound for one in answers) / len(answers):.0%}"
    print("over the bound:", measurements.warning(answers, 1 / rate) or late, f"(you: {guess_late} %)")
    print(f"requests in a batch: {batch:.1f}; in the queue: {1e3 * waited:.0f} ms")
    shares = {"median": 0.5, "p95": 0.95, "longest": 1.0}
    took = {"measured": [1e3 * measurements.latency(answers, share) for share in shares.values()]}
    limits = {"your plan's latency": 1e3 * plan[3], "the bound": 1e3 * bound}
    title = "The latency of requests under your plan"
    display(plots.prediction_plot(list(shares), took, limits=limits, ylabel="milliseconds", title=title))

# %% [markdown]
# A plan on paper ignores two things. First, the network takes time. Second, if a request comes a little late, its batch is
# complete later than planned. If a copy is busy most of the time, a batch that is late also delays the next batch. So plan for
# a latency of 80 % of the bound.

# %% [markdown]
# ## Batches that fit a language model
#
# Real requests are not equally long: one asks for 8 tokens, another for 96. The next cell sends 16 requests, one every 20 ms,
# to the same engine in two ways; every fourth request is long. For your batched model, the server combines the requests into
# batches, and the model answers a batch when its longest text is done. The model `gptj` passes each request to the engine at
# once. The engine computes it from the **next step** on, together with the requests that are already running, until it is done.
# This is **in-flight** (or continuous) **batching**; the server itself combines no requests for `gptj`.
#
# **Predict:** how many times as long does a *short* request take (median) with dynamic batching as with in-flight batching?

# %%
# BEGIN SOLUTION guess_times = None
guess_times = 10
# END SOLUTION
if is_wired and passed(answer_together) and predicted(times=guess_times):
    mixed = measurements.mixed_load(mine, answer_together)
    short = [[one for one in runs if one.job[1] == measurements.SHORT] for runs in mixed.values()]
    times = measurements.latency_ratio(*short)
    print(f"short requests, joined against in flight: {times.words}; your prediction: {guess_times} x")
    where = "A bar lasts from sending to the answer. It shows the number of its batch or request."
    last = {name: measurements.turns(runs)[-1] for name, runs in mixed.items()}
    for name, runs in last.items():
        look = {"seconds": measurements.longest(last.values()), "title": name.capitalize()}
        display(plots.timeline_plot(measurements.bars(runs), caption=where, **look))

# %% [markdown]
# Look at the right ends of the bars. With dynamic batching, a request waits twice: until the previous batch ends, and until
# the longest text of its own batch is done. With in-flight batching, a short request is answered after its own steps, and the
# next request takes its place.
#
# Therefore users of FasterTransformer's backend wrote that `dynamic_batching` "does nothing" for GPT-J, and later servers have
# the queue inside the engine. Batching in the server is right for a model if all its requests take equally long.

# %% [markdown]
# {{core path: go on at What the server costs}}

# %% [markdown]
# ## The trade-off
#
# The next figures show the latency of the mixed load at increasing rates. With more requests per second the server generates
# more tokens per second, until it cannot keep up. The price is a higher latency.
#
# **Predict:** the rates are chosen so that the requests ask for 25, 50 and 90 % of the tokens per second that your batched
# model reached. At the highest rate, how many milliseconds does a request take with in-flight batching (median)?

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
    about = "gptj-tiny, every fourth request 96 tokens, others 8"
    labels["caption"] = measurements.caption(about, runs)
    guesses = {"your prediction, in flight": (rates[-1], guess_median_ms)}
    for share, title in ((0.5, "Latency, median"), (0.95, "Latency of 95 % of the requests")):
        took = {
            name: [1e3 * measurements.latency(one, share) for one in load] for name, load in runs.items()
        }
        marks = guesses if share == 0.5 else None
        display(plots.sweep_plot(rates, took, marks=marks, title=title, **labels))

# %% [markdown]
# The median is the time of a short request, and the 95th percentile is the time of a long request. With in-flight batching, a
# long request shares its 96 steps with all requests that come in the meantime. With dynamic batching, a long request first
# waits for the previous batch. Would your users notice the median or the 95th percentile? Did the delay (waiting on purpose)
# help?
#
# ## When a model dies
#
# The process of a model can die, for example because memory ran out. The next cell kills your model's process, and asks the
# server whether the model is ready.

# %%
if is_wired and passed(answer_together):
    mine.load_batched("batched", answer_together, {"work": "echo"}, largest=8)
    mine.kill("batched")
    print("The server says that it is ready:", mine.client.is_model_ready("batched"))
    print("The answer to a request:", measurements.said_by(mine, "batched"))

# %% [markdown]
# {{exercise lab04.keep_alive}}


# %%
def keep_alive(client, model, inputs):
    """True if the model had to be repaired, otherwise False. Afterwards the model answers."""
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
# ## What the server costs
#
# Your speed ladder has one more rung: *served*. The task is the same as in lab 01: one prompt of 64 tokens and 64 new tokens.
# The same engine does this task in three ways, which take turns:
#
# - *engine*: in this notebook, without a server,
# - *served*: in your server; the model `gptj` sends one answer with the whole text,
# - *served, streamed*: in your server; `gptj` sends each token as soon as it is generated.
#
# A request to the server has to be packed, sent, queued and unpacked. The engine's answer goes the same way back, in one
# piece or in 64 pieces.
#
# **Predict:** without a server, the engine generates a number of tokens per second. Which fraction of this number (0 to 1) does
# a client get from the server that *streams*?

# %%
# BEGIN SOLUTION guess_served_share = None
guess_served_share = 0.9
# END SOLUTION
if is_wired and predicted(served_share=guess_served_share, as_share=True):
    times, ladder = served.what_serving_costs(mine), measure.Ladder()
    ladder.add_timings(served.TASK, times, where="fp32, one client on the same machine")
    for name in (served.SERVED, served.STREAMED):
        share = measure.ratio(times[served.ENGINE], times[name])
        print(f"{name}:", f"{share} the speed of the engine alone" if share.trusted else share.words)
    print(f"your prediction for streaming: {guess_served_share} x")
    display(plots.ladder_plot(ladder.of(served.TASK), caption="fp32, one client on the same machine"))

# %% [markdown]
# Compare only the bars of this lab with each other, because they were measured in turn. If you did lab 01, its bars are above
# them; they were measured at another time.
#
# The costs of a request are paid once, the costs of a piece for every token. With gptj-tiny a step takes only one to three
# milliseconds, so you can see these costs. With the 6 B model a step takes more than a hundred times as long, but a piece costs
# the same, so the server adds almost nothing to the time. And with many clients the server gains, because their requests share
# steps.

# %% [markdown]
# ## What you have now
#
# - You have GPT-J in the real server, behind an ensemble that you connected. `labkit serve` starts such a server with one
#   command.
# - If you did the extras, you have written the models before and after the engine, a streaming client that stops the engine
#   when its reader leaves, and a function that repairs a model.
# - Your own measurements show when the server should batch requests, when the engine should batch them, and how much time a
#   server costs.
#
# The next cell stops the server. Your points are in the panel at the top (*Look again*).

# %%
if is_wired:
    mine.stop()
