"""Measures the perplexity of each precision on the CPU, in labkit and its peers, on the same windows of the same text.

    python -m tests.benchmarks.perplexity [--engines labkit,openvino] [--precisions fp32,int4] [--text FILE] [--save FILE]

The text and the windows are the same as in `labkit evaluate`; the weights and settings are the same as in `labkit bench`. The
engine `openvino` uses the pipeline of the benchmark, which can echo a prompt with its log probabilities. The engine
`openvino-graph` runs the same model file in the plain runtime with the same settings. The engine `hf-compiled` is left out,
because its results are equal to those of `hf`. Percentages have a 95 % interval from a paired percentile bootstrap over the
windows. The perplexity does not depend on the load of the machine, but the seconds do. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labkit.bench.engines import BenchEngine, LabkitEngine
from labkit.bench.peers import CTranslate2Engine, HuggingFaceEngine, OpenVINOEngine, ctranslate2_model
from labkit.bench.peers.ctranslate2 import COMPUTE_TYPES
from labkit.bench.peers.openvino import runtime_settings
from labkit.checkpoints import Checkpoint, open_checkpoint
from labkit.checkpoints.fetch import BUILT_IN
from labkit.engine import Engine
from labkit.engine.bootstrap import Bootstrap
from labkit.engine.text_windows import TextWindow, text_windows
from labkit.errors import LabkitError
from labkit.measure import Record
from labkit.model import GPTJ
from labkit.model.linear import Linear

MODEL = "gptj-tiny"
TEXT = BUILT_IN[MODEL] / "held_out_sample.txt"
PRECISIONS = ("fp32", "bf16", "int8", "int4")
CPU = torch.device("cpu")
SEED = 0


@dataclass(frozen=True)
class Scorer:
    """An engine with its weights: `log_probs(window)` returns natural log probabilities of the targets, `[targets]` float64.

    `block_bits` is the number of stored bits per weight of the blocks' matrices, including scales. `bits` is the number of all
    stored bits, including embedding, head and biases, divided by the number of parameters. Each is None if it is not known.
    """

    engine: BenchEngine
    log_probs: Callable[[TextWindow], Tensor]
    block_bits: float | None
    bits: float | None


def from_logits(logits: Callable[[list[int]], Tensor]) -> Callable[[TextWindow], Tensor]:
    """Return a scoring function made from a function that returns the logits after every token, `[tokens, vocab_size]`."""

    def log_probs(window: TextWindow) -> Tensor:
        scores = torch.log_softmax(logits(window.seen)[window.first :].double(), dim=-1)
        return scores.gather(1, torch.tensor(window.targets)[:, None])[:, 0]

    return log_probs


# The engines -------------------------------------------------------------------------------------------------------------
def score_labkit(checkpoint: Checkpoint, precision: str) -> Scorer:
    """Score with labkit's model, as the benchmark runs it."""
    engine: Any = LabkitEngine(checkpoint, CPU, precision)
    model: GPTJ = engine._model
    blocks = [linear for layer in model.layers for linear in (layer.qkv, layer.out_proj, layer.fc_in, layer.fc_out)]
    norms = [tensor for layer in model.layers for tensor in (layer.ln_1_weight, layer.ln_1_bias)]
    rest = sum(tensor.nbytes for tensor in (model.wte, *norms, model.ln_f_weight, model.ln_f_bias))
    stored = rest + sum(linear.byte_count for linear in (*blocks, model.lm_head))
    matrices = sum(Linear(linear.weight).byte_count for linear in blocks)
    count = sum(math.prod(linear.weight.shape) for linear in blocks)
    bits = 8 * stored / checkpoint.config.parameter_count
    return Scorer(engine, from_logits(Engine(model).logits), 8 * matrices / count, bits)


def score_hf(checkpoint: Checkpoint, precision: str) -> Scorer:
    """Score with the forward pass of transformers, without a cache."""
    engine: Any = HuggingFaceEngine(checkpoint, CPU, precision)

    @torch.inference_mode()
    def logits(ids: list[int]) -> Tensor:
        found: Tensor = engine._model(torch.tensor([ids]), use_cache=False).logits[0]
        return found

    bits = 8.0 * next(engine._model.parameters()).element_size()
    return Scorer(engine, from_logits(logits), bits, bits)


def score_ctranslate2(checkpoint: Checkpoint, precision: str) -> Scorer:
    """Score with `Generator.forward_batch`, which returns logits for every position. `bits` is computed from the converted
    file.
    """
    engine: Any = CTranslate2Engine(checkpoint, CPU, precision)
    with tempfile.TemporaryDirectory() as folder:
        converted = ctranslate2_model.convert(checkpoint, Path(folder), COMPUTE_TYPES["cpu"][precision])
        stored = (converted / "model.bin").stat().st_size

    def logits(ids: list[int]) -> Tensor:
        return torch.from_numpy(np.array(engine._generator.forward_batch([[str(token) for token in ids]]))[0])

    return Scorer(engine, from_logits(logits), None, 8 * stored / checkpoint.config.parameter_count)


