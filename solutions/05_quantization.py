# %% [markdown]
# # Lab 05 · Quantization
#
# **After this lab you can** turn numbers into small integers and back, choose a range from calibration data, make a quantized
# model that the engine runs, train a model whose weights are rounded, cast numbers to FP8, and say how much quality you lose
# and how much speed you gain with each bit that you remove.
#
# **Post-training quantization (PTQ)** measures the ranges of numbers on calibration data, and then rounds the numbers.
# **Quantization-aware training (QAT)** trains the model while its weights are rounded. You use both methods on `gptj-tiny`.
#
# *{{lab 05: size}} · runs on any machine, with or without a GPU.*
#
# {{lab 05: core path}}

# %%
import math

import torch

import labkit
from labkit import measure
from labkit.lab import check, hint, passed, predicted, progress_panel, reset, solution, submit
from labkit.lab.lab05 import fp8_steps, histogram, own_model, pictures, qat, tensors, throughput, tradeoff
from labkit.lab.lab05 import upper_factor
from labkit.measure import plots
from labkit.precision import as_device

runs, ladder, device = measure.KeptRuns("05"), measure.Ladder(), as_device()
where = f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}"

# %%
progress_panel("05")

# %% [markdown]
# ## Numbers on a ruler
#
# An integer `q` with few bits stands for the number `scale * (q - zero_point)`. The integer for a number x is
# `q = round(x / scale) + zero_point`, clipped to the lowest and highest integer. The **quantization parameters** `scale` and
# `zero_point` say how far apart the marks of the ruler are, and which mark is 0.
#
# *An example:* the integers have 3 bits and go from -4 to 3; the numbers go from -0.5 to 3.0. **Symmetric:** 3.0 becomes 3, so
# the scale is 1.0. **Asymmetric:** the range of 3.5 has 7 steps, so the scale is 0.5. -0.5 must become -4, so the zero point is
# -3.

# %%
pictures.number_line(low=-0.5, high=3.0, bits=3)

# %% [markdown]
# {{exercise lab05.quantization_parameters}}


# %%
def quantization_parameters(low, high, bits, symmetric):
    """(scale, zero_point) for numbers from low to high: a float and an int."""
    # BEGIN SOLUTION
    if symmetric:
        return max(abs(low), abs(high)) / (2 ** (bits - 1) - 1) or 1.0, 0
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (2**bits - 1) or 1.0
    return scale, round(-(2 ** (bits - 1)) - low / scale)
    # END SOLUTION


# %%
check(quantization_parameters)

# %% [markdown]
# The next cells quantize real numbers: the inputs of `fc_out` in the second block of `gptj-tiny`, for 512 tokens. They come
# from GELU, so none of them is below -0.17, but some are above 15. **Predict:** with 8 bits, how many times smaller is the
# error of the asymmetric form than the error of the symmetric form?


# %%
def round_trip(x, scale, zero_point, bits):
    """x rounded to integers of this many bits, and converted back."""
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return (((x / scale).round() + zero_point).clamp(lowest, highest) - zero_point) * scale


def error(found, right):
    """How large the difference is, relative to the correct numbers; 0.01 is one percent."""
    return float((found - right).norm() / right.norm())


x = tensors.inputs(1)["mlp.fc_out"]  # [512 tokens, 1024]
weight = tensors.weight("transformer.h.1.mlp.fc_out.weight")  # [256, 1024]
histogram.figure(x.abs(), title="Inputs of fc_out", caption="gptj-tiny, block 1; 512 tokens")

# %%
# BEGIN SOLUTION guess_asymmetric = None  # your prediction
guess_asymmetric = 2
# END SOLUTION
if passed(quantization_parameters) and predicted(asymmetric=guess_asymmetric):
    low, high, errors = float(x.min()), float(x.max()), {}
    for name in ("symmetric", "asymmetric"):
        scale, zero_point = quantization_parameters(low, high, 8, name == "symmetric")
        errors[name] = error(round_trip(x, scale, zero_point, 8), x)
        print(f"{name}: scale {scale:.4f}, zero point {zero_point}, error {errors[name]:.2%}")
    gain = errors["symmetric"] / errors["asymmetric"]
    bars = {"your prediction": [guess_asymmetric], "measured": [gain]}
    labels = {"ylabel": "times smaller error", "title": "Asymmetric against symmetric, 8 bits"}
    display(plots.prediction_plot(["inputs of fc_out"], bars, **labels, caption="gptj-tiny, block 1"))

