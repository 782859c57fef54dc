"""Tests of the benchmark on the built-in model.

labkit and Hugging Face must generate the same tokens, and the figures in the record must be consistent with each other.
"""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from labkit import native
from labkit.bench import BenchSettings, run_bench
from labkit.bench.engines import BenchEngine, LabkitEngine
from labkit.bench.parallel_engine import of_layout
from labkit.bench.peers import PEERS, HuggingFaceEngine
from labkit.bench.rounds import Measured, Prompts
from labkit.bench.rows import agreement, ratios_of, rows_of
from labkit.checkpoints import open_checkpoint
from labkit.cli.bench import _print_table
from labkit.config import GPT_J_6B
from labkit.errors import InsufficientResources, InvalidRequest, NotAvailable
from labkit.measure import Ceilings, Record, Roofline, Timing, roofline
from labkit.measure.disturbed import COMMAND_AGAIN, disturbed_note
from labkit.parallel import Layout

RUN = importlib.import_module("labkit.bench.run")
LIMITS = Ceilings("cpu", 1, 1e10, {"fp32": 1e14, "bf16": 1e14, "fp16": 1e14})
SMALL = BenchSettings(prompt_tokens=40, new_tokens=9, seconds=1.0, batches=(1, 3), device="cpu", precisions=("fp32",))


@pytest.fixture(scope="module")
def record() -> Record:
    """The record of one run of the benchmark with known ceilings. Other tests check how the ceilings are measured."""
    patch = pytest.MonkeyPatch()
    patch.setattr(RUN, "ceilings", lambda device, seconds: LIMITS)
    said: list[str] = []
    found = run_bench(SMALL, progress=said.append)
    patch.undo()
    assert [line for line in said if line.endswith("in turn")] == [
        "batch 1: labkit, hf, in turn",
        "batch 3: labkit, hf, in turn",
    ]
    return found


def test_both_engines_make_the_same_greedy_tokens(record: Record) -> None:
    assert [(row["engine"], row["batch"]) for row in record.rows] == [("labkit", 1), ("hf", 1), ("labkit", 3), ("hf", 3)]
    assert [row["greedy_tokens_agree"] for row in record.rows] == [1.0] * 4


def test_engines_given_the_same_prompts_agree_token_by_token_and_differ_from_other_prompts() -> None:
    checkpoint = open_checkpoint("gptj-tiny")
    prompts = Prompts(checkpoint.config, 3, 25, seed=5)
    assert torch.equal(prompts[4], prompts[4])
    assert not torch.equal(prompts[4], prompts[5])
    made = []
    for kind in (LabkitEngine, HuggingFaceEngine):
        engine: BenchEngine = kind(checkpoint, torch.device("cpu"), "fp32")
        rounds = []
        for number in (0, 1):  # the second round must not see the cache of the first
            first = engine.prefill(prompts[number], 6)
            rounds.append(torch.cat((first[:, None], engine.decode(first, 5)), dim=1))
        made.append(torch.stack(rounds))
    assert made[0].shape == (2, 3, 6)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0][0], made[0][1])
    assert agreement(made[0][0], made[1][0]) == 1.0
    wrong = made[0][0].clone()
    wrong[1, 2] += 1
    assert agreement(made[0][0], wrong) == pytest.approx(17 / 18)


