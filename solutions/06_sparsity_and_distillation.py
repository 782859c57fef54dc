# %% [markdown]
# # Lab 06 · Sparsity and distillation
#
# **After this lab you can** prune a model to the 2:4 pattern of NVIDIA's sparse tensor cores, choose which weights stay, say
# why zeros alone save no time, train a pruned model without losing its mask, distil a student with half of the layers, and let
# this student guess tokens for its teacher without changing the text.
#
# Lab 05 stored numbers in fewer bits. In this lab, a model has **fewer** numbers: **pruning** removes weights, and
# **distillation** trains a small model to say what a large model says. You use both methods on `gptj-tiny`.
#
# *{{lab 06: size}} · runs on any machine, with or without a GPU. Two cells train for up to 40 and 80 seconds.*
#
# {{lab 06: core path}}

# %%
import math

import torch

import labkit
from labkit import measure
from labkit.lab import check, hint, made, passed, predicted, progress_panel, reset, solution, submit
from labkit.lab.lab06 import everything, models, pictures, quality, speculation, tensors
from labkit.lab.lab06 import tradeoff, training, zeros
from labkit.measure import plots
from labkit.precision import as_device

runs, ladder, device = measure.KeptRuns("06"), measure.Ladder(), as_device()
where = f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}"

# %%
progress_panel("06")

# %% [markdown]
# ## Which connections can go?
#
# The lecture removes "unnecessary connections": a network with 32 connections becomes a network with 24 connections. A whole
# neuron is removed, so the matrices are smaller and still dense. This is **structured** pruning: every machine runs the smaller
# network faster, but whole neurons are seldom unnecessary.

# %%
pictures.connections()

# %% [markdown]
# **Unstructured** pruning removes single weights. It costs less quality, but the zeros can be anywhere. **2:4 sparsity** is
# between the two: *of every four neighbours in a row, two stay*. The tensor cores of NVIDIA's GPUs since Ampere read only half
# of the numbers of such a matrix and two bits for the place of each number, and skip half of the multiplications.
#
# *An example:* the scores are (7, 1, 2, 9, 3, 8, 6, 5). In the first group of four, 7 and 9 are the largest; in the second
# group, 8 and 6 are the largest.

# %%
pictures.two_four()

# %% [markdown]
# {{exercise lab06.two_four_mask}}


# %%
def two_four_mask(scores):
    """A boolean mask [out, in] that keeps the two largest scores of every four neighbours."""
    # BEGIN SOLUTION
    fours = scores.reshape(-1, 4)
    order = fours.argsort(dim=1, descending=True, stable=True)
    mask = torch.zeros_like(fours, dtype=torch.bool)
    return mask.scatter_(1, order[:, :2], True).view(scores.shape)
    # END SOLUTION


# %%
check(two_four_mask)

# %% [markdown]
# The simplest score is the **magnitude** of a weight. **Predict:** you keep half of the weights of a real matrix, the larger
# two of every four. What percentage of the sum of all magnitudes do you keep? What percentage would you keep if you chose the
# largest half of the whole matrix?


# %%
def kept_percent(weight, mask):
    """The share of the sum of magnitudes that a mask keeps, in percent."""
    return 100 * float((weight.abs() * mask).sum() / weight.abs().sum())


# BEGIN SOLUTION guess_kept, guess_kept_free = None, None  # your predictions
guess_kept, guess_kept_free = 70, 80
# END SOLUTION
if passed(two_four_mask) and predicted(kept=guess_kept, kept_free=guess_kept_free):
    w = tensors.weight("transformer.h.1.mlp.fc_out.weight")  # [256, 1024]
    free = w.abs() > w.abs().median()
    measured = [kept_percent(w, two_four_mask(w.abs())), kept_percent(w, free)]
    bars = {"your prediction": [guess_kept, guess_kept_free], "measured": measured}
    labels = {"ylabel": "magnitude kept in %", "title": "Half of the weights of fc_out, block 1"}
    display(plots.prediction_plot(["2:4", "the largest half"], bars, **labels, caption="gptj-tiny"))