# %% [markdown]
# The asymmetric ruler has no marks for numbers that do not occur, so its steps are half as wide. But a zero point adds a term
# to each sum of a matrix product, so engines use a zero point only for activations, and many engines use none.
#
# ## Calibration: which range?
#
# The range of an **activation** depends on the input, so it is measured on calibration data. Most of the magnitudes in the
# histogram above are below 1, and a few are above 10; these few are called a **heavy tail**. If the limit is the largest
# number, the steps are wide; a smaller limit clips the tail.
#
# *An example with 3 bits and no zero point:* x is (0.4, 0.6, 0.5, 6.0). If the limit is 6, the scale is 2, and x becomes
# (0, 0, 0, 3): three numbers are lost. If the limit is 1.5, x becomes (1, 1, 1, 3), which stands for (0.5, 0.5, 0.5, 1.5):
# three numbers are nearly right, and the outlier loses 4.5. Which limit is better depends on how you measure the error, so
# there are several methods to choose a limit. They are called **calibrators**.

# %% [markdown]
# {{exercise lab05.clip_limits}}


# %%
def clip_limits(x, bits):
    """The limits of three calibrators: {"min-max": ..., "percentile": ..., "mse": ...}."""
    # BEGIN SOLUTION
    magnitude, highest = x.abs().flatten(), 2 ** (bits - 1) - 1
    largest = float(magnitude.max())
    limits = [largest * k / 50 for k in range(1, 51)]
    errors = [(round_trip(x, limit / highest or 1.0, 0, bits) - x).square().mean() for limit in limits]
    best = limits[int(torch.stack(errors).argmin())]
    return {"min-max": largest, "percentile": float(magnitude.quantile(0.999)), "mse": best}
    # END SOLUTION


# %%
check(clip_limits)

# %% [markdown]
# The error that counts is the error of the layer's **output**. **Predict:** with 8 bits, how many times smaller is the output's
# error with the limit "mse" than with "min-max"? How many times smaller is it with "percentile" than with "min-max"? (A number
# below 1 means that the error is larger.)


# %%
def output_errors(limits, bits):
    """The error of fc_out's output in percent, if x is quantized with each limit."""
    right, highest = x @ weight.T, 2 ** (bits - 1) - 1
    made = {name: round_trip(x, limit / highest, 0, bits) @ weight.T for name, limit in limits.items()}
    return {name: 100 * error(found, right) for name, found in made.items()}


# BEGIN SOLUTION guess_mse_gain, guess_percentile_gain = None, None
guess_mse_gain, guess_percentile_gain = 1.5, 1.5
# END SOLUTION
if passed(clip_limits) and predicted(mse_gain=guess_mse_gain, percentile_gain=guess_percentile_gain):
    limits = clip_limits(x, 8)
    found = output_errors(limits, 8)
    display(histogram.figure(x.abs(), limits, title="Your limits for 8 bits"))
    gains = [found["min-max"] / found["mse"], found["min-max"] / found["percentile"]]
    bars = {"your prediction": [guess_mse_gain, guess_percentile_gain], "measured": gains}
    labels = {"ylabel": "times smaller error than min-max", "title": "Output of fc_out, 8 bits"}
    display(plots.prediction_plot(["mse", "percentile"], bars, **labels, caption="gptj-tiny, block 1"))

# %%
if passed(clip_limits):
    by_bits = {bits: output_errors(clip_limits(x, bits), bits) for bits in (4, 5, 6, 7, 8)}
    lines = {name: [row[name] for row in by_bits.values()] for name in ("min-max", "percentile", "mse")}
    labels = {"xlabel": "bits", "ylabel": "error of the output in %", "log": False}
    display(
        plots.sweep_plot(
            list(by_bits), lines, **labels, title="Three calibrators", caption="fc_out, block 1"
        )
    )

# %% [markdown]
# The limit "mse" is chosen by the error, and is the best of the three limits with every number of bits. The limit "percentile"
# is chosen without looking at the error: with 4 and 6 bits it helps, and with 7 and 8 bits it clips too much.

# %% [markdown]
# {{core path: go on at One scale, or many?}}

