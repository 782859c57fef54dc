"""Measures speculative decoding: tokens per second with and without a draft model, in turn, and the share of right guesses.

    python -m tests.benchmarks.speculative --draft STUDENT [--wide FOLDER] [--times 8] [--rounds 5] [--save FILE]

The targets are `gptj-tiny` and a wider model that computes the same function (`wide_teacher`) but spends most of its time on
reading weights. A distilled student of `gptj-tiny` is a draft for both. The other draft has the student's shape and random
weights: its guesses are never right, and the engine must notice.

Every round makes new engines, one without a draft and one for each draft. Each engine continues the same passages of held-out
text, `batch` at a time. So every round includes the time that an engine needs to find out how good its draft is. A ratio is the
plain engine's time divided by the time with the draft in the same round; a row has all ratios and their median. `same_texts` is
the share of passages to which an engine with a draft adds the same tokens as the plain engine. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from labkit.checkpoints import Checkpoint, Tokenizer, open_checkpoint
from labkit.checkpoints.synthetic import SyntheticCheckpoint
from labkit.compress.calibration import HELD_OUT
from labkit.engine import Engine, SamplingParams, load
from labkit.measure import Record
from labkit.model import GPTJ
from labkit.model.weight_store import read_model
from tests.benchmarks.wide_teacher import MODEL, TIMES, write_wide

PROMPT_TOKENS = 32
PLAIN = "none"
SAMPLINGS: dict[str, dict[str, Any]] = {"greedy": {}, "sampled": {"temperature": 0.8, "top_p": 0.95}}
CPU = torch.device("cpu")


def passages(tokenizer: Tokenizer, count: int) -> list[list[int]]:
    """The beginnings of passages spread evenly over the held-out text."""
    ids = tokenizer.encode(HELD_OUT.read_text("utf-8"))
    stride = len(ids) // count
    return [ids[place * stride : place * stride + PROMPT_TOKENS] for place in range(count)]


def one_round(
    target: GPTJ, draft: GPTJ | None, prompts: list[list[int]], params: list[SamplingParams], batch: int
) -> tuple[float, list[list[int]], dict[str, int]]:
    """Let a new engine continue all prompts. Return its seconds, the new tokens, and the counts of guesses."""
    context = target.config.context_length
    with Engine(target, draft=draft, num_slots=batch * context, prefix_reuse=False) as engine:
        engine.occupy_cache()
        tokens: list[list[int]] = []
        begun = time.perf_counter()
        for first in range(0, len(prompts), batch):
            part = slice(first, first + batch)
            tokens += [output.token_ids for output in engine.generate(prompts[part], params[part])]
        seconds, stats = time.perf_counter() - begun, engine.stats
    return seconds, tokens, {"tokens_guessed": stats.tokens_guessed, "guesses_right": stats.guesses_right}


def measured(
    target: GPTJ, drafts: dict[str, GPTJ | None], prompts: list[list[int]], facts: dict[str, Any], asked: argparse.Namespace
) -> list[dict[str, Any]]:
    """Return a row for each draft. The engines with and without a draft take turns; the first round is a warm-up."""
    params = [
        SamplingParams(max_new_tokens=asked.new_tokens, ignore_eos=True, seed=number, **SAMPLINGS[facts["sampling"]])
        for number in range(len(prompts))
    ]
    seconds: dict[str, list[float]] = {name: [] for name in drafts}
    last: dict[str, dict[str, Any]] = {}
    plain: list[list[int]] = []
    for turn in range(asked.rounds + 1):
        for name, draft in drafts.items():
            taken, tokens, counts = one_round(target, draft, prompts, params, facts["batch"])
            plain = tokens if name == PLAIN else plain
            same = sum(own == theirs for own, theirs in zip(tokens, plain, strict=True)) / len(plain)
            last[name] = {**counts, "same_texts": same}
            seconds[name] += [taken] if turn else []
    rows = []
    for name, times in seconds.items():
        ratios = [before / after for before, after in zip(seconds[PLAIN], times, strict=True)]
        pace = len(prompts) * asked.new_tokens / median(times)
        rows.append(facts | {"draft": name, "tokens_per_second": pace, "ratio": median(ratios), "ratios": ratios} | last[name])
    return rows


def same_draws(target: Engine, draft: Engine, ids: list[int], temperature: float, top_p: float) -> dict[str, float]:
    """How often the two models draw the same token at the same position, on average over a text.

    same_draw: how often this happens if both models use the same random number, as in the engine: the number selects an
    interval of each model's running sum of probabilities.
    overlap: the sum over tokens of the smaller of the two probabilities, which is the largest share that any rule can reach
    (Leviathan et al., theorem 3.5).
    """
    sums, chances = [], []
    for engine in (target, draft):
        scaled = torch.softmax(engine.logits(ids).double() / temperature, -1)
        ordered, order = scaled.sort(dim=-1, descending=True)
        ordered[ordered.cumsum(-1) - ordered >= top_p] = 0
        kept = torch.zeros_like(scaled).scatter_(1, order, ordered)
        chances.append(kept / kept.sum(-1, keepdim=True))
        sums.append(chances[-1].cumsum(-1))
    begins = torch.maximum(*(each - chance for each, chance in zip(sums, chances, strict=True)))
    shared = (torch.minimum(*sums) - begins).clamp_min(0).sum(-1)
    return {"same_draw": float(shared.mean()), "overlap": float(torch.minimum(*chances).sum(-1).mean())}


def main() -> None:
    """Measure, print one line for each row, write the record; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draft", required=True, help="the directory of a student of gptj-tiny")
    parser.add_argument("--wide", type=Path, help="the folder of the wide model; it is made there if it does not exist")
    parser.add_argument("--times", type=int, default=TIMES, help="how many times as wide as gptj-tiny the wide model is")
    parser.add_argument("--targets", default="wide,tiny", help="wide, tiny or both")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--batch", default="1", help="batch sizes, separated by commas")
    parser.add_argument("--samplings", default=",".join(SAMPLINGS))
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", type=Path, help="write the record to this JSON file too")
    asked = parser.parse_args()
    tiny, student = open_checkpoint(MODEL), open_checkpoint(asked.draft)
    stranger = SyntheticCheckpoint(student.config, "random", seed=1)
    drafts = {PLAIN: None} | {
        name: read_model(each, asked.precision, CPU) for name, each in (("student", student), ("random", stranger))
    }
    prompts, rows = passages(tiny.tokenizer(), asked.prompts), []
    settings = {
        "model": MODEL,
        "times": asked.times,
        "precision": asked.precision,
        "device": "cpu",
        "prompt_tokens": PROMPT_TOKENS,
    }
    settings |= {"new_tokens": asked.new_tokens, "prompts": asked.prompts, "rounds": asked.rounds}
    extra: dict[str, Any] = {"draft_parameters": student.config.parameter_count}
    text = tiny.tokenizer().encode(HELD_OUT.read_text("utf-8"))
    with load(MODEL, device="cpu", dtype="fp32") as teacher, load(asked.draft, device="cpu", dtype="fp32") as guesser:
        extra["draws"] = same_draws(teacher, guesser, text[: teacher.config.context_length], **SAMPLINGS["sampled"])
    print(extra["draws"], flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for name in asked.targets.split(","):
            source = tiny if name == "tiny" else _wide(tiny, asked.wide or Path(temporary) / "wide", asked.times)
            target = read_model(source, asked.precision, CPU)
            for sampling in asked.samplings.split(","):
                for batch in map(int, asked.batch.split(",")):
                    facts = {"target": name, "parameters": source.config.parameter_count, "sampling": sampling, "batch": batch}
                    rows += measured(target, drafts, prompts, facts, asked)
                    _show(rows[-len(drafts) :])
                    if asked.save:
                        Record("speculative", settings, rows, extra=extra).save(asked.save)
    print(json.dumps(Record("speculative", settings, rows, extra=extra).to_dict()))


def _wide(tiny: Checkpoint, folder: Path, times: int) -> Checkpoint:
    if not folder.exists():
        write_wide(tiny, folder, times)
    return open_checkpoint(folder)


def _show(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        guessed = row["tokens_guessed"]
        share = f"{row['guesses_right'] / guessed:6.1%} of {guessed} guesses right" if guessed else "no guesses"
        print(
            f"{row['target']:<5} {row['sampling']:<8} batch {row['batch']:<3} draft {row['draft']:<8} "
            f"{row['tokens_per_second']:8.1f} tokens/s  x{row['ratio']:.2f}  {share}, {row['same_texts']:.0%} same texts",
            flush=True,
        )


if __name__ == "__main__":
    main()
