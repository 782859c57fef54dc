"""Compares the quality of weights quantized by labkit and by other libraries, with the same bits, on the same model.

    python -m tests.benchmarks.compress_peers [--rows nncf-int4-gptq,torchao-int4] [--work FOLDER] [--save FILE]

Each row of the result is one quantized model. The weights are symmetric, in int8 with a scale for each row of a matrix, or in
int4 with a scale for 64 neighbours; the head is in int8 with a scale for each row. NNCF also rounds the embedding to int8. All
libraries get the same windows of the same text for calibration. Only the stored weights are compared: every model runs in
float32 with activations that are not rounded, and `labkit.engine.compare` measures its distance from the dense model.

`--packages FOLDER` adds a folder to Python's search path. Peers are installed in such a folder with
`pip install --no-deps --target FOLDER torchao`. A library that is not installed is listed as *not measured here*. With
`--work`, rows that are already in the folder are used again. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labkit.bench.peers.huggingface import transformers_model
from labkit.bench.peers.openvino import runtime_settings
from labkit.bench.peers.openvino_model import _lookups, write_traced
from labkit.bench.peers.telemetry import without_telemetry
from labkit.checkpoints import Checkpoint, open_checkpoint
from labkit.compress import compress, method_named
from labkit.compress.calibration import CalibrationText, windows_of
from labkit.engine import load
from labkit.engine.evaluate import Logits, compare_windows
from labkit.engine.text_windows import text_windows
from labkit.environment import find_versions
from labkit.measure import Record
from tests.benchmarks.compress_quality import percents, remembered
from tests.benchmarks.perplexity import MODEL, SEED, TEXT

GROUP_SIZE = 64
Built = tuple[Logits, str]
"""A function that computes the logits of a quantized model, and a text with the settings of the quantization."""


def labkit_row(checkpoint: Checkpoint, ids: list[list[int]], name: str, folder: Path) -> Built:
    """Compress the model as `labkit compress` does, and load the directory in float32."""
    method = method_named(name)
    compress(MODEL, folder / "model", method, seed=SEED)
    return load(folder / "model", device="cpu", dtype="fp32").logits, f"{method.name}, {method.scheme}"


def torchao_row(checkpoint: Checkpoint, ids: list[list[int]], name: str, folder: Path) -> Built:
    """Apply torchao's `quantize_` to transformers' model; `name` is int8, int4 or int4-hqq."""
    from torchao.quantization import IntxWeightOnlyConfig, quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup

    model = transformers_model(checkpoint, torch.device("cpu"), torch.float32)
    options: dict[str, Any] = {"weight_dtype": torch.int8, "granularity": PerAxis(0)}
    quantize_(model, IntxWeightOnlyConfig(**options), filter_fn=lambda module, path: path == "lm_head")
    if name != "int8":
        options = {"weight_dtype": torch.int4, "granularity": PerGroup(GROUP_SIZE)}  # type: ignore[attr-defined]
    if name == "int4-hqq":
        options["intx_choose_qparams_algorithm"] = "hqq_scale_only"
    config = IntxWeightOnlyConfig(**options)
    quantize_(model, config, filter_fn=lambda module, path: isinstance(module, torch.nn.Linear) and path != "lm_head")

    @torch.inference_mode()
    def logits(seen: list[int]) -> Tensor:
        found: Tensor = model(torch.tensor([seen]), use_cache=False).logits[0]
        return found

    return logits, f"IntxWeightOnlyConfig {options}"


NNCF_OPTIONS: dict[str, dict[str, bool]] = {
    "int8": {},
    "int4": {},
    "int4-awq": {"awq": True},
    "int4-awq-scale": {"awq": True, "scale_estimation": True},
    "int4-gptq": {"gptq": True},
    "int4-awq-gptq": {"awq": True, "gptq": True},
}


def nncf_row(checkpoint: Checkpoint, ids: list[list[int]], name: str, folder: Path) -> Built:
    """Apply NNCF's `compress_weights` to an OpenVINO model.

    OpenVINO runs the compressed model in float32, and does not round activations.
    """
    without_telemetry()
    import nncf
    import openvino

    write_traced(checkpoint, torch.float32, folder / "wide.xml")
    model = openvino.Core().read_model(folder / "wide.xml")
    config = checkpoint.config
    options: dict[str, Any] = {"mode": nncf.CompressWeightsMode.INT8_SYM}
    if name != "int8":
        options = {"mode": nncf.CompressWeightsMode.INT4_SYM, "group_size": GROUP_SIZE, "ratio": 1.0, **NNCF_OPTIONS[name]}
        options["backup_mode"] = nncf.BackupMode.INT8_SYM
    if NNCF_OPTIONS[name]:
        options |= {"dataset": nncf.Dataset([inputs_of(each) for each in ids]), "subset_size": len(ids)}
    kept = nncf.IgnoredScope(names=_lookups(model, [config.context_length, config.rotary_dim]))
    made = nncf.compress_weights(model, ignored_scope=kept, **options)
    settings = runtime_settings("fp32") | {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    request = openvino.Core().compile_model(made, "CPU", settings).create_infer_request()

    def logits(seen: list[int]) -> Tensor:
        request.reset_state()
        return torch.from_numpy(np.array(request.infer(inputs_of(seen))["logits"])[0])

    words = {key: str(value) for key, value in options.items() if key != "dataset"}
    return logits, f"compress_weights {words}"


def inputs_of(seen: list[int]) -> dict[str, Any]:
    """Return the inputs of the stateful OpenVINO model for one window."""
    return {
        "input_ids": np.array([seen]),
        "attention_mask": np.ones((1, len(seen)), np.int64),
        "position_ids": np.arange(len(seen))[None],
        "beam_idx": np.zeros(1, np.int32),
    }


PEERS: dict[str, Callable[[Checkpoint, list[list[int]], str, Path], Built]] = {
    "labkit": labkit_row,
    "torchao": torchao_row,
    "nncf": nncf_row,
}
ROWS = (
    *("labkit-int8-rtn", "torchao-int8", "nncf-int8"),
    *("labkit-int4-rtn", "labkit-int4-mse", "torchao-int4", "torchao-int4-hqq", "nncf-int4"),
    *("labkit-int4-awq", "nncf-int4-awq", "nncf-int4-awq-scale"),
    *("labkit-int4-gptq", "nncf-int4-gptq", "nncf-int4-awq-gptq"),
)
NOT_TRIED = (
    {"row": "gptqmodel", "why": "not measured here: GPTQModel 7.7.0 asks for torch 2.14.1 or later"},
    {"row": "llmcompressor", "why": "not measured here: llm-compressor 0.14.0.1 asks for transformers 5.17 or earlier"},
)


def measure(
    asked: argparse.Namespace, work: Path, report: Callable[[dict[str, Any]], None]
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Return the rows that were measured, and the rows that could not be measured, each with the reason."""
    checkpoint, text = open_checkpoint(MODEL), TEXT.read_text("utf-8")
    tokenizer = checkpoint.tokenizer()
    parts = text_windows(tokenizer.encode(text), checkpoint.config.context_length)
    calibration = CalibrationText.read()
    calibration.check_apart(text)
    ids = windows_of(calibration, tokenizer, checkpoint.config.context_length, 32, SEED)  # as `labkit compress` chooses them
    dense = remembered(load(MODEL, device="cpu", dtype="fp32").logits, parts)
    rows: list[dict[str, Any]] = []
    missing: list[dict[str, str]] = []
    work.mkdir(parents=True, exist_ok=True)
    for row in asked.rows.split(","):
        kept = work / f"{row}.json"
        if not kept.exists():
            peer, _, name = row.partition("-")
            try:
                with tempfile.TemporaryDirectory() as folder:
                    logits, detail = PEERS[peer](checkpoint, ids, name, Path(folder))
                    found = compare_windows(logits, dense, parts, tokenizer, text, SEED).to_dict()
                kept.write_text(json.dumps({"row": row, "detail": detail, **found}))
            except Exception as error:
                if peer == "labkit":  # a defect of labkit, which must not be hidden
                    raise
                missing.append({"row": row, "why": f"not measured here: {type(error).__name__}: {error}".splitlines()[0]})
                print(f"{row:<22} {missing[-1]['why']}", flush=True)
                continue
        rows.append(json.loads(kept.read_text()))
        report(rows[-1])
    return rows, missing