# %% [markdown]
# With the 2:4 pattern, you keep a few percent less than with a free choice. NVIDIA's tool ASP wins some of this back: it
# permutes the columns first, so that large weights do not compete with each other (`labkit compress --permute` searches for
# such an order).
#
# ## A better mask
#
# A large weight adds almost nothing to the output if its input is always near 0. **Wanda** (*weights and activations*)
# multiplies the magnitude of a weight by the norm of the weight's input, measured on calibration text.
#
# *An example:* the weights are (0.9, 0.5, 0.4, 0.1), and the norms of their inputs are (1, 4, 1, 20). If the score is the
# magnitude, 0.9 and 0.5 are kept. Wanda's scores are (0.9, 2.0, 0.4, 2.0), so Wanda keeps 0.5 and 0.1.

# %% [markdown]
# {{exercise lab06.wanda_scores}}


# %%
def wanda_scores(weight, inputs):
    """Scores [out, in] of a weight [out, in], from inputs [tokens, in]."""
    # BEGIN SOLUTION
    norms = inputs.square().sum(0).sqrt()
    return weight.abs() * norms
    # END SOLUTION


# %%
check(wanda_scores)

# %% [markdown]
# The error that counts is the error of the layer's output, on text *other* than the calibration text. **Predict:** for
# `q_proj`, how many times larger is the output's error with the magnitude mask than with Wanda's mask?


# %%
def output_error(name, scores_of):
    """The error in percent of a matrix's output in block 1 after pruning by scores."""
    w, seen = tensors.weight(f"transformer.h.1.{name}.weight"), tensors.inputs(1)[name]
    pruned, other = w * two_four_mask(scores_of(w, seen)), tensors.inputs(1, passage=1)[name]
    return 100 * float((other @ (pruned - w).T).norm() / (other @ w.T).norm())


# BEGIN SOLUTION guess_wanda = None
guess_wanda = 1.3
# END SOLUTION
if passed(two_four_mask) and passed(wanda_scores) and predicted(wanda=guess_wanda):
    names = ["attn.q_proj", "attn.out_proj", "mlp.fc_in", "mlp.fc_out"]
    errors = {
        "magnitude": [output_error(name, lambda w, x: w.abs()) for name in names],
        "Wanda": [output_error(name, wanda_scores) for name in names],
    }
    ratios = [a / b for a, b in zip(errors["magnitude"], errors["Wanda"])]
    bars = {"your prediction": [guess_wanda] + [math.nan] * 3, "measured": ratios}
    labels = {"ylabel": "times larger error", "title": "Magnitude against Wanda, 2:4"}
    display(plots.prediction_plot(names, bars, **labels, caption="outputs of block 1, gptj-tiny"))

# %% [markdown]
# The next cell prunes all 48 matrices of the model, with each of the two masks. **Predict:** how many bits per byte of unseen
# text does the pruned model need with each mask? (The dense model needs about 1.23; lab 05's model of 2 bits was far worse.)

# %%
pruned = {}
# BEGIN SOLUTION guess_bits_magnitude, guess_bits_wanda = None, None
guess_bits_magnitude, guess_bits_wanda = 1.8, 1.6
# END SOLUTION
masks_pass = passed(two_four_mask) and passed(wanda_scores)
if masks_pass and predicted(bits_magnitude=guess_bits_magnitude, bits_wanda=guess_bits_wanda):
    pruned["2:4, magnitude"] = models.prune(lambda w, x: two_four_mask(w.abs()))
    pruned["2:4, Wanda"] = models.prune(lambda w, x: two_four_mask(wanda_scores(w, x)))

# %%
if made(pruned=pruned):
    made_so_far = {name: each.model for name, each in pruned.items()}
    dense_row, *pruned_rows = found = quality.rows({"teacher": models.teacher(), **made_so_far})
    best = min(pruned_rows, key=lambda row: row.bits_per_byte)
    guesses = [math.nan, guess_bits_magnitude, guess_bits_wanda]
    bars = {"your prediction": guesses, "measured": [row.bits_per_byte for row in found]}
    spans, names = {"measured": [(row.low, row.high) for row in found]}, [row.name for row in found]
    labels = {"ylabel": "bits per byte", "title": "gptj-tiny, half of the weights of every block"}
    display(plots.prediction_plot(names, bars, ranges=spans, **labels, caption="whiskers: 95 %"))

# %% [markdown]
# The whiskers show the spread of the text itself: some passages are harder than others, for every model. Did Wanda win? Wanda's
# error is smaller in every layer that you measured, but the errors of 48 matrices do not simply add up to the loss. Wanda was
# made for models with billions of weights, in which a few inputs are a hundred times larger than the other inputs; `gptj-tiny`
# has no such inputs. **Measure what you care about.** The notebook continues with the mask that is better for `gptj-tiny`.
#
# **SparseGPT** goes one step further: like GPTQ in lab 05, it changes the weights that stay so that they make up for the
# weights that are removed (`labkit compress gptj-tiny --method 2:4-sparsegpt`).