# %% [markdown]
# ### The fourth calibrator: entropy
#
# TensorRT's entropy calibrator compares two **distributions**: $P$ is the histogram of the numbers after clipping, and $Q$ is
# the histogram that can be recovered from the integers. The calibrator chooses the limit with the smallest divergence between
# $P$ and $Q$.
#
# *An example:* the counts are (4, 0, 2, 2 | 1), 4 bins are kept, and there are 2 levels. The clipped number is added to the
# last bin, so P = (4, 0, 2, 3) / 9. For Q, the groups (4, 0) and (2, 2) have the sums 4 and 4; the empty bin stays empty, so
# Q = (4, 0, 2, 2) / 8.

# %% [markdown]
# {{exercise lab05.clip_divergence}}


# %%
def clip_divergence(counts, kept, levels):
    """The sum of P log(P / Q) if the first `kept` bins of a histogram are kept, and shown with `levels` levels."""
    # BEGIN SOLUTION
    p = counts[:kept].clone()
    p[-1] += counts[kept:].sum()
    groups = counts[:kept].view(levels, -1)
    used = groups > 0
    q = (groups.sum(1, keepdim=True) / used.sum(1, keepdim=True).clamp_min(1) * used).flatten()
    p, q = p / p.sum(), q / q.sum()
    p, q = p[p > 0], q[p > 0].clamp_min(1e-10)
    return float((p * (p / q).log()).sum())
    # END SOLUTION


# %%
check(clip_divergence)

# %% [markdown]
# The next cell uses 2,048 bins and 128 levels, as TensorRT does. **Predict:** with the limit that the entropy calibrator finds
# for 8 bits, what is the error of the output in percent? (With "min-max", the error is about 4 %.)

# %%
# BEGIN SOLUTION guess_entropy = None
guess_entropy = 4
# END SOLUTION
if passed(clip_limits) and passed(clip_divergence) and predicted(entropy=guess_entropy):
    bins = torch.histc(x.abs(), 2048)
    choices = range(128, 2049, 128)
    divergences = [clip_divergence(bins, kept, 128) for kept in choices]
    best = choices[divergences.index(min(divergences))]
    four = clip_limits(x, 8) | {"entropy": best / 2048 * float(x.abs().max())}
    errors = output_errors(four, 8)
    bars = {"your prediction": [math.nan] * 3 + [guess_entropy], "measured": list(errors.values())}
    labels = {"ylabel": "error in %", "title": "Four calibrators, output of fc_out, 8 bits"}
    display(plots.prediction_plot(list(errors), bars, **labels, caption="gptj-tiny, block 1"))
    print(
        "Nearly all numbers are small, so entropy gives up the tail; but here the tail is what matters."
    )
    print("No calibrator is best everywhere: measure the output.")

# %% [markdown]
# ## One scale, or many?
#
# A weight can have as many scales as you like. An outlier then spoils only the numbers that share its scale.
#
# *An example with 4 bits:* the row is (0.7, -0.1, 0.3, 7.0). If the row has one scale, the scale is 7.0 / 7 = 1.0, and the
# integers are (1, 0, 0, 7). If there are two groups of two numbers, the scales are 0.1 and 1.0, and the integers are (7, -1)
# and (0, 7). Then only 0.3 is lost, because it is in the outlier's group. A scale of 16 bits for 64 numbers costs 0.25 bits per
# weight.

# %%
pictures.scales_of(rows=4, columns=8, group=4)

# %% [markdown]
# {{exercise lab05.quantize_weight}}


# %%
def quantize_weight(weight, bits, group_size):
    """(integers [out, in] int8, scales [out, in / group_size] float32) of a weight [out, in]."""
    # BEGIN SOLUTION
    groups = weight.reshape(len(weight), -1, group_size)
    scales = groups.abs().amax(-1) / (2 ** (bits - 1) - 1)
    scales[scales == 0] = 1.0
    integers = (groups / scales[..., None]).round().to(torch.int8)
    return integers.flatten(1), scales
    # END SOLUTION


# %%
check(quantize_weight)

# %% [markdown]
# **Predict:** if each row has one scale, how many times larger is the error with 4 bits than with 8 bits?


# %%
def weight_error(matrix, bits, group_size):
    """The error in percent after your quantizer."""
    integers, scales = quantize_weight(matrix, bits, group_size)
    return 100 * error(integers * scales.repeat_interleave(group_size, 1), matrix)