def score_openvino(checkpoint: Checkpoint, precision: str) -> Scorer:
    """Score with the pipeline of the benchmark, which echoes a prompt with its log probabilities."""
    engine: Any = OpenVINOEngine(checkpoint, CPU, precision)
    import openvino
    import openvino_genai

    config = openvino_genai.GenerationConfig()
    config.set_eos_token_id(0)
    config.ignore_eos = True
    config.do_sample = False
    config.max_new_tokens = 1
    config.echo = True
    config.logprobs = 1

    def log_probs(window: TextWindow) -> Tensor:
        """The last target is added to the prompt so that it is scored; the logits after it are ignored."""
        prompt = [*window.seen, window.targets[-1]]
        handle = engine._pipeline.add_request(0, openvino.Tensor(np.array([prompt])), config)
        while engine._pipeline.has_non_finished_requests():
            engine._pipeline.step()
        found: list[float] = []
        while handle.can_read():
            (output,) = handle.read().values()
            found += output.generated_log_probs
        return torch.tensor(found[window.first + 1 : len(prompt)], dtype=torch.float64)

    return Scorer(engine, log_probs, *graph_bits(Path(engine._folder.name), checkpoint))


def score_openvino_graph(checkpoint: Checkpoint, precision: str) -> Scorer:
    """Score with the stateful model of the benchmark's pipeline, called once per window with an empty state."""
    engine: Any = OpenVINOEngine(checkpoint, CPU, precision)
    import openvino

    folder = Path(engine._folder.name)
    compiled = openvino.Core().compile_model(folder / "openvino_model.xml", "CPU", runtime_settings(precision))
    request = compiled.create_infer_request()

    def logits(ids: list[int]) -> Tensor:
        request.reset_state()
        inputs = {
            "input_ids": np.array([ids]),
            "attention_mask": np.ones((1, len(ids)), np.int64),
            "position_ids": np.arange(len(ids))[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        return torch.from_numpy(np.array(request.infer(inputs)["logits"])[0])

    return Scorer(engine, from_logits(logits), *graph_bits(folder, checkpoint))


def graph_bits(folder: Path, checkpoint: Checkpoint) -> tuple[float, float]:
    """Return two numbers of bits per weight for a converted OpenVINO model: for its matrices without the head, and for the
    whole file.

    Both numbers include the scales.
    """
    import openvino

    config = checkpoint.config
    stored = count = 0
    for node in openvino.Core().read_model(folder / "openvino_model.xml").get_ops():
        sizes = list(constants(node.input_value(1))) if node.get_type_name() == "MatMul" else []
        weights = max((weights for weights, _ in sizes), default=0)
        if weights and weights != config.vocab_size * config.hidden_size:
            stored, count = stored + sum(size for _, size in sizes), count + weights
    return 8 * stored / count, 8 * (folder / "openvino_model.bin").stat().st_size / config.parameter_count


def constants(value: Any) -> Iterator[tuple[int, int]]:
    """The number of elements and of bytes of each constant in an OpenVINO weight: values, scales and zero points."""
    node = value.get_node()
    if node.get_type_name() == "Constant":
        yield math.prod(node.get_output_shape(0)), node.get_byte_size()
    elif node.get_type_name() in ("Convert", "Reshape", "Transpose"):  # the other inputs of these nodes are shapes
        yield from constants(node.input_value(0))
    elif node.get_type_name() in ("Multiply", "Subtract"):
        yield from constants(node.input_value(0))
        yield from constants(node.input_value(1))


ENGINES: dict[str, tuple[type[BenchEngine], Callable[[Checkpoint, str], Scorer]]] = {
    "labkit": (LabkitEngine, score_labkit),
    "openvino": (OpenVINOEngine, score_openvino),
    "openvino-graph": (OpenVINOEngine, score_openvino_graph),
    "ctranslate2": (CTranslate2Engine, score_ctranslate2),
    "hf": (HuggingFaceEngine, score_hf),
}


# Measuring ---------------------------------------------------------------------------------------------------------------
def excess(nats: Tensor, reference: Tensor, counts: Tensor) -> dict[str, Any]:
    """Return by how many percent one perplexity exceeds another: `percent`, and its 95 % `interval`.

    `nats` and `reference` `[windows]` float64 are sums over the targets of each window; `counts` holds the numbers of targets.
    """
    found = Bootstrap(len(nats), SEED).ratio(nats - reference, counts.double(), lambda ratio: 100 * torch.expm1(ratio))
    return {"percent": found.value, "interval": [found.low, found.high]}


def measure(
    checkpoint: Checkpoint,
    text: str,
    engines: list[str],
    precisions: list[str],
    report: Callable[[str], None] = lambda line: None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return a row per engine and precision, the comparisons of labkit with each peer, and the runs left out."""
    parts = text_windows(checkpoint.tokenizer().encode(text), checkpoint.config.context_length)
    counts = torch.tensor([len(part.targets) for part in parts])
    text_bytes = len(text.encode("utf-8"))
    found: dict[tuple[str, str], Tensor] = {}
    rows: list[dict[str, Any]] = []
    missing: list[dict[str, Any]] = []
    # labkit and fp32 come first, because other engines and precisions are compared with them.
    for name in sorted(engines, key=list(ENGINES).index):
        kind, build = ENGINES[name]
        for precision in sorted(precisions, key=PRECISIONS.index):
            started = time.perf_counter()
            try:
                kind.require(CPU, precision)
                scorer = build(checkpoint, precision)
                nats = torch.stack([-scorer.log_probs(part).sum() for part in parts])
            except Exception as error:
                if not isinstance(error, LabkitError) and kind is LabkitEngine:  # a defect of labkit, which must not be hidden
                    raise
                why = str(error) if isinstance(error, LabkitError) else f"{type(error).__name__}: {error}".splitlines()[0]
                missing.append({"engine": name, "precision": precision, "why": f"not measured here: {why}"})
                report(f"{name:<14} {precision:<5} {missing[-1]['why']}")
                continue
            found[name, precision] = nats
            total = float(nats.sum())
            row: dict[str, Any] = {
                "engine": name,
                "version": kind.version(),
                "precision": precision,
                "detail": scorer.engine.detail,
                "perplexity": math.exp(total / int(counts.sum())),
                "bits_per_byte": total / math.log(2) / text_bytes,
                "block_bits": scorer.block_bits,
                "bits": scorer.bits,
                "seconds": time.perf_counter() - started,
            }
            for key, reference in (("over_own_fp32", name), ("over_labkit_fp32", "labkit")):
                known = found.get((reference, "fp32"))
                row[key] = None if known is None else excess(nats, known, counts)
            rows.append(row)
            report(line_of(row))
            del scorer
            gc.collect()
    against = [
        {"precision": precision, "peer": name} | excess(found["labkit", precision], nats, counts)
        for (name, precision), nats in found.items()
        if name != "labkit" and ("labkit", precision) in found
    ]
    facts = {"text_bytes": text_bytes, "tokens": int(counts.sum()), "windows": len(parts)}
    return rows, facts | {"labkit_over_peer": against, "not_measured": missing}


HEADER = f"{'engine':<20} {'perplexity':>10} {'bits/byte':>9} {'over own fp32':>24} {'over labkit fp32':>24}  bits: blocks, all"


def line_of(row: dict[str, Any]) -> str:
    """A row as text, in the columns of `HEADER`."""
    over = " ".join(f"{percents(row[key]):>24}" for key in ("over_own_fp32", "over_labkit_fp32"))
    bits = ", ".join("not known" if row[key] is None else f"{row[key]:.2f}" for key in ("block_bits", "bits"))
    return f"{row['engine']:<14} {row['precision']:<5} {row['perplexity']:>10.4f} {row['bits_per_byte']:>9.5f} {over}  {bits}"


def percents(found: dict[str, Any] | None) -> str:
    """A difference and its interval as text."""
    if found is None:
        return "–"
    low, high = found["interval"]
    return f"{found['percent']:+.3f} % ({low:+.2f} to {high:+.2f})"


def main() -> None:
    """Measure, print the table, write the record; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL, help="a model with a tokenizer")
    parser.add_argument("--text", type=Path, default=TEXT, help="a UTF-8 text file (default: the built-in held-out sample)")
    parser.add_argument("--engines", default=",".join(ENGINES), help="separated by commas")
    parser.add_argument("--precisions", default=",".join(PRECISIONS), help="separated by commas")
    parser.add_argument("--save", type=Path, help="write the record to this JSON file too")
    asked = parser.parse_args()
    checkpoint = open_checkpoint(asked.model)
    print(HEADER)
    rows, extra = measure(
        checkpoint,
        asked.text.read_text("utf-8"),
        asked.engines.split(","),
        asked.precisions.split(","),
        lambda line: print(line, flush=True),
    )
    print("labkit's perplexity over that of")
    for row in extra["labkit_over_peer"]:
        print(f"  {row['peer']:<14} in {row['precision']:<5} {percents(row)}")
    settings = {"model": checkpoint.name, "text": asked.text.name, "window": checkpoint.config.context_length, "device": "cpu"}
    record = Record("perplexity", settings, rows, extra=extra)
    if asked.save:
        record.save(asked.save)
    print(json.dumps(record.to_dict()))


if __name__ == "__main__":
    main()