def test_figures_follow_from_one_another(record: Record) -> None:
    config = open_checkpoint("gptj-tiny").config
    weights = 4 * (config.parameter_count - config.vocab_size * config.hidden_size)
    for row in record.rows:
        floor = (weights + row["batch"] * (40 + 9 // 2) * config.kv_bytes_per_token(4)) / row["read_bytes_per_second"]
        share = 1e3 * floor / row["decode_ms_per_token"]  # a ratio of medians; the row has the median of the rounds' ratios
        assert share / 10 < row["fraction_of_limit"] < 10 * share
        assert row["read_bytes_per_second"] > 1e8
        assert row["decode_bound"] == "memory"
        seconds = (row["prefill_ms"] + 8 * row["decode_ms_per_token"]) / 1e3
        assert row["tokens_per_second"] == pytest.approx(9 * row["batch"] / (row["end_to_end_ms"] / 1e3))
        assert row["end_to_end_ms"] > 1e3 * seconds / 10  # medians do not add up, least of all on a busy machine
        assert row["interleaved"] is True
        assert row["version"]
        assert "weights" in row["detail"]
        assert "fp32" in row["detail"]
        assert set(row["spread"]) == {"prefill", "decode", "end_to_end"}
        assert row["runs"] >= 5
        assert row["precision"] == "fp32"
        assert 0 <= row["peak_bytes"] < 10 * 4 * config.parameter_count
        assert all(value >= 0 for value in row["spread"].values())
    for first, second in ((0, 2), (1, 3)):
        # a larger batch is faster; how much faster depends on the other programs on the machine
        assert record.rows[second]["tokens_per_second"] > 0.1 * record.rows[first]["tokens_per_second"]
    assert max(row["peak_bytes"] for row in record.rows) > weights / 2


def test_every_peer_has_a_ratio_for_every_batch(record: Record) -> None:
    ratios = record.extra["ratios"]
    assert [(row["peer"], row["batch"]) for row in ratios] == [("hf", 1), ("hf", 3)]
    for ratio in ratios:
        for phase in ("prefill", "decode", "end_to_end"):
            assert 0 < ratio[phase]["low"] <= ratio[phase]["median"] <= ratio[phase]["high"]


def measured(prefill: tuple[float, ...], decode: tuple[float, ...]) -> Measured:
    return Measured(Timing(prefill), Timing(decode), torch.zeros(1, 5, dtype=torch.long), 0, (1e9,) * len(decode))


def test_the_share_of_the_limit_is_taken_round_by_round() -> None:
    """The share of the limit must be computed for each round.

    In the second round of this test, memory and decode are twice as fast as in the first round, so the share is the same.
    """
    config = open_checkpoint("gptj-tiny").config
    found = replace(measured((1.0, 1.0), (0.4, 0.2)), read_rates=(1e9, 2e9))
    about = {"labkit": {"version": "1", "detail": "", "held_bytes": 0}}

    def limit_of(rate: float) -> Roofline:
        best = replace(LIMITS, read_bytes_per_second=rate)
        return roofline(config, batch=1, length=44, precision="fp32", ceilings=best)

    (row,) = rows_of(1, "fp32", {"labkit": found}, about, limit_of, interleaved=True)
    assert row["fraction_of_limit"] == pytest.approx(limit_of(1e9).decode_seconds / 0.1)
    assert row["read_bytes_per_second"] == 1.5e9


def test_what_other_programs_disturbed_is_in_the_rows_and_in_the_ratios() -> None:
    quiet = measured((1.0, 1.0), (0.4, 0.2))
    busy = replace(quiet, prefill=Timing((1.0, 1.0), "another program ran"), decode=Timing((0.4, 0.2), "another program ran"))
    about = {name: {"version": "1", "detail": "", "held_bytes": 0} for name in ("labkit", "hf", "hf-compiled")}
    engines = {"labkit": quiet, "hf": busy, "hf-compiled": replace(quiet)}
    limit = roofline(open_checkpoint("gptj-tiny").config, batch=1, length=44, precision="fp32", ceilings=LIMITS)
    rows = rows_of(1, "fp32", engines, about, lambda rate: limit, interleaved=True)
    assert [row["disturbed"] for row in rows] == ["", "another program ran", ""]
    assert [row["disturbed"] for row in ratios_of(1, engines, interleaved=True)] == ["another program ran", ""]
    assert busy.end_to_end.disturbed == "another program ran"


def test_the_printed_table_marks_what_was_disturbed(record: Record, capsys: pytest.CaptureFixture[str]) -> None:
    def disturb(rows: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
        return [row | {"disturbed": "another program ran" if row[key] == "hf" else ""} for row in rows]

    extra = record.extra | {"ratios": disturb(record.extra["ratios"], "peer")}
    _print_table(replace(record, rows=disturb(record.rows, "engine"), extra=extra))
    said = capsys.readouterr().out
    assert said.count("hf !") == 2
    assert "labkit !" not in said
    assert said.count("! disturbed") == 2
    assert disturbed_note(["another program ran"], COMMAND_AGAIN) in " ".join(said.split())
    quiet = [row | {"disturbed": ""} for row in record.rows]
    busy_limits = replace(LIMITS, disturbed="another program ran").to_dict()
    _print_table(replace(record, rows=quiet, extra=record.extra | {"ratios": [], "ceilings": busy_limits}))
    said = capsys.readouterr().out
    assert "! The machine was busy when its limits were measured" in said
    assert "disturbed" not in said


def test_ranks_for_which_there_are_no_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpu = torch.device("cuda", 0)
    of_layout(Layout(2, 1)).require(gpu, "fp8")
    with pytest.raises(NotAvailable, match="4 ranks were asked for, one GPU each, but 2 GPUs are available"):
        of_layout(Layout(2, 2)).require(gpu, "fp16")
    with pytest.raises(NotAvailable, match=r"labkit-tp2-pp2 runs .* on cpu, not fp8"):
        of_layout(Layout(2, 2)).require(torch.device("cpu"), "fp8")


@pytest.mark.skipif(not native.available(), reason=f"not measured here: {native.why_not()}")
@pytest.mark.long
def test_labkit_on_several_ranks_makes_the_same_tokens_and_notes_its_communication(quick: BenchSettings) -> None:
    found = run_bench(replace(quick, against=(), tensor_parallel=(1, 2), pipeline_parallel=(1, 2), rounds=1, seconds=0.1))
    assert [row["engine"] for row in found.rows[:4]] == ["labkit", "labkit-tp1-pp2", "labkit-tp2-pp1", "labkit-tp2-pp2"]
    layers, hidden = 8, 256
    for row in found.rows:
        assert row["greedy_tokens_agree"] == 1.0
        assert row["runs"] >= 1
        if row["engine"] != "labkit":
            assert 0 < row["communication_share"] < 1
    (row,) = [row for row in found.rows if row["engine"] == "labkit-tp2-pp1" and row["batch"] == 1]
    config = open_checkpoint("gptj-tiny").config
    sums = 4 * hidden * (layers + 1)  # one sum per layer, and one after the embedding
    logits = 4 * -(-config.vocab_size // 2)
    assert row["communication_bytes"] == sums + logits
    with pytest.raises(InvalidRequest, match="tensor_parallel 3 does not divide the 4 heads"):
        run_bench(replace(quick, tensor_parallel=(3,)))
    with pytest.raises(InvalidRequest, match="rounds is 0"):
        run_bench(replace(quick, rounds=0))


def test_a_ratio_is_how_many_times_faster_labkit_is_run_by_run() -> None:
    both = {"labkit": measured((1.0, 2.0, 10.0), (4.0, 4.0, 4.0)), "hf": measured((3.0, 6.0, 30.0), (2.0, 1.0, 4.0))}
    (found,) = ratios_of(7, both, interleaved=True)
    assert (found["peer"], found["batch"], found["interleaved"]) == ("hf", 7, True)
    assert found["prefill"] == {"median": 3.0, "low": 3.0, "high": 3.0}
    assert found["decode"] == {"median": 0.5, "low": 0.375, "high": 0.75}
    assert found["end_to_end"]["median"] == pytest.approx(7 / 6)
    assert ratios_of(7, {"hf": both["hf"]}, interleaved=True) == []


def test_runs_that_were_not_side_by_side_are_compared_by_their_medians_and_outermost_quartiles() -> None:
    ours, theirs = measured((1.0, 2.0, 3.0), (1.0,) * 3), measured((4.0, 6.0, 8.0, 6.0), (2.0,) * 4)
    (found,) = ratios_of(1, {"labkit": ours, "hf": theirs}, interleaved=False)
    assert found["interleaved"] is False
    assert found["prefill"] == {"median": 3.0, "low": 5.5 / 2.5, "high": 6.5 / 1.5}
    assert found["decode"]["median"] == 2.0


def test_the_record_says_what_was_asked_for_and_can_be_kept(record: Record, tmp_path: Any) -> None:
    again = Record.load(record.save(tmp_path / "bench.json"))
    assert again.kind == "bench"
    assert again.settings["batches"] == [1, 3]
    assert (again.settings["device"], again.settings["precisions"]) == ("cpu", ["fp32"])
    assert again.extra["ceilings"]["read_bytes_per_second"] == 1e10
    assert "gptj-tiny" in again.caption()
    assert json.loads((tmp_path / "bench.json").read_text())["rows"] == record.rows


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"against": ("tgi",)}, "peer 'tgi' is unknown; accepted are hf, hf-compiled, ctranslate2, openvino, llama.cpp"),
        ({"against": ("hf", "hf")}, "name each peer once"),
        ({"batches": ()}, r"batch \[\]"),
        ({"batches": 4}, r"batches is 4; a tuple is accepted, for example \(4,\)"),
        ({"against": "hf"}, r"against is 'hf'; a tuple is accepted"),
        ({"batches": (4, 0)}, r"batch \[4, 0\]"),
        ({"prompt_tokens": 0}, "prompt_tokens 0"),
        ({"new_tokens": 1}, "new_tokens 1: .* new_tokens at least 2"),
        ({"prompt_tokens": 500, "new_tokens": 500}, "exceed the context of 512"),
        ({"seconds": 0.0}, "seconds is 0.0"),
        ({"seconds": -1.0}, "seconds is -1.0"),
        ({"seconds": float("nan")}, "seconds is nan"),
        (
            {"precisions": ("fp64",)},
            "precision is 'fp64'; the bench runs in fp32, bf16, fp16, sparse24, sparse24_int8, int8, w8a8, int4, fp8",
        ),
        ({"precisions": ("fp32", "int3")}, "precision is 'int3'"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"model": "gpt-5"}, "no model 'gpt-5'"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_measured(
    changes: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RUN, "ceilings", lambda device, seconds: pytest.fail("it began to measure"))
    with pytest.raises(InvalidRequest, match=said):
        run_bench(replace(SMALL, **changes))


def test_weights_that_do_not_fit_are_refused_with_both_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    memory = psutil.virtual_memory()._replace(available=10**9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(InsufficientResources, match=r"needs 2\d\.\d GB .* 1\.0 GB are free"):
        run_bench(replace(SMALL, model="gpt-j-6b-synthetic"))
    assert GPT_J_6B.parameter_count * 4 > 24e9


def test_a_batch_whose_cache_does_not_fit_is_refused_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RUN, "ceilings", lambda device, seconds: pytest.fail("it began to measure"))
    monkeypatch.setattr(RUN, "free_bytes", lambda device: 10**9)
    with pytest.raises(InsufficientResources, match=r"batch 100000 .* GB on cpu for the KV cache .* only \d\.\d GB are free"):
        run_bench(replace(SMALL, batches=(1, 100_000)))


class OnlyInt8(HuggingFaceEngine):
    """A peer that runs only int8, and raises an error while it is built. It stands for other people's code, which can raise any
    error.
    """

    name = "hf-compiled"

    def __init__(self, *arguments: Any) -> None:
        raise RuntimeError("the first line\nand the second")

    @classmethod
    def precisions(cls, device: torch.device) -> tuple[str, ...]:
        return ("int8",)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> BenchSettings:
    monkeypatch.setattr(RUN, "ceilings", lambda device, seconds: LIMITS)
    return replace(SMALL, prompt_tokens=8, new_tokens=3, seconds=0.1, rounds=2, batches=(1,))


def test_what_cannot_be_measured_is_in_the_record_with_the_reason(
    quick: BenchSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setitem(PEERS, "hf-compiled", OnlyInt8)
    monkeypatch.setattr(OnlyInt8, "packages", ())
    found = run_bench(replace(quick, against=("hf", "hf-compiled")))
    assert [row["engine"] for row in found.rows] == ["labkit"]
    assert found.extra["ratios"] == []
    assert found.extra["not_measured"] == [
        {
            "engine": "hf",
            "precision": "fp32",
            "why": "not measured here: peer hf needs the package transformers; install labkit with its extra 'lab'",
        },
        {
            "engine": "hf-compiled",
            "precision": "fp32",
            "why": "not measured here: hf-compiled runs int8 on cpu, not fp32",
        },
    ]


def test_a_peer_that_fails_leaves_the_others_measured_and_labkits_own_failure_is_raised(
    quick: BenchSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PEERS, "hf-compiled", OnlyInt8)
    found = run_bench(replace(quick, against=("hf-compiled", "hf"), precisions=("int8",)))
    assert [row["engine"] for row in found.rows] == ["labkit"]
    assert [(row["engine"], row["why"]) for row in found.extra["not_measured"]] == [
        ("hf", "not measured here: hf runs fp32, bf16, fp16 on cpu, not int8"),
        ("hf-compiled", "not measured here: RuntimeError: the first line"),
    ]
    (row,) = found.rows
    assert row["precision"] == "int8"
    assert row["fraction_of_limit"] > 0
    monkeypatch.setattr(LabkitEngine, "prefill", OnlyInt8.__init__)
    with pytest.raises(RuntimeError, match="the first line"):
        run_bench(quick)


@pytest.mark.long
def test_several_precisions_are_run_one_after_the_other(quick: BenchSettings, capsys: pytest.CaptureFixture[str]) -> None:
    from labkit.cli.bench import bench

    sizes = {"prompt_tokens": 8, "new_tokens": 3, "seconds": 0.1, "rounds": 1, "device": "cpu"}
    bench(precision="bf16, int8,bf16", json=True, **sizes)
    out = capsys.readouterr().out
    report = json.loads(out.splitlines()[-1])
    measured = [(row["engine"], row["precision"]) for row in report["rows"]]
    assert measured == [("labkit", "bf16"), ("hf", "bf16"), ("labkit", "int8")]
    assert all(row["decode_ms_per_token"] > 0 and row["precision"] in row["detail"] for row in report["rows"])
    assert [(row["peer"], row["precision"]) for row in report["ratios"]] == [("hf", "bf16")]
    assert [(row["engine"], row["precision"]) for row in report["not_measured"]] == [("hf", "int8")]
    assert "labkit against hf, batch 1, bf16: " in out
    assert "hf, int8: not measured here: hf runs fp32, bf16, fp16 on cpu, not int8" in " ".join(out.split())


def test_nothing_measured_at_all_is_refused_with_the_reasons(quick: BenchSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LabkitEngine, "precisions", classmethod(lambda cls, device: ()))
    with pytest.raises(NotAvailable, match="labkit: not measured here: labkit does not run on cpu"):
        run_bench(replace(quick, against=()))


@pytest.mark.long
@pytest.mark.parametrize("asked", [True, False])
def test_one_at_a_time_when_asked_or_when_memory_is_short(
    asked: bool, quick: BenchSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[str] = []
    if not asked:
        monkeypatch.setattr(RUN, "SHARE_OF_MEMORY", 1e-6)
    for kind in (LabkitEngine, HuggingFaceEngine):
        monkeypatch.setattr(kind, "__del__", lambda self: alive.append(f"{self.name} gone"), raising=False)
    said: list[str] = []
    found = run_bench(
        replace(quick, batches=(1, 2), one_at_a_time=asked), progress=lambda line: said.append(line) or alive.append(line)
    )
    assert [(row["engine"], row["batch"]) for row in found.rows] == [("labkit", 1), ("hf", 1), ("labkit", 2), ("hf", 2)]
    assert [row["interleaved"] for row in found.rows + found.extra["ratios"]] == [False] * 6
    assert alive.index("labkit gone") < alive.index("building hf")
    assert [row["greedy_tokens_agree"] for row in found.rows] == [1.0] * 4