# BEGIN SOLUTION guess_four_bits = None
guess_four_bits = 16
# END SOLUTION
if passed(quantize_weight) and predicted(four_bits=guess_four_bits):
    w, bits = tensors.weight("transformer.h.1.mlp.fc_in.weight"), [2, 3, 4, 6, 8]
    forms = {"per tensor": (w.view(1, -1), w.numel()), "per row": (w, 256), "groups of 64": (w, 64)}
    lines = {name: [weight_error(m, b, size) for b in bits] for name, (m, size) in forms.items()}
    ratio = lines["per row"][2] / lines["per row"][4]
    shown = {"your prediction": [guess_four_bits], "measured": [ratio]}
    title = "4 bits against 8, one scale per row"
    display(plots.prediction_plot(["fc_in"], shown, ylabel="times larger error", title=title))
    labels = {"xlabel": "bits", "ylabel": "error of the weight in %", "title": "One scale, or many?"}
    display(plots.sweep_plot(bits, lines, **labels))

# %% [markdown]
# Each bit that you remove makes the steps about twice as wide.
#
# ## Your quantizer makes a model
#
# `labkit.compress` goes through the model and calls a function for each matrix. In the next cell, this is **your** function.
# The result is a directory in the format of the library compressed-tensors; `labkit.load` loads such a directory. (The original
# model has 21.0 MB.)

# %%
models, engines = {}, {}
if passed(quantize_weight):
    engines = {name: labkit.load("gptj-tiny", dtype=name) for name in ("fp32", "bf16")}
    for bits, group_size in ((8, None), (4, 64), (3, 64), (2, 64)):  # None: one scale for each row
        made = own_model.make(quantize_weight, bits, group_size)
        print(f"int{bits}: {made.bits_per_weight:.2f} bits per weight, {made.bytes_after / 1e6:.1f} MB")
        models[f"int{bits}"], engines[f"int{bits}"] = made, own_model.load(made)
    params = labkit.SamplingParams(max_new_tokens=24)
    for name, engine in engines.items():
        (answer,) = engine.generate(["The condition of our country"], params)
        print(f"{name:5} {answer.text!r}")

# %% [markdown]
# {{core path: go on at Training with rounding}}

# %% [markdown]
# ### Four bits in memory
#
# No machine can address four bits, so two weights share a byte. *An example:* the weights are 3 and -5. 3 + 8 = 11 and
# -5 + 8 = 3, so the byte is 11 + 16 · 3 = 59.

# %%
pictures.nibbles(even=3, odd=-5)

# %% [markdown]
# {{exercise lab05.pack_int4}}


# %%
def pack_int4(values):
    """int8 [rows, columns] with numbers from -8 to 7 as uint8 [rows, columns / 2]."""
    # BEGIN SOLUTION
    nibbles = (values + 8).to(torch.uint8)
    if values.shape[1] % 2:
        nibbles = torch.nn.functional.pad(nibbles, (0, 1), value=8)
    return nibbles[:, 0::2] | nibbles[:, 1::2] << 4
    # END SOLUTION


# %%
check(pack_int4)

# %% [markdown]
# {{exercise lab05.unpack_int4}}


# %%
def unpack_int4(packed, columns):
    """The numbers of pack_int4: int8 [rows, columns]."""
    # BEGIN SOLUTION
    halves = torch.stack((packed & 15, packed >> 4), dim=-1)
    return halves.flatten(1)[:, :columns].to(torch.int8) - 8
    # END SOLUTION


# %%
check(unpack_int4)

# %%
if passed(quantize_weight) and passed(pack_int4) and passed(unpack_int4):
    integers, scales = quantize_weight(weight, 4, 64)
    engine_form = labkit.ops.Int4Weight(pack_int4(integers), scales.half(), 1024, 64)
    same = engine_form.dequantize() == integers * scales.half().float().repeat_interleave(64, 1)
    print("the engine's kernels read your bytes as your numbers:", bool(same.all()))
    print("unpacked again:", torch.equal(unpack_int4(pack_int4(integers), 1024), integers))
    print(f"{4 * weight.numel():,} bytes in float32, {engine_form.byte_count:,} packed, with scales")