def line_of(row: dict[str, Any]) -> str:
    """Return a row as a line of the printed table."""
    low, high = row["kl"]["interval"]
    divergence = f"{row['kl']['value']:.5f} ({low:.5f} to {high:.5f})"
    return f"{row['row']:<22} {percents(row['change']):>28} {divergence:>30} {row['agreement']['value']:>8.2%}"


def main() -> None:
    """Measure, print the table, and write the record; the last line of the output is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS), help="separated by commas")
    parser.add_argument("--packages", type=Path, help="a folder with installed peers")
    parser.add_argument("--work", type=Path, help="keep finished rows in this folder")
    parser.add_argument("--save", type=Path, help="write the record to this JSON file too")
    asked = parser.parse_args()
    if asked.packages:
        sys.path.append(str(asked.packages))
    print(f"{'row':<22} {'change of perplexity':>28} {'KL divergence':>30} {'same token':>8}")
    with tempfile.TemporaryDirectory() as temporary:
        rows, missing = measure(asked, asked.work or Path(temporary), lambda row: print(line_of(row), flush=True))
    settings = {"model": MODEL, "text": TEXT.name, "group_size": GROUP_SIZE, "device": "cpu"}
    facts = {"not_measured": [*missing, *NOT_TRIED], "peers": find_versions(("torchao", "nncf", "openvino"))}
    record = Record("compress_peers", settings, rows, extra=facts)
    if asked.save:
        record.save(asked.save)
    print(json.dumps(record.to_dict()))


if __name__ == "__main__":
    main()
