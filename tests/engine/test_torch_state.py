"""torch's process-wide states change neither the engine's tokens nor its weights, whether or not the native library is used."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from labkit import load, native
from labkit.engine import SamplingParams
from labkit.errors import NotAvailable
from labkit.torch_state import gradients_restored, inference, undisturbed
from tests.engine.global_states import CONFIG, PRECISIONS, STATES
from tests.sampled import as_long

SECONDS = 1200  # ten times as long as the program usually needs


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "config.json"
    path.write_text(json.dumps(CONFIG))
    return path


@pytest.fixture(scope="module", params=["native", as_long("torch alone")])
def found(request: pytest.FixtureRequest, model: Path) -> dict[str, Any]:
    """The answers of a separate process under each state, by the state's name."""
    if request.param == "native" and not native.available():
        pytest.skip(f"not measured here: no native library ({native.why_not()})")
    environment = {**os.environ, "MODEL": str(model), "LABKIT_NATIVE": "0" if request.param == "torch alone" else "1"}
    command = [sys.executable, "-m", "tests.engine.global_states"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False, cwd=root)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"ended with {done.returncode} after {[row['state'] for row in rows]}: {done.stderr[-2000:]}"
    return {row["state"]: row["answers"] for row in rows}


@pytest.mark.parametrize("state", [name for name in STATES if name != "nothing"])
def test_tokens_and_weights_are_those_without_the_state(found: dict[str, Any], state: str) -> None:
    for precision in PRECISIONS:
        plain, here = found["nothing"][precision], found[state][precision]
        assert "error" not in here, here["error"]
        assert here["weights"] == plain["weights"], f"{precision}: other weights were loaded"
        assert here["fresh"] == plain["fresh"], f"{precision}: an engine loaded under the state"
        assert here["inside"] == plain["inside"], f"{precision}: an engine loaded before"
        assert here["after"] == plain["after"], f"{precision}: the engine after the state has ended"
        assert here["random state kept"], "the engine drew from the global generator"


def test_a_mode_without_values_is_refused_in_words(model: Path) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    engine = load(model, device="cpu", num_slots=100)
    params = SamplingParams(max_new_tokens=3, ignore_eos=True)
    expected = engine.generate([[1, 2, 3]], params)

    def inside(x: torch.Tensor) -> torch.Tensor:
        engine.generate([[1, 2, 3]], params)
        return x.sum()

    with FakeTensorMode(), pytest.raises(NotAvailable, match="FakeTensorMode is on"):
        engine.generate([[1, 2, 3]], params)
    for transform in (torch.func.grad, torch.func.vmap, torch.func.functionalize):
        with pytest.raises(NotAvailable, match=r"a transform of torch\.func"):
            transform(inside)(torch.ones(3))
    with pytest.raises(NotAvailable, match="make_fx is on"):
        make_fx(inside)(torch.ones(3))
    assert engine.generate([[1, 2, 3]], params) == expected


def test_ctrl_c_at_any_moment_leaves_neither_inference_mode_on_nor_gradients_off() -> None:
    """Real signals arrive while a function enters or leaves inference mode, as the engine's functions do in each step.

    With `torch.inference_mode` instead, 31 of 400 signals left the mode on, and gradients off after the exception's end.
    """
    nothing, draw = inference(lambda: None), random.Random(5)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for _ in range(80):
            wait = draw.random() / 2000
            sender = threading.Thread(target=lambda wait=wait: (time.sleep(wait), os.kill(os.getpid(), signal.SIGINT)))
            kept: BaseException | None = None
            try:
                sender.start()
                while True:
                    with gradients_restored(), undisturbed():
                        for _ in range(100):
                            nothing()
            except KeyboardInterrupt as error:
                kept = error  # in a notebook, the exception exists until the next one
            sender.join()
            assert not torch.is_inference_mode_enabled()
            del kept
            assert torch.is_grad_enabled()
    finally:
        signal.signal(signal.SIGINT, before)