# %% [markdown]
# ### Activations in 8 bits: SmoothQuant
#
# If weights *and* activations are integers, the matrix product itself runs in 8 bits. But in large models a few channels of the
# activations are up to a hundred times larger than the other channels. A single scale then leaves only a handful of steps for
# the other channels. **SmoothQuant** divides each channel by a factor, and multiplies the weight's column by the same factor:
# the matrix product stays the same.
#
# *An example* with two channels: the largest inputs are 1 and 100, the largest weights are 1 and 1, and alpha is 0.5. The
# factors are 1 and 10. After the division, the largest inputs are 1 and 10, and the largest weights are 1 and 10.

# %% [markdown]
# {{exercise lab05.smooth}}


# %%
def smooth(weight, largest, alpha):
    """(factors [in], new_weight [out, in]); `largest` [in] is the largest magnitude of each input."""
    # BEGIN SOLUTION
    columns = weight.abs().amax(0)
    factors = largest.pow(alpha) / columns.pow(1 - alpha)
    factors = torch.where((largest == 0) | (columns == 0), torch.ones_like(factors), factors)
    return factors, weight * factors
    # END SOLUTION


# %%
check(smooth)

# %% [markdown]
# `gptj-tiny` is too small to have such channels, so the next cell makes three of them: it multiplies three channels by 40 and
# divides the weight's columns by 40. The product stays the same. **Predict:** which alpha, between 0 and 1, is the best?


# %%
def int8_product_error(inputs, matrix):
    """The error in percent of a matrix product in 8 bits, with one scale for all inputs and one for each row of the weight."""
    integers, scales = quantize_weight(matrix, 8, matrix.shape[1])
    found = round_trip(inputs, float(inputs.abs().max()) / 127, 0, 8) @ (integers * scales).T
    return 100 * error(found, inputs @ matrix.T)


# BEGIN SOLUTION guess_alpha = None
guess_alpha = 0.7
# END SOLUTION
if passed(smooth) and passed(quantize_weight) and predicted(alpha=guess_alpha):
    inputs, matrix = tensors.with_outliers(channels=(17, 90, 201), times=40)
    made = {percent: smooth(matrix, inputs.abs().amax(0), percent / 100) for percent in range(0, 101, 10)}
    errors = [int8_product_error(inputs / factors, new) for factors, new in made.values()]
    print(f"without SmoothQuant: {int8_product_error(inputs, matrix):.1f} %")
    marks = {"your alpha": (100 * guess_alpha, errors[min(10, max(0, round(10 * guess_alpha)))])}
    labels = {"xlabel": "alpha in %", "ylabel": "error of the product in %", "title": "SmoothQuant, W8A8"}
    display(plots.sweep_plot(list(made), {"your smooth": errors}, marks=marks, log=False, **labels))

# %% [markdown]
# Every alpha removes most of the error, so in this example the factors matter, and the exact alpha does not. At run time the
# division by the factors costs nothing, because it is folded into the layer norm before the matrix product.
#
# ### GPTQ: columns that repair errors
#
# If one weight becomes too small, a neighbour with similar inputs can become larger. **GPTQ** rounds column by column, and moves all
# later columns so that the layer's output changes least. The Hessian $H$, the mean of $x x^T$, says which inputs are similar;
# GPTQ needs the upper Cholesky factor $U$ of the inverse of $H$.
#
# *An example:* w is (0.6, 1.0), the scale is 1, and the two inputs are nearly equal, so $U_{00} = 2.4$ and $U_{01} = -2.2$. The
# weight 0.6 is rounded to 1, so the error is -0.4. The second weight becomes 1.0 - (-0.4 / 2.4) · (-2.2) = 0.63: it gets
# smaller because the first weight got larger.

# %%
pictures.column_step(columns=8, column=3)

# %% [markdown]
# {{exercise lab05.gptq_column}}


# %%
def gptq_column(weight, factor, column, scales, bits):
    """A copy of weight [out, in] in which one column is rounded, and the later columns make up for the error."""
    # BEGIN SOLUTION
    new = weight.clone()
    old = weight[:, column]
    q = (old / scales).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * scales
    new[:, column] = q
    share = (old - q) / factor[column, column]
    new[:, column + 1 :] -= torch.outer(share, factor[column, column + 1 :])
    return new
    # END SOLUTION


# %%
check(gptq_column)

# %% [markdown]
# The next cell rounds all 256 columns of a real matrix, with 3 bits and a scale per row. The error is measured on *other* text
# than the Hessian. **Predict:** how much of the error of rounding to nearest does GPTQ remove, in percent? (The command
# `labkit compress gptj-tiny --method int3-gptq --out DIR` rounds every matrix of the model in this way.)

