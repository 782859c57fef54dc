"""Prints an engine's answers under each process-wide state of torch, as one JSON line per state.

    python -m tests.engine.global_states

This is a separate program, because a fault can end the process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import locale
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import labkit
from labkit.engine import Engine, SamplingParams

MODEL = os.environ.get("MODEL", "")
"""A folder whose config.json holds `CONFIG`."""
PRECISIONS = ("fp32", "bf16", "int8", "int4")
CONFIG: dict[str, Any] = {
    "architectures": ["GPTJForCausalLM"],
    "model_type": "gptj",
    **{"n_embd": 32, "n_head": 2, "n_layer": 2, "rotary_dim": 8, "n_positions": 64, "vocab_size": 300, "n_inner": 128},
    **{"bos_token_id": 0, "eos_token_id": 0},
}


class PassedOn(TorchFunctionMode):
    """Intercepts every call of a torch function and passes it on."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class PassedOnBelow(TorchDispatchMode):
    """Intercepts every torch operation and passes it on."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def switched(set_to: Callable[[Any], Any], value: Any, before: Any) -> Iterator[None]:
    """Set a setting to `value` with the function `set_to` in this block, and to `before` after it."""
    set_to(value)
    try:
        yield
    finally:
        set_to(before)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """A block in which torch fills uninitialized memory with NaN."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def french() -> Iterator[None]:
    """A block in a locale with a decimal comma, if the system has one."""
    before = locale.setlocale(locale.LC_ALL)
    for name in ("de_DE.UTF-8", "fr_FR.UTF-8", "C"):
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_ALL, name)
            break
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


@contextlib.contextmanager
def strict_warnings() -> Iterator[None]:
    """A block in which every warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def default_dtype(dtype: torch.dtype) -> contextlib.AbstractContextManager[Any]:
    return switched(torch.set_default_dtype, dtype, torch.float32)


def default_device(device: str) -> contextlib.AbstractContextManager[Any]:
    return switched(torch.set_default_device, device, None)


STATES: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "nothing": contextlib.nullcontext,
    "default dtype bf16": lambda: default_dtype(torch.bfloat16),
    "default dtype fp16": lambda: default_dtype(torch.float16),
    "default dtype fp64": lambda: default_dtype(torch.float64),
    "default device meta": lambda: default_device("meta"),
    "default device cpu": lambda: default_device("cpu"),
    "with torch.device": lambda: torch.device("meta"),
    "deterministic algorithms": deterministic,
    "three threads": lambda: switched(torch.set_num_threads, 3, 1),
    "inference mode": torch.inference_mode,
    "no grad": torch.no_grad,
    "grad enabled": torch.enable_grad,
    "anomaly detection": torch.autograd.detect_anomaly,
    "autocast bf16": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast fp16": lambda: torch.autocast("cpu", torch.float16),
    "flush denormals": lambda: switched(torch.set_flush_denormal, True, False),
    "without mkldnn": lambda: torch.backends.mkldnn.flags(enabled=False),
    "function mode": PassedOn,
    "dispatch mode": PassedOnBelow,
    "numpy raises": lambda: np.errstate(all="raise"),
    "warnings are errors": strict_warnings,
    "another locale": french,
    "all of them": lambda: everything(),
}


@contextlib.contextmanager
def everything() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name in ("default dtype bf16", "default device meta", "deterministic algorithms", "inference mode"):
            stack.enter_context(STATES[name]())
        for name in ("autocast bf16", "function mode", "numpy raises"):
            stack.enter_context(STATES[name]())
        yield


def params() -> list[SamplingParams]:
    """Sets of parameters that together use every way to choose a token."""
    some: dict[str, Any] = {"max_new_tokens": 4, "seed": 5, "ignore_eos": True}
    soft = torch.linspace(-1, 1, 2 * CONFIG["n_embd"], dtype=torch.float32, device="cpu").view(2, -1)
    prefix = torch.linspace(-1, 1, 2 * 2 * 2 * 3 * 16, dtype=torch.float32, device="cpu").view(2, 2, 2, 3, 16)
    return [
        SamplingParams(**some, logprobs=2, prompt_logprobs=1),
        SamplingParams(**some, temperature=0.8, top_k=40, top_p=0.9, num_samples=2),
        SamplingParams(**some, temperature=1.3, top_p=0.8, top_p_decay=0.9, top_p_min=0.2),
        SamplingParams(**some, repetition_penalty=1.3, min_new_tokens=3, bad_words=[[7], [5, 6], [8, 9, 10]]),
        SamplingParams(**some, soft_prompt=soft),
        SamplingParams(**some, prefix_prompt=prefix),
        SamplingParams(**some, num_beams=3, diversity_rate=0.3, bad_words=[[7, 8]]),
        SamplingParams(**some, num_beams=4, num_beam_groups=2, diversity_penalty=0.4),
    ]


def answers(engine: Engine) -> list[Any]:
    """Return the tokens of every request, log probabilities rounded to two digits, and the most probable tokens."""
    chosen = params()
    outputs = engine.generate([[1 + number, 2, 3, 4, 5] for number in range(len(chosen))], chosen)
    found: list[Any] = [[c.token_ids for c in output.completions] for output in outputs]
    found.append([round(token.logprob, 2) for token in outputs[0].completions[0].logprobs or []])
    found.append(engine.logits([1, 2, 3]).argmax(-1).tolist())
    return found


def greedy(engine: Engine) -> Any:
    """Return the tokens of the first request in `answers`."""
    return [c.token_ids for c in engine.generate([[1, 2, 3, 4, 5]], params()[0])[0].completions]


def weights(engine: Engine) -> str:
    """A hash of the bits of the weights."""
    digest = hashlib.sha256()
    model = engine.model
    layer = model.layers[0]
    for tensor in (model.wte, model.sin, model.cos, layer.ln_1_weight, layer.qkv.weight, layer.fc_in.weight, layer.fc_in.bias):
        kept = getattr(tensor, "data", tensor)
        values = tensor if isinstance(tensor, torch.Tensor) else kept
        if isinstance(values, torch.Tensor):
            digest.update(values.contiguous().view(torch.uint8).numpy().tobytes())
        else:
            for part in (values._values, values._scales):
                digest.update(part.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def of_state(name: str, precision: str, loaded: Engine) -> dict[str, Any]:
    """Return the answers of two engines under the state: one loaded before the state begins, and one loaded under it.

    Also return the answers of the second engine after the state has ended.
    """
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()
    with STATES[name]():
        inside = greedy(loaded)
        under = labkit.load(MODEL, device="cpu", dtype=precision, num_slots=400, prefix_reuse=False)
        fresh, digest = answers(under), weights(under)
    after = torch.random.get_rng_state(), np.random.get_state()[1].tolist()
    untouched = torch.equal(before[0], after[0]) and before[1] == after[1]
    return {"inside": inside, "fresh": fresh, "weights": digest, "after": greedy(under), "random state kept": untouched}


def main(names: list[str]) -> None:
    """Print the answers of each state, or the error."""
    warnings.filterwarnings("ignore", "Anomaly Detection")
    torch.set_num_threads(1)  # with matrices this small, several threads would only wait for each other
    for name in names or list(STATES):
        found: dict[str, Any] = {}
        for number, precision in enumerate(PRECISIONS):
            torch.manual_seed(number + len(name))
            try:
                found[precision] = of_state(
                    name, precision, labkit.load(MODEL, device="cpu", dtype=precision, num_slots=400, prefix_reuse=False)
                )
            except Exception:
                found[precision] = {"error": traceback.format_exc()[-1500:]}
        print(json.dumps({"state": name, "answers": found}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
