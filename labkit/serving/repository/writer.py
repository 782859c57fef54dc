"""Writes the model repository: one folder per model, with its `config.pbtxt` and the code for Triton's Python backend."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from labkit.checkpoints import config_of, open_checkpoint
from labkit.checkpoints.resolve import model_names
from labkit.errors import InvalidRequest, NotAvailable
from labkit.host_cores import MOST_THREADS
from labkit.serving.repository.model_config import Instances, ModelConfig, config_text
from labkit.serving.repository.served_models import served_models
from labkit.serving.repository.tensors import ENGINE

MODEL_CODE = """import os
import sys

sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))  # Triton's Python does not look there
from labkit.serving.python_backend.{name} import TritonPythonModel  # noqa: E402, F401
"""

WITH_TOKENIZER = ("preprocessing", "postprocessing")


@dataclass(frozen=True)
class ServeSettings:
    """The model to serve, and how to serve it.

    model, precision, device, seed: as in `labkit.load`. tensor_parallel, pipeline_parallel: how an engine is split into ranks.
    instances: the number of engines, each with its own weights and cache. max_batch: the most sequences that an engine runs at
    a time. max_queue: the most prompts that can wait in addition to the running sequences. cache_bytes: the size of each
    engine's KV cache; if left out, the cache is as large as the memory allows. kv_cache_dtype: as in `labkit.load`.
    request_seconds: the longest time from a request's arrival to its end, even if the request asks for more; an engine that
    needs longer for one step counts as hanging. threads: the number of threads of an engine that runs on the CPU in one
    process; if left out, `compute_threads` decides.
    """

    model: str = "gptj-tiny"
    precision: str | None = None
    device: str | None = None
    seed: int = 0
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    instances: int = 1
    max_batch: int = 64
    max_queue: int = 256
    request_seconds: float = 600.0
    cache_bytes: int | None = None
    kv_cache_dtype: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("tensor_parallel", "pipeline_parallel", "instances", "max_batch", "threads"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InvalidRequest(f"{name} is {value}; at least 1 is accepted")
        if self.threads is not None and self.threads > MOST_THREADS:
            raise InvalidRequest(f"threads is {self.threads}; at most {MOST_THREADS} is accepted")
        if not 0 < self.request_seconds < math.inf:
            raise InvalidRequest(f"request_seconds is {self.request_seconds}; a number of seconds above 0 is accepted")
        if self.max_queue < 0:
            raise InvalidRequest(f"max_queue is {self.max_queue}; 0 (nobody waits) or more is accepted")

    def parameters(self) -> dict[str, str]:
        """The parameters for `config.pbtxt`: every setting that is given, as text."""
        given = {name: value for name, value in vars(self).items() if value is not None and name != "instances"}
        return {name: str(value) for name, value in given.items()}


def write_repository(folder: Path, settings: ServeSettings) -> list[str]:
    """Write the model repository to `folder`; returns the names of the models.

    The folder is created if it is missing, and emptied if labkit wrote a repository there before. Weights stay where they are;
    the tokenizer is copied. A model on the hub is downloaded first. If there is no tokenizer (synthetic weights), only `gptj`
    and `fastertransformer` are written, which accept token ids. Raises `InvalidRequest` for a folder with other files, and
    passes on the errors of `open_checkpoint`.
    """
    make_room(folder)
    checkpoint = open_checkpoint(settings.model, seed=settings.seed)
    config = config_of(settings.model)
    given = settings.parameters()
    given["model"] = _absolute(settings.model)
    if config.end_token_ids:
        given["end_token_id"] = str(config.end_token_ids[0])  # the first end token pads outputs; every end token ends a text
    try:
        tokenizer = checkpoint.tokenizer()
    except NotAvailable:
        tokenizer = None
    if tokenizer is not None:
        longest = max(len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size))
        given["most_prompt_bytes"] = str(longest * config.context_length)
    models = served_models(given)
    if tokenizer is None:
        models = {name: models[name] for name in (ENGINE, "fastertransformer")}
    for name, model in models.items():
        _write_model(folder / name, model, settings.instances if name == ENGINE else 1)
        if tokenizer is not None and name in WITH_TOKENIZER:
            tokenizer.save(folder / name / "1" / "tokenizer.json")
    return list(models)


def _absolute(model: str) -> str:
    """A model's name that is valid in every folder: names that labkit knows are kept, all others become absolute paths."""
    return model if model in model_names() else str(Path(model).expanduser().resolve())


def make_room(folder: Path) -> None:
    """Make an empty folder for a repository; a repository that labkit wrote there before is deleted.

    Raises `InvalidRequest` if the folder holds other files.
    """
    mark = folder / ".labkit-repository"
    if folder.exists() and any(folder.iterdir()):
        if not mark.exists():
            raise InvalidRequest(f"{folder} holds files that labkit did not write; give an empty folder, or a new one")
        for old in folder.iterdir():
            if old.is_dir():
                shutil.rmtree(old)
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text("Written by labkit, which overwrites it.\n")


def _write_model(folder: Path, model: ModelConfig, instances: int) -> None:
    (folder / "1").mkdir(parents=True)
    if instances > 1:
        model = ModelConfig(**vars(model) | {"instances": Instances(instances)})
    (folder / "config.pbtxt").write_text(config_text(model))
    if model.backend == "python":
        (folder / "1" / "model.py").write_text(MODEL_CODE.format(name=model.name))