# %%
# BEGIN SOLUTION guess_removed = None
guess_removed = 40
# END SOLUTION
if passed(gptq_column) and predicted(removed=guess_removed):
    w, seen = tensors.weight("transformer.h.1.attn.q_proj.weight"), tensors.inputs(1)["attn.q_proj"]
    other = tensors.inputs(1, passage=1)["attn.q_proj"]
    factor, scales = upper_factor(seen.T @ seen / len(seen)), w.abs().amax(1) / 3
    repaired = w
    for column in range(w.shape[1]):
        repaired = gptq_column(repaired, factor, column, scales, 3)
    nearest = (w / scales[:, None]).round() * scales[:, None]
    made = {"round to nearest": nearest, "your GPTQ": repaired}
    errors = {name: 100 * error(other @ m.T, other @ w.T) for name, m in made.items()}
    print({name: f"{value:.1f} %" for name, value in errors.items()})
    bars = {
        "your prediction": [guess_removed],
        "measured": [100 - 100 * errors["your GPTQ"] / errors["round to nearest"]],
    }
    labels = {"ylabel": "error removed in %", "title": "GPTQ against round to nearest, 3 bits"}
    display(plots.prediction_plot(["q_proj, block 1"], bars, **labels))

# %% [markdown]
# ## Training with rounding
#
# PTQ does not train the weights. **QAT** puts the rounding into the forward pass (*fake quantization*) and continues training,
# so that the weights move to values at which rounding hurts less. But the gradient of rounding is 0. The **straight-through
# estimator** pretends that this gradient is 1.
#
# *An example:* the scale is 0.5, and there are 3 bits. w = 0.7 becomes 0.5, and its gradient passes unchanged. w = 2.1 is
# clipped to 3 · 0.5 = 1.5; a small change of w changes nothing, so its gradient is 0. In torch, `y.detach()` has the value of
# y, but no gradient passes through it.

# %%
pictures.staircase(bits=3, scale=0.5)

# %% [markdown]
# {{exercise lab05.fake_quantize}}


# %%
def fake_quantize(weight, scales, bits):
    """weight [out, in] rounded and clipped, in float32; its gradient passes straight through. scales: [out, 1]."""
    # BEGIN SOLUTION
    x = (weight / scales).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return (x + (x.round() - x).detach()) * scales
    # END SOLUTION


# %%
check(fake_quantize)

# %% [markdown]
# (`torch.fake_quantize_per_channel_affine` also computes this, but with a zero point; torch's own QAT calls it.)
#
# The next cells train all blocks of `gptj-tiny` with 2 bits and a scale per row, for 30 steps of 2 · 128 tokens. **Predict:** how
# much of the loss that PTQ added do these steps win back, in percent?


# %%
def train(steps=30, bits=2):
    """The held-out loss without rounding, with rounding (PTQ), and after training with rounding; and the training losses."""
    model = qat.student(fake_quantize, bits)
    before = {"fp32": qat.held_out_loss(qat.plain()), "PTQ": qat.held_out_loss(model)}
    optimizer, losses = torch.optim.Adam(model.transformer.h.parameters(), lr=1e-3), []
    bar = measure.progress_bar("training steps")
    for step, ids in enumerate(qat.training_windows(steps, batch=2), 1):
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        bar(step, steps)
    return before | {"QAT": qat.held_out_loss(model), "losses": losses}


# %%
# BEGIN SOLUTION guess_won_back = None
guess_won_back = 50
# END SOLUTION
if passed(fake_quantize) and predicted(won_back=guess_won_back):
    trained = runs.keep("training with 2 bits", train)
    print({name: f"{trained[name]:.3f} nats" for name in ("fp32", "PTQ", "QAT")})
    won = 100 * (trained["PTQ"] - trained["QAT"]) / (trained["PTQ"] - trained["fp32"])
    labels = {"ylabel": "won back in %", "title": "What 30 steps win back of PTQ's loss, 2 bits"}
    bars = {"your prediction": [guess_won_back], "measured": [won]}
    display(plots.prediction_plot(["held-out text"], bars, **labels))
    lines, limits = {"training": trained["losses"]}, {n: [trained[n]] * 30 for n in ("fp32", "PTQ")}
    labels = {"xlabel": "step", "ylabel": "loss in nats per token", "log": False, "limits": limits}
    display(plots.sweep_plot(range(1, 31), lines, **labels, title="Training with rounding"))