# %% [markdown]
# {{core path: go on at Zeros alone save no time}}

# %% [markdown]
# ### What the sparse tensor core reads
#
# A pruned matrix is just a matrix with zeros until it is *stored* differently. The tensor core reads the kept numbers side by
# side, and reads the place of each number in its group of four. A place is a number from 0 to 3 and has two bits. *An example:*
# the places 0 and 3 are the bits 11 00, which is 12; the places 1 and 2 are the bits 10 01, which is 9. The left group of four
# is in the low half of the byte, so the byte is 12 + 16 · 9 = 156.

# %% [markdown]
# {{exercise lab06.compress_two_four}}


# %%
def compress_two_four(weight, mask):
    """(values [out, in / 2], indices [out, in / 8] uint8) of a 2:4 matrix [out, in]."""
    # BEGIN SOLUTION
    values = weight[mask].view(len(weight), -1)
    places = mask.nonzero()[:, 1].view(len(weight), -1, 2) % 4
    nibbles = (places[..., 0] | places[..., 1] << 2).to(torch.uint8)
    return values, nibbles[:, 0::2] | nibbles[:, 1::2] << 4
    # END SOLUTION


# %%
check(compress_two_four)

# %%
if passed(two_four_mask) and passed(compress_two_four):
    w = tensors.weight("transformer.h.1.mlp.fc_out.weight").bfloat16()
    mask = two_four_mask(w.abs())
    values, indices = compress_two_four(w * mask, mask)
    engine_form = labkit.weight_formats.Sparse24Weight(values, indices, w.shape[1])
    same = torch.equal(engine_form.dequantize(torch.bfloat16), w * mask)
    print("the engine's kernels read your bytes as your numbers:", same)
    print(f"{w.nbytes:,} bytes dense, {engine_form.byte_count:,} in your form")

# %% [markdown]
# ## Zeros alone save no time
#
# A matrix product of one row does little more than read the weight, so its time depends on the number of **bytes**. The stored
# places are bytes, too.

# %% [markdown]
# {{exercise lab06.stored_bytes}}


# %%
def stored_bytes(out, columns, kept, element_bytes):
    """The bytes of a sparse matrix in four forms: {"dense": ..., "csr": ..., "bitmask": ..., "2:4": ...}."""
    # BEGIN SOLUTION
    weights = out * columns
    return {
        "dense": weights * element_bytes,
        "csr": kept * (element_bytes + 4) + 4 * (out + 1),
        "bitmask": kept * element_bytes + weights // 8,
        "2:4": weights // 2 * element_bytes + weights // 2 * 2 // 8,
    }
    # END SOLUTION


# %%
check(stored_bytes)