# %% [markdown]
# The dashed lines are two losses on held-out text: the loss without rounding, and the loss with rounding before training. QAT
# needs data and a backward pass through the model, which is too expensive for most users of a model with 175 billion weights.
# Therefore PTQ methods such as GPTQ exist.
#
# ## FP8: a ruler that grows with the number
#
# The **Transformer Engine** of NVIDIA's Hopper GPUs multiplies numbers of 8 bits. Of its two formats, *e4m3* is more precise,
# and *e5m2* has a wider range. The largest number in e4m3 is 448, and numbers below 0.001 become 0, so each tensor gets a
# **scale**. The tensor's largest number (*amax*) is known only after the tensor x is computed, and reading x again would take
# the time that FP8 saves. So **delayed scaling** uses the amax of earlier steps: it "monitors tensor statistics and dynamically
# adjusts range".
#
# *An example* in e4m3: the history is (3.0, 5.0). 448 / 5.0 = 89.6, so the scale is 64. x = 3.1 becomes 198.4; the nearest e4m3
# number is 192, which stands for 3.0. x = 8.0 would become 512, so it is clipped to 448, which stands for 7.0. The new history
# is (8.0, 3.0).

# %%
pictures.fp8_bits()

# %% [markdown]
# {{exercise lab05.fp8_cast}}


# %%
def fp8_cast(x, history, dtype):
    """(values, scale, new_history): x as FP8 numbers, divided by the scale again; history [n] has the newest amax first."""
    # BEGIN SOLUTION
    most, amax = torch.finfo(dtype).max, float(history.max())
    scale = 2.0 ** math.floor(math.log2(most / amax)) if amax else 1.0
    values = (x * scale).clamp(-most, most).to(dtype).float() / scale
    return values, scale, torch.cat((x.abs().max()[None], history[:-1]))
    # END SOLUTION


# %%
check(fp8_cast)

# %% [markdown]
# Gradients are small numbers; here, x divided by 1,000 stands for them. **Predict:** if there is no scale, what percentage of
# these numbers becomes 0 in e4m3?

# %%
# BEGIN SOLUTION guess_lost = None
guess_lost = 50
# END SOLUTION
if passed(fp8_cast) and predicted(lost=guess_lost):
    small = x / 1000
    plain = small.to(torch.float8_e4m3fn).float()
    scaled, scale, _ = fp8_cast(small, small.abs().max()[None], torch.float8_e4m3fn)
    lost = [100 * float(((found == 0) & (small != 0)).float().mean()) for found in (plain, scaled)]
    print(
        f"scale {scale:g}; error {error(plain, small):.1%} without it, {error(scaled, small):.1%} with it"
    )
    large = (x * 1e4).to(torch.float8_e5m2).float()
    print(
        f"x times 10,000 in e5m2, without a scale: {int((~large.isfinite()).sum())} numbers became infinite"
    )
    bars = {"your prediction": [guess_lost, math.nan], "measured": lost}
    labels = {"ylabel": "numbers that became 0, in %", "title": "x / 1000 in e4m3"}
    display(
        plots.prediction_plot(["without a scale", "your cast"], bars, **labels, caption="fc_out, block 1")
    )

# %%
# This cell runs 24 steps. The numbers grow by 12 % in each step, and one step has a sudden outlier.
if passed(fp8_cast):
    followed = fp8_steps.follow(fp8_cast)
    errors = followed.pop("error in %")
    labels = {"xlabel": "step", "log": False, "caption": "e4m3, history of 4 steps"}
    title = "The scale follows the numbers, one step late"
    display(plots.sweep_plot(range(24), followed, ylabel="magnitude", title=title, **labels))
    labels |= {"ylabel": "error in %", "title": "What the delay costs"}
    display(plots.sweep_plot(range(24), {"your cast": errors}, **labels))

# %% [markdown]
# When the outlier comes, the scale does not yet fit it, so the outlier is clipped once. For the next four steps, the scale
# leaves more room than the numbers need. This costs nothing, because the relative error of a floating-point number does not
# depend on the scale. With INT8, the error would grow.
#
# ## Bits, quality and speed
#
# The next cell measures the models that you made above. **Predict:** how many bits per byte does the 2-bit model need for text
# that it has never seen? (The model `fp32` needs about 1.28 bits per byte. A model that thinks all 256 bytes equally likely
# needs 8.)

# %%
# BEGIN SOLUTION guess_two_bits = None
guess_two_bits = 3
# END SOLUTION
if models and predicted(two_bits=guess_two_bits):
    rows = [
        tradeoff.quality("fp32", engines["fp32"], bits=32, megabytes=42.0),
        tradeoff.quality("bf16", engines["bf16"], bits=16, megabytes=21.0),
    ]
    for name, made in models.items():
        rows.append(tradeoff.quality(name, engines[name], made.bits_per_weight, made.bytes_after / 1e6))
    timings = runs.keep_timings("speed of the models", lambda: tradeoff.speeds(engines))
    display(tradeoff.figure(rows, timings, guess_two_bits, caption=f"gptj-tiny, your quantizer; {where}"))
    rungs = {"fp32": "lab 05 fp32", "int8": "lab 05 quantized, int8", "int4": "lab 05 quantized, int4"}
    ladder.add_timings(tradeoff.TASK, {rung: timings[name] for name, rung in rungs.items()}, where=where)
    display(plots.ladder_plot(ladder.of(tradeoff.TASK), caption=where))

# %% [markdown]
# Eight bits cost no quality, four and three bits cost little, and two bits ruin the model; one bit (the lecture's INT1) leaves
# only signs. labkit has kernels for 8 and 4 bits; weights in 3 and 2 bits are dequantized when they are loaded: **a format
# without a kernel saves disk space, but no time.** And `gptj-tiny` fits into the processor's cache, so fewer bytes gain less
# than in a large model.
#
# ## The lecture's table, measured
#
# The lecture's table has two columns. The *math throughput* is 1x for FP32, 8x for FP16, 16x for INT8 and 32x for INT4; these
# are the rates of NVIDIA's T4. The *bandwidth reduction* is 1x, 2x, 4x and 8x. You measure both with a weight of 8,192 x 4,096.
# For the throughput, you time a matrix product of 256 rows. For the bandwidth, you time a matrix product of one row, which does
# little more than read the weight. **Predict:** how many times faster than FP32 is INT8 in each of the two products?

# %%
# BEGIN SOLUTION guess_int8_math, guess_int8_reading = None, None
guess_int8_math, guess_int8_reading = 4, 4
# END SOLUTION
if predicted(int8_math=guess_int8_math, int8_reading=guess_int8_reading):
    for kind, guess in (("throughput", guess_int8_math), ("bandwidth", guess_int8_reading)):
        measure_kind = lambda kind=kind: throughput.measure(device, kind)
        timings = runs.keep_timings(f"{kind} of formats", measure_kind)
        gains = [measure.ratio(timings["FP32"], one) for one in timings.values()]
        print(kind, {name: str(gain) for name, gain in zip(timings, gains)})
        bars = {
            "your prediction": [math.nan, math.nan, guess, math.nan],
            "the lecture": throughput.LECTURE[kind],
            "measured": [gain.shown for gain in gains],
        }
        labels = {"ylabel": "times faster than FP32", "caption": where, "title": throughput.TITLES[kind]}
        display(plots.prediction_plot(throughput.names(device), bars, **labels))

# %% [markdown]
# **Why is a CPU different?** The T4 has two kinds of units: ordinary units for FP32, and *tensor cores*. Tensor cores multiply
# only numbers in small formats, but they multiply whole tiles at once, and so they are 8 times as fast. Most CPUs have only
# ordinary units (AMX is an exception). A register of 512 bits holds 16 numbers in FP32, 32 in BF16 and 64 in INT8, so at best,
# vector instructions are 1x, 2x and 4x as fast. No CPU multiplies INT4: the kernel unpacks each byte into two INT8 numbers
# first.
#
# *Bandwidth* depends only on the number of bytes, on a CPU as on a GPU. With one row, as in a decode step, the gains come near
# the lecture's numbers if the weight comes from memory and the unpacking is fast enough. Therefore INT4 weights are worthwhile
# on a CPU, too.
#
# ## What you have now
#
# - You have a quantizer of your own, and models that it made and that the engine runs.
# - You have a rounding function that gradients pass through, and a cast to FP8 that takes its scale from earlier steps.
# - You have measured how many bits are best for this model and this machine.
#
# Your points are in the panel at the top (*Look again*).

# %%
progress_panel("05")