# %%
if passed(stored_bytes):
    size, densities = 4096 * 4096, [5, 10, 20, 33, 50, 75, 100]
    by_density = [stored_bytes(4096, 4096, size * percent // 100, 2) for percent in densities]
    lines = {form: [row[form] / 1e6 for row in by_density] for form in by_density[0]}
    labels = {"xlabel": "weights that are kept, in %", "ylabel": "MB", "log": False}
    title = "A matrix of 4,096 x 4,096 in BF16"
    display(plots.sweep_plot(densities, lines, **labels, title=title, caption="2:4 always keeps 50 %"))

# %% [markdown]
# CSR, the usual form for sparse matrices, stores 4 bytes for each place. In BF16, CSR is smaller than the dense form only if
# less than 33 % of the weights are kept, and language models do not tolerate that.
#
# The next cell measures the time. Half of the weights are 0. **Predict** for three forms: how many times faster than with a
# dense matrix is a matrix product of one row? The forms are: zeros in a dense matrix; CSR in FP32, against dense FP32; and 2:4
# with labkit's kernel, against dense BF16 (FP16 on a GPU).

# %%
# BEGIN SOLUTION guess_zeros, guess_csr, guess_two_four = None, None, None
guess_zeros, guess_csr, guess_two_four = 1, 1, 1.5
# END SOLUTION
if predicted(zeros=guess_zeros, csr=guess_csr, two_four=guess_two_four):
    timings = runs.keep_timings("products with zeros", lambda: zeros.measure(device))
    gains = [measure.ratio(timings[dense], timings[sparse]) for dense, sparse in zeros.PAIRS.values()]
    for name, gain in zip(zeros.PAIRS, gains):
        print(f"dense against {name}: {gain.words}")
    bars = {
        "your prediction": [guess_zeros, guess_csr, guess_two_four],
        "measured": [gain.shown for gain in gains],
    }
    labels = {"ylabel": "times faster than dense", "title": "Half zeros: a product of one row"}
    caption = measure.noted(where, gains)
    display(plots.prediction_plot(list(zeros.PAIRS), bars, **labels, caption=caption))

# %% [markdown]
# A dense kernel multiplies zeros as fast as other numbers. **Zeros alone save nothing: it takes a form with fewer bytes, and a
# kernel that reads it.** If 50 % of the weights are kept, CSR in FP32 has as many bytes as the dense form: 4 for each number
# and 4 for its place. The kernel for CSR also has to read the place of each input before it can fetch the input, so it is far
# slower. A CPU has no unit that skips multiplications. So on a CPU, 2:4 saves only the time for reading bytes, and needs
# additional time to put numbers into their places. A sparse tensor core also skips multiplications, so matrix products of many
# rows are faster, too.
#
# ## Recovery: train, and keep the mask
#
# ASP prunes once, and then continues training. But a step of training changes *all* weights. *An example:* w is (0.5, 0), the
# mask is (1, 0), and the gradients are (0.1, 0.3). After a step of plain gradient descent with rate 1, w is (0.4, -0.3), and
# the pruned weight is back. Adam has a second trap: its averages remember earlier gradients.

# %% [markdown]
# {{exercise lab06.masked_adam}}


# %%
def masked_adam(weight, gradient, mean, square, mask, rate, step):
    """(weight, mean, square) after one step of Adam that keeps the mask; all tensors have the same shape."""
    # BEGIN SOLUTION
    g = gradient * mask
    mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g**2
    change = mean / (1 - 0.9**step) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
    return (weight - rate * change) * mask, mean, square
    # END SOLUTION


# %%
check(masked_adam)

# %% [markdown]
# The next cell trains all blocks of the better of your two pruned models with your step, for at most 40 seconds. The loss says
# how far the predictions of the pruned model are from the predictions of the dense model. **Predict:** what percentage of the
# bits that pruning added do these steps win back?


# %%
def recover(pruned, count=40):
    """Train the blocks of a pruned model; returns the loss of each step."""
    model, averages, losses = pruned.model, {}, []
    steps = training.steps("recovery steps", count, rate=5e-4, seconds=40)
    for step, (windows, rate) in enumerate(steps, 1):
        losses.append(training.backward(model, windows, training.divergence, part="transformer.h."))
        for name, w in list(model.tensors.items()):
            if w.grad is not None:
                mask = pruned.masks.get(name, torch.ones_like(w, dtype=torch.bool))
                mean, square = averages.get(name, (torch.zeros_like(w), torch.zeros_like(w)))
                new, *averages[name] = masked_adam(w.detach(), w.grad, mean, square, mask, rate, step)
                model.tensors[name] = new
    return losses


# %%
recovered = None
# BEGIN SOLUTION guess_recovered = None
guess_recovered = 60
# END SOLUTION
if made(pruned=pruned) and passed(masked_adam) and predicted(recovered=guess_recovered):
    recovered = models.Pruned(models.kept_copy(pruned[best.name].model), pruned[best.name].masks)
    losses = recover(recovered)
    kept = all(bool((recovered.model.tensors[n][~m] == 0).all()) for n, m in recovered.masks.items())
    print("every pruned weight is still 0:", kept)

# %%
if made(recovered=recovered):
    dense, before = dense_row.bits_per_byte, best.bits_per_byte
    recovered_row = quality.of("2:4, recovered", recovered.model)
    after = recovered_row.bits_per_byte
    print(f"bits per byte: {dense:.3f} dense, {before:.3f} pruned ({best.name}), {after:.3f} recovered")
    bars = {"your prediction": [guess_recovered], "measured": [100 * (before - after) / (before - dense)]}
    labels = {"ylabel": "won back in %", "title": f"What {len(losses)} steps win back, 2:4"}
    display(plots.prediction_plot(["held-out text"], bars, **labels))
    labels = {
        "xlabel": "step",
        "ylabel": "nats per token",
        "log": False,
        "title": "Distance from the dense model",
    }
    display(plots.sweep_plot(range(1, len(losses) + 1), {"recovery": losses}, **labels))

# %% [markdown]
# The command `labkit compress gptj-tiny --method 2:4-sparsegpt-recovered --out DIR` trains a pruned model in this way, with
# more steps and a better start.
#
# ## Distillation: learn from what a model would have said
#
# A text has *one* next token at each place. A **teacher** gives a probability to every token, for example 40 % to "president",
# 20 % to "country", and nearly 0 % to "banana". These **soft targets** say far more about each place. A **temperature** T above
# 1 makes the teacher's small probabilities visible: the logits of teacher and student are divided by T before the softmax. The
# gradients become about $T^2$ times smaller, so the loss is multiplied by $T^2$.
#
# *An example:* the logits are (4, 2, 0). With T = 1, the probabilities are (0.87, 0.12, 0.02). With T = 2, they are
# (0.67, 0.24, 0.09).

# %% [markdown]
# {{exercise lab06.soft_target_loss}}


# %%
def soft_target_loss(student, teacher, temperature):
    """The distillation loss of logits [rows, vocab_size]: a tensor with one number."""
    # BEGIN SOLUTION
    log_p = torch.log_softmax(teacher / temperature, -1)
    log_q = torch.log_softmax(student / temperature, -1)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    # END SOLUTION


# %%
check(soft_target_loss)

# %% [markdown]
# With which weights does the student begin? DistilBERT copies **every second layer** of BERT. A block only adds to its input,
# so the states before and after a left-out block are similar. The next block can partly work with the state before the left-out
# block, and training does the rest.

# %%
pictures.every_second()

# %% [markdown]
# {{exercise lab06.first_student}}


# %%
def first_student(tensors, teacher_layers, layers):
    """The tensors of a student by their names, copied from a teacher's."""
    # BEGIN SOLUTION
    every, found = teacher_layers // layers, {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        if name.startswith("transformer.h."):
            if (int(parts[2]) + 1) % every:
                continue
            parts[2] = str((int(parts[2]) + 1) // every - 1)
        found[".".join(parts)] = tensor.clone()
    return found
    # END SOLUTION


# %%
check(first_student)

# %% [markdown]
# DistilBERT "retains 97 % of BERT's performance", measured in task scores. The task of `gptj-tiny` is to name the next token,
# so in this lab **quality kept** is the share of held-out tokens for which the student's first choice is right, divided by the
# share for which the teacher's first choice is right.
#
# The next cells train a student with 4 of 8 layers, for at most 80 seconds. **Predict:** how large is the quality kept, in
# percent, before training and after training?


# %%
def distil(count=120, temperature=2.0):
    """Train a student with half of the layers; returns it, and its losses."""
    student, losses = models.student(first_student, layers=4), []
    optimizer = torch.optim.Adam(student.tensors.values())
    for windows, rate in training.steps("distillation steps", count, rate=1e-3, seconds=80):
        loss = training.backward(
            student, windows, lambda made, taught: soft_target_loss(made, taught, temperature)
        )
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        losses.append(loss)
    return student, losses


# %%
student = None
# BEGIN SOLUTION guess_before, guess_after = None, None
guess_before, guess_after = 40, 90
# END SOLUTION
parts_pass = passed(soft_target_loss) and passed(first_student)
if parts_pass and predicted(before=guess_before, after=guess_after):
    student_rows = [quality.of("student, untrained", models.student(first_student, layers=4))]
    student, losses = distil()
    student_rows.append(quality.of("student", student))

# %%
if made(student=student):
    bars = {
        "your prediction": [guess_before, guess_after],
        "measured": [row.kept for row in student_rows],
    }
    labels = {"ylabel": "quality kept in %", "title": f"Half of the layers, {len(losses)} steps"}
    display(
        plots.prediction_plot([row.name for row in student_rows], bars, **labels, caption="gptj-tiny")
    )
    labels = {"xlabel": "step", "ylabel": "loss", "log": False, "title": "Distillation"}
    display(plots.sweep_plot(range(1, len(losses) + 1), {"your loss": losses}, **labels))

# %% [markdown]
# DistilBERT kept 97 % after 90 hours of training on 8 GPUs, in tasks with a few possible answers. Your student trained for at
# most 80 seconds, and has to name one of thousands of tokens.
#
# DistilBERT adds two more losses: one for the text's own next token, and one for the direction of the hidden states. This
# command trains a student for a long time with all three losses:
# `labkit compress gptj-tiny --method distill --layers 4 --out DIR`.
#
# ## The student guesses, the teacher decides
#
# A student is not as good as its teacher. But a student has a use that costs **no quality at all**: the student guesses a few
# tokens, and the teacher checks all guesses in *one* pass, which reads the teacher's weights once. The teacher keeps the
# guesses with which it agrees. This is **speculative decoding**.
#
# If tokens are sampled, "agree" needs care, because the text must come from the *teacher's* distribution. The part that the two
# distributions share is accepted. After a rejection, the token is drawn from the part of the teacher's distribution that
# exceeds the student's distribution.

# %%
pictures.accept()

# %% [markdown]
# *An example* with the numbers of the picture: the draft (the student) guesses token 0. The draft gives token 0 the probability
# 0.6, and the target (the teacher) gives it the probability 0.3. So the guess is accepted with probability 0.3 / 0.6 = 0.5.
# After a rejection, max(target - draft, 0) = (0, 0.2, 0.1), so token 1 is drawn with probability 2/3.

# %% [markdown]
# {{exercise lab06.accept_or_reject}}


# %%
def accept_or_reject(draft, target, token, number, other):
    """The token that is written: the guess, or a token that is drawn in its place."""
    # BEGIN SOLUTION
    if number < target[token] / draft[token]:
        return token
    more = (target - draft).clamp(min=0)
    sums = torch.cumsum(more / more.sum(), dim=0)
    return int((sums > other).nonzero()[0])
    # END SOLUTION


# %%
check(accept_or_reject)

# %%
# This cell checks 4,000 guesses of a draft that is often wrong. Does your text come from the target's distribution?
if passed(accept_or_reject):
    draft, target = speculation.example()
    counts = speculation.drawn(accept_or_reject, draft, target, 4000)
    shares = {"draft": draft, "target": target, "your text": torch.tensor(counts) / 4000}
    bars = {name: [float(f"{100 * p:.2g}") for p in each.tolist()] for name, each in shares.items()}
    labels = {"ylabel": "probability in %", "title": "A wrong draft, and the right text"}
    display(plots.prediction_plot([f"token {n}" for n in range(6)], bars, **labels))
    found = speculation.chi_square(counts, target.tolist())
    print(f"chi-square {found:.1f}; a correct rule stays below 15.1 in 99 of 100 runs (6 tokens)")

# %% [markdown]
# The next cell uses the real predictions of your student. **Predict:** what percentage of the student's guesses is accepted?
#
# The cell also computes the *expected* share: for each token, take the smaller of the two probabilities, and add up these
# numbers over all tokens. This is the part that draft and target share (blue in the picture). The measured share comes from
# eight guesses at each of 256 places, so it differs a little from the expected share; the whisker shows how far.

# %%
# BEGIN SOLUTION guess_accepted = None
guess_accepted = 60
# END SOLUTION
share = None
if made(student=student) and passed(accept_or_reject) and predicted(accepted=guess_accepted):
    guesses, wanted = speculation.predictions(student)
    measured = 100 * speculation.accepted(accept_or_reject, guesses, wanted)
    share = speculation.overlap(guesses, wanted)
    bars = {"your prediction": [guess_accepted], "expected": [100 * share], "measured": [measured]}
    spans = {"expected": [tuple(100 * end for end in speculation.expected_range(guesses, wanted))]}
    labels = {"ylabel": "accepted in %", "title": f"Your student's guesses at {len(guesses)} places"}
    caption = "whisker: 95 of 100 such draws end there"
    display(plots.prediction_plot(["held-out text"], bars, ranges=spans, **labels, caption=caption))

# %%
if made(share=share):
    cost = student.config.parameter_count / models.teacher().config.parameter_count
    forms = {"your student": cost, "the same guesses, a tenth of the bytes": 0.1}
    lines = {name: list(speculation.gains(share, each).values()) for name, each in forms.items()}
    labels = {"xlabel": "guesses for each pass of the teacher", "ylabel": "times faster", "log": False}
    title = "If only reading weights took time"
    display(plots.sweep_plot(list(speculation.gains(share, cost)), lines, **labels, title=title))

# %% [markdown]
# A round with one guess reads the student's bytes in addition to the teacher's bytes. Your student has 70 % of its teacher's
# parameters, because embedding and head are a large part of `gptj-tiny`. So the student saves time only if more than 70 % of
# its guesses are right; with fewer right guesses it costs time. Good drafts are *much* smaller. And `gptj-tiny` fits into the
# processor's cache, so most of its time is not spent on reading. The engine measures the gain while it runs, and stops using a
# draft that saves no time. (The engine's rule is stricter than your rule: draft and teacher draw with the same random number,
# so even the text for a given seed stays the same.)

# %%
if made(student=student):
    student_path = models.save(student, "student")
    print("the engine's tokens with the draft are the same:", speculation.same_text(student_path))
    print(speculation.report(*speculation.measure(student_path)))

# %% [markdown]
# ## The table, and everything in one plot
#
# The lecture's tables of DistilBERT list quality, parameters and seconds. The next cell makes such a table for your models. Two
# columns say how much quality is left: *quality kept* counts first choices, and *information* counts bits. The teacher has 100
# % in both columns. A table of token frequencies has 0 % of the information, so a model that is worse than this table has less
# than 0 %. The two columns need not agree. **Predict:** how many seconds does the student take, in percent of the teacher's
# seconds?

# %%
# BEGIN SOLUTION guess_seconds = None
guess_seconds = 60
# END SOLUTION
if made(recovered=recovered, student=student) and predicted(seconds=guess_seconds):
    pruned_path = everything.two_four(models.save(recovered.model, "pruned"))
    paths = {"teacher": "gptj-tiny", "2:4, recovered": pruned_path, "student": student_path}
    engines = {
        name: labkit.load(path, dtype=everything.precision(path, device)) for name, path in paths.items()
    }
    timings = runs.keep_timings("teacher, sparse model and student", lambda: tradeoff.speeds(engines))
    print(everything.table([dense_row, *pruned_rows, recovered_row, *student_rows], timings))
    gains = [measure.ratio(timings["teacher"], timings[name]) for name in paths]
    percent = [100 / gain.shown for gain in gains]
    bars = {"your prediction": [math.nan, math.nan, guess_seconds], "measured": percent}
    labels = {"ylabel": "seconds in % of the teacher's", "title": "Seconds of each model, batch 1"}
    display(plots.prediction_plot(list(paths), bars, **labels, caption=measure.noted(where, gains)))

# %% [markdown]
# The next figure shows the models of labs 05 and 06 together: models that are rounded as in lab 05 (labkit rounds them again,
# with the same formulas), your 2:4 model, your student, and models made with two methods at once. A point that is further down
# and further to the left is better. The next cell stores and measures eleven models. It takes about 20 seconds on an idle
# machine, and longer on a busy machine.

# %%
if made(recovered=recovered, student=student):
    found = everything.rows(models.save(recovered.model, "pruned"), student_path)
    display(
        everything.figure(found, caption=f"gptj-tiny, held-out text; trained here in seconds; {where}")
    )
    rungs = {"teacher": "lab 06 teacher", "2:4, recovered": "lab 06 2:4", "student": "lab 06 student"}
    ladder.add_timings(tradeoff.TASK, {rung: timings[name] for name, rung in rungs.items()}, where=where)
    display(plots.ladder_plot(ladder.of(tradeoff.TASK), caption=where))

# %% [markdown]
# Use the plot to choose: which model would you take if you may store only half of the bytes? Two methods at once save bytes
# twice, as the points with two names show, and lose quality twice. In this plot rounding alone wins: compare *int3* and *int4*
# with the 2:4 points of about the same size. But 2:4 does not only save bytes: on a GPU, the sparse tensor core skips half of
# the multiplications. And a student with half of the layers still has 70 % of the bytes of `gptj-tiny`; in GPT-J 6B, embedding
# and head are only 7 percent of the weights, so half of the layers would save nearly half of the bytes.
#
# ## What you have now
#
# - You have a mask that the hardware accepts, chosen with the help of the inputs, and a training step that keeps the mask.
# - You have measured that a model is not twice as fast because half of its weights are 0. It is faster only if it is stored in
#   fewer bytes and a kernel reads this form.
# - You have a student that learned from its teacher in seconds, and a rule by which the student guesses tokens without changing
#   the text.
#
# Your points are in the panel at the top (*Look again*).

# %%
progress_panel("06")
