"""The command line as a user sees it: exit statuses, one sentence per error, and the JSON that programs read."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from labkit.cli import COMMANDS
from labkit.compress.calibration import HELD_OUT as TEXT
from tests.grading.test_release import SOURCE as LAB_SOURCE
from tests.patience import PATIENCE

MANY = """
import contextlib, io, json, sys
import labkit
import labkit.cli as cli
cli._register()
found = []
for arguments in json.loads(sys.argv[1]):
    out, err, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.app(arguments, prog_name="labkit")
        except SystemExit as end:
            status = end.code or 0
    found.append([status, out.getvalue(), err.getvalue(), "torch" in sys.modules])
print(json.dumps(found))
"""
"""A program that runs several commands in one process, because each new process has to import torch."""


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONIOENCODING"}
    return kept | {"LABKIT_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200"} | more


class Done(NamedTuple):
    """The outcome of a command; `torch` says whether torch was imported before the command ended."""

    status: int
    out: str
    errors: str
    torch: bool


def many(home: Path, *commands: list[str]) -> list[Done]:
    done = subprocess.run(
        [sys.executable, "-c", MANY, json.dumps(commands)],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=True,
        env=environment(home),
    )
    return [Done(*row) for row in json.loads(done.stdout.splitlines()[-1])]


def last_json(done: Done, status: int = 0) -> dict[str, Any]:
    assert done.status == status, done.errors
    value = json.loads(done.out.splitlines()[-1], parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert isinstance(value, dict)
    return value


# Help and the import ----------------------------------------------------------------------------------------------------
def test_help_is_there_for_every_command_without_torch(tmp_path: Path) -> None:
    helps = many(tmp_path, ["--help"], *([name, "--help"] for name in COMMANDS), ["generate", "x", "--nonsense"], ["nonsense"])
    top, *of_commands, unknown_option, unknown_command = helps
    assert top.status == 0
    for name, (status, text, errors, _) in zip(COMMANDS, of_commands, strict=True):
        assert (status, errors) == (0, "")
        assert name in top.out
        assert f"Example: labkit {name}" in " ".join(text.split())
        assert "--json" in text or name == "lab"
    assert unknown_option.status == unknown_command.status == 2
    assert "--nonsense" in unknown_option.errors
    assert not any(done.torch for done in helps)


def test_importing_labkit_touches_neither_torch_nor_the_network(tmp_path: Path) -> None:
    script = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "import labkit\n"
        "heavy = {'torch', 'numpy', 'transformers', 'huggingface_hub', 'tokenizers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert labkit.GPTJConfig and 'torch' not in sys.modules\n"
        "try:\n    labkit.nothing\n"
        "except AttributeError as error:\n    assert 'load' in str(error)\n"
        "else:\n    raise AssertionError\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment(tmp_path), timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr


# The commands, all in one process ---------------------------------------------------------------------------------------
REFUSALS: list[tuple[list[str], int, str]] = [
    (
        ["generate", "Once", "--precision", "nonsense"],
        2,
        "precision is 'nonsense'; fp32, bf16, fp16, sparse24, sparse24_int8, int8",
    ),
    (["generate", ""], 2, "prompt"),
    (["generate", "Once", "--temperature", "-1"], 2, "temperature"),
    (["generate", "Once", "--model", "gpt-5"], 2, "gptj-tiny"),
    (["generate", "Once", "--device", "toaster"], 2, "cpu"),
    (["generate", "Once", "--device", "cuda:9"], 1, "use device cpu"),
    (["generate", "Once", "--max-new-tokens", "1000000"], 2, "1000000"),
    (
        ["generate", "Once", "--device", "cuda", "--tensor-parallel", "8", "--pipeline-parallel", "8"],
        1,
        "64 ranks were asked for, one GPU each, but",
    ),
    (["generate", "Once", "--device", "cuda:1", "--tensor-parallel", "2"], 2, "each rank needs its own GPU"),
    (["generate", "Once", "--draft", "gptj-tiny", "--tensor-parallel", "2"], 2, "--draft gptj-tiny with 2 ranks"),
    (["generate", "Once", "--draft", "gone"], 2, "there is no model 'gone'"),
    (["doctor", "ada.json"], 2, "ada.json is given without --session"),
    (["doctor", "--session", "gone.json"], 2, "gone.json cannot be read: No such file"),
    (["fetch", "nothing"], 2, "gptj-tiny"),
    (["fetch", "gpt-j-6b"], 1, "HF_HUB_OFFLINE"),
    (["convert", "gptj-tiny", "x", "--format", "gguf"], 2, "'gguf'; hf, fastertransformer or megatron is accepted"),
    (["convert", "gone", "x", "--format", "hf"], 2, "there is no model 'gone'"),
    (
        ["convert", "gptj-tiny", "x", "--format", "fastertransformer", "--tensor-parallel", "3"],
        2,
        "4 heads and the inner size 1024",
    ),
    (["convert", "gptj-tiny", ".", "--format", "hf"], 2, "--force"),
    (["evaluate", "--text", "gone.txt"], 2, "gone.txt"),
    (["export", "gptj-tiny", "--out", "x", "--parts", "9"], 2, "parts is 9; this model has 8 layers, so 1 to 8 parts"),
    (["export", "gptj-tiny", "--out", "x", "--opset", "99"], 2, "opset is 99; 18 to 23 are accepted"),
    (["export", "gptj-tiny", "--out", "."], 2, ". exists; give another target"),
    (["export", "gptj-tiny", "--out", "x", "--platform", "tensorrt_plan"], 2, "runs on a GPU; name the GPU of each part"),
    (["compress", "gptj-tiny", "--out", "x", "--method", "int9"], 2, "method is 'int9'; int8-rtn"),
    (["compress", "gptj-tiny", "--out", ".", "--method", "int8"], 2, ". exists; give another target"),
    (
        ["compress", "gptj-tiny", "--out", "x", "--method", "mixed"],
        2,
        "give --bits with the method mixed and with no other method",
    ),
    (["compress", "gptj-tiny", "--out", "x", "--method", "mixed", "--bits", "1"], 2, "an average above 2 and at most 8.5"),
    (
        ["compress", "gptj-tiny", "--out", "x", "--method", "mixed", "--bits", "2.1"],
        2,
        "bits is 2.1, which is too few: a matrix has at least 2 bits per weight, plus 0.25 for its scales; give --bits of at "
        "least 2.25",
    ),
    *(
        (["compress", "gptj-tiny", "--out", "x", "--method", "int4-rtn", option, value], 2, f"{option} is {value}, but")
        for option, value in (("--calibration", "t.txt"), ("--windows", "3"), ("--window", "9"))
    ),
    (
        ["compress", "gptj-tiny", "--out", "x", "--method", "int4-gptq", "--window", "0"],
        2,
        "windows of 0 tokens are not enough",
    ),
    (["sensitivity", "gptj-tiny", "--window", "0"], 2, "4 windows of 0 tokens are not enough"),
    (["compress", "gptj-tiny", "--out", "x", "--method", "int4-qat", "--steps", "0"], 2, "steps of the training is 0"),
    (["compress", "gptj-tiny", "--out", "x", "--method", "distill"], 2, "give --layers, for example --layers 4"),
    (["compress", "gptj-tiny", "--out", "x", "--method", "distill", "--layers", "8"], 2, "layers is 8; a student has fewer"),
    (
        ["compress", "gptj-tiny", "--out", "x", "--method", "distill", "--layers", "4", "--bits", "4"],
        2,
        "--bits is not an option",
    ),
    (
        ["compress", "gptj-tiny", "--out", "x", "--method", "int8", "--layers", "4"],
        2,
        "--layers is 4, but method int8 trains no",
    ),
    (["sensitivity", "gptj-tiny", "--bits", "4,9"], 2, "--bits is '4,9'; whole numbers from 2 to 8"),
    (["sensitivity", "gptj-tiny", "--windows", "0"], 2, "0 windows of 512 tokens are not enough"),
    (["compress", "gone", "--out", "x", "--method", "int8"], 2, "there is no model 'gone'"),
    (["compress", "gptj-tiny", "--out", "x", "--method", "int4", "--group-size", "48"], 2, "48 does not divide the 256 inputs"),
    (
        ["compress", "gptj-tiny", "--out", "x", "--method", "int4-gptq", "--calibration", "gone.txt"],
        2,
        "cannot read the calibration text gone.txt",
    ),
    (["bench", "--batch", "1,x"], 2, "--batch is '1,x'"),
    (["bench", "--against", "tgi"], 2, "'tgi'"),
    (["bench", "--seconds", "0"], 2, "seconds is 0"),
    (["bench", "--precision", "fp64"], 2, "fp32, bf16, fp16"),
    (["bench", "--prompt-tokens", "100000"], 2, "exceed the context"),
    (["bench", "--config", "gone.json"], 2, "gone.json"),
    (["plan", "--gpu", "h100-80"], 2, "did you mean h100-80gb?"),
    (["plan", "--params", "many"], 2, "--params is 'many'"),
    (["plan", "--params", "20b", "--config", "config.json"], 2, "give one of them"),
    (["plan", "--model", "gpt-20b", "--tensor-parallel", "5"], 2, "tensor_parallel 5 does not divide the 48 heads"),
    (["plan", "--model", "gpt-175b", "--gpus", "4"], 1, "no plan fits the memory. The nearest lacks"),
    (["plan", "--model", "gpt-20b", "--latency-ms", "50"], 1, "no plan answers within 50 ms. The nearest takes"),
    (["plan", "--budget", "3"], 2, "--budget needs --price"),
    (["plan", "--rank", "beauty"], 2, "the ranking is 'beauty'"),
    (["plan", "--verify", "--model", "gpt-20b"], 2, "there is no model 'gpt-20b'"),
    (["plan", "--verify", "--batch", "0"], 2, "batch is (0,)"),
    (["plan", "--records", "gone.json"], 2, "gone.json holds no record"),
    (["plan", "--calibrate", "gone.csv"], 2, "cannot read gone.csv"),
    (["tune", "--device", "cpu"], 1, "the device is cpu, but only the kernels of a GPU can be tuned"),
    (["tune", "--batch", "1,x", "--device", "cpu"], 2, "--batch is '1,x'"),
    (["tune", "--batch", "0", "--device", "cpu"], 2, "at least one sequence"),
    (["check", "gone.ipynb"], 2, "gone.ipynb is not a notebook"),
    (["watch", "gone.ipynb"], 2, "gone.ipynb is not a notebook"),
    (["reset", "gone.ipynb", "kv_cache_bytes"], 2, "gone.ipynb is not a notebook"),
    (["solution", "kv_bytes"], 2, "no exercise asks for a function with the name 'kv_bytes'"),
    (["solution", "kv_cache_bytes"], 1, "Exercise 0.3 (kv_cache_bytes) has not passed yet."),
    (["ladder", "--export", "x.json"], 2, "--export needs a name for the class board"),
    (["grade", "gone", "--out", "grades"], 2, "the submissions gone cannot be read"),
    (["release", "--folder", "gone"], 2, "gone has no solutions/"),
    (["release", "--folder", "gone", "--course"], 2, "the labkit that runs is in"),
    (["release", "--course", "--check"], 2, "--check and --course cannot be given together"),
    (["release", "--no-answer-sheet"], 2, "--out, --track and --no-answer-sheet are options of --course"),
    (["tour", "--course", "gone"], 2, "gone has no solutions/"),
    (["lab", "--course", "gone"], 2, "has no labs/NN_slug.ipynb"),
]


PROMPTS = ["In the beginning", "Call me"]
COMMON = ["--max-new-tokens", "9", "--json", "--precision", "fp32", "--device", "cpu"]
BENCH_SIZES = ["--prompt-tokens", "12", "--new-tokens", "4", "--seconds", "0.3", "--batch", "1,2", "--device", "cpu"]
BODY = (
    "def kv_cache_bytes(config, lengths, size):\n    return {} * config.num_layers * config.hidden_size * sum(lengths) * size"
)


MEASURED = """\
# %% [markdown]
# # Two tasks

# %%
from labkit.measure import KeptRuns, Ladder, Task, Timing

for sequences, disturbed in ((1, ""), (8, "another program ran")):
    task = Task("gptj-tiny", sequences, prompt_tokens=64, new_tokens=4)
    Ladder().add_timings(task, {"hf": Timing((4.0,)), "engine": Timing((1.0,), disturbed)})

# %%
KeptRuns("00").keep("limits", lambda: {"disturbed": "another program ran"})

# %%
KeptRuns("00").keep("decode", lambda: {"disturbed": ""})
"""
"""The source of a lab with ladder rungs for two tasks. Other programs disturbed one rung and one kept measurement."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the inputs of the commands: a text, the notebooks of two learners, and two courses."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "text.txt").write_text("It was the best of times, it was the worst of times. " * 8)
    for name, factor in (("right", "2"), ("wrong", "16")):
        cells = [{"cell_type": "code", "source": BODY.format(factor)}]
        (folder / f"{name}.ipynb").write_text(json.dumps({"cells": cells}))
    for course in ("course", "edited"):
        (folder / course / "solutions").mkdir(parents=True)
        (folder / course / "solutions" / "00_first.py").write_text(LAB_SOURCE)
    (folder / "measured" / "solutions").mkdir(parents=True)
    (folder / "measured" / "solutions" / "00_measured.py").write_text(MEASURED)
    (folder / "edited" / "labs").mkdir()
    (folder / "edited" / "labs" / "00_first.ipynb").write_text(json.dumps({"cells": [], "metadata": {}}))
    return folder


@pytest.fixture(scope="module")
def done(place: Path) -> dict[str, Done]:
    course, edited = (["--folder", str(place / name)] for name in ("course", "edited"))
    commands = {
        "doctor": ["doctor", "--json"],
        "fetch": ["fetch", "gptj-tiny", "--json"],
        "fetch plain": ["fetch", "gptj-tiny"],
        "convert": [
            "convert",
            "gptj-tiny",
            str(place / "ft"),
            "--format",
            "fastertransformer",
            "--tensor-parallel",
            "2",
            "--json",
        ],
        "convert plain": ["convert", str(place / "ft"), str(place / "mg"), "--format", "megatron", "--pipeline-parallel", "4"],
        "generate converted": ["generate", *PROMPTS, "--model", str(place / "mg"), *COMMON],
        "generate": ["generate", *PROMPTS, "--logprobs", "2", *COMMON],
        "generate stopped": ["generate", PROMPTS[0], "--stop", " ", "--stop", "e", *COMMON],
        "generate sampled": ["generate", PROMPTS[1], "--temperature", "1", "--num-samples", "3", "--seed", "7", *COMMON],
        "generate plain": ["generate", *PROMPTS, *COMMON[:2]],
        "evaluate": ["evaluate", "--text", str(place / "text.txt"), "--window", "64", "--json", "--device", "cpu"],
        "compress": ["compress", "gptj-tiny", "--method", "int2-rtn", "--out", str(place / "small"), "--json"],
        "evaluate against": [
            *("evaluate", "--text", str(place / "text.txt"), "--window", "64", "--json", "--device", "cpu"),
            *("--model", str(place / "small"), "--against", "gptj-tiny", "--precision", "fp32"),
        ],
        "bench": ["bench", *BENCH_SIZES, "--against", "hf,hf", "--save", str(place / "record.json"), "--json"],
        "check right": ["check", str(place / "right.ipynb"), "--json"],
        "check wrong": ["check", str(place / "wrong.ipynb"), "--json"],
        "release behind": ["release", "--check", "--json", *course],
        "release none": ["release", "--lab", "77", *course],
        "release": ["release", "--json", *course],
        "release in step": ["release", "--check", "--json", *course],
        "release edited": ["release", *edited],
        "tour": ["tour", "--json", "--course", str(place / "measured"), "--plot", str(place / "ladders.png")],
        "no GPU": ["generate", "x", "--device", "cuda"],
        "no number": ["generate", "x", "--top-k", "many"],
    }
    commands |= {" ".join(arguments): arguments for arguments, _, _ in REFUSALS}
    return dict(zip(commands, many(place, *commands.values()), strict=True))


@pytest.mark.parametrize(("arguments", "status", "said"), REFUSALS)
def test_errors_are_one_sentence_on_stderr_and_the_right_status(
    arguments: list[str], status: int, said: str, done: dict[str, Done]
) -> None:
    found = done[" ".join(arguments)]
    lines = [line for line in found.errors.splitlines() if line.startswith("labkit: ")]
    assert (found.status, len(lines)) == (status, 1), found.errors
    assert said in lines[0]
    assert found.errors.rstrip().endswith(lines[0])
    assert "Traceback" not in found.errors
    assert found.out == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there(done: dict[str, Done]) -> None:
    assert done["no GPU"].status == 1
    assert done["no GPU"].errors.count("\n") == 1
    assert "this machine has 0 usable GPUs" in done["no GPU"].errors


def test_a_wrong_value_of_an_option(done: dict[str, Done]) -> None:
    assert done["no number"].status == 2
    assert "--top-k" in done["no number"].errors


def test_doctor(done: dict[str, Done]) -> None:
    report = last_json(done["doctor"])
    assert {"cpu", "gpus", "memory_bytes", "triton_server", "labs", "versions"} <= set(report)
    assert report["cpu"]["usable_cores"] >= 1
    assert report["memory_bytes"] > 2**30
    assert torch.__version__.startswith(report["versions"]["torch"].split("+")[0])
    assert [lab["lab"] for lab in report["labs"]][:2] == ["00", "01"]
    assert all(lab["runs"] is True and lab["why_not"] == "" for lab in report["labs"])
    assert report["cpu"]["model"] in done["doctor"].out.split("{")[0]
    assert "Class environment" in done["doctor"].out.split("{")[0]


def test_fetch(done: dict[str, Done]) -> None:
    result = last_json(done["fetch"])
    assert set(result) == {"path", "bytes", "sha256"}
    weights = (Path(result["path"]) / "model.safetensors").read_bytes()
    assert result["sha256"] == hashlib.sha256(weights).hexdigest()
    assert result["bytes"] > len(weights)
    assert done["fetch plain"].out == result["path"] + "\n"
    assert result["sha256"] in done["fetch"].errors


def test_convert(done: dict[str, Done], place: Path) -> None:
    result = last_json(done["convert"])
    files = list((place / "ft" / "2-gpu").iterdir())
    assert result == {
        "path": str(place / "ft" / "2-gpu"),
        "files": len(files),
        "bytes": sum(file.stat().st_size for file in files),
    }
    assert len(files) == 8 * (3 + 5 * 2) + 5 + 1
    assert "config.ini" in done["convert"].errors  # progress is printed to stderr
    assert done["convert plain"].out == f"{place / 'mg'}\n"
    converted, plain = (last_json(done[name])["outputs"] for name in ("generate converted", "generate"))
    assert [row["token_ids"] for row in converted] == [row["token_ids"] for row in plain]
    assert [row["text"] for row in converted] == [row["text"] for row in plain]


def test_generate(done: dict[str, Done]) -> None:
    outputs = last_json(done["generate"])["outputs"]
    assert [row["prompt"] for row in outputs] == PROMPTS
    for row in outputs:
        assert {"text", "token_ids", "finish_reason", "logprobs"} <= set(row)
        assert 1 <= len(row["token_ids"]) <= 9  # only the new tokens
        assert len(row["logprobs"]) == len(row["token_ids"])
        assert (row["finish_reason"] == "length" and len(row["token_ids"]) == 9) or row["finish_reason"] == "stop"
        for token, item in zip(row["token_ids"], row["logprobs"], strict=True):
            assert item["token_id"] == token == item["top"][0][0]  # greedy
            assert item["logprob"] == item["top"][0][1] < 0
            assert len(item["top"]) == 2
        assert row["cumulative_logprob"] == pytest.approx(sum(item["logprob"] for item in row["logprobs"]))
    whole = outputs[0]["text"]
    assert done["generate plain"].out == "".join(f"{row['prompt']}{row['text']}\n\n" for row in outputs)

    (cut,) = last_json(done["generate stopped"])["outputs"]
    assert "logprobs" not in cut
    assert cut["finish_reason"] == "stop"
    assert cut["text"] == whole[: min(whole.index(stop) for stop in (" ", "e") if stop in whole)]

    samples = last_json(done["generate sampled"])["outputs"]
    assert [row["sample"] for row in samples] == [0, 1, 2]
    assert len({tuple(row["token_ids"]) for row in samples}) == 3


def test_evaluate(done: dict[str, Done], place: Path) -> None:
    report = last_json(done["evaluate"])
    size = len((place / "text.txt").read_bytes())
    assert set(report) == {"bits_per_byte", "perplexity", "tokens", "interval"}
    low, high = report["interval"]
    assert 0 < low < report["bits_per_byte"] < high < 8
    assert 50 < report["tokens"] < size
    assert report["perplexity"] == pytest.approx(2 ** (report["bits_per_byte"] * size / report["tokens"]), rel=0.05)


def test_compress_and_evaluate_against_the_source(done: dict[str, Done], place: Path) -> None:
    report = last_json(done["compress"])
    assert set(report) == {"path", "bytes_before", "bytes_after", "bits_per_weight", "quality"}
    assert report["path"] == str(place / "small")
    assert report["bits_per_weight"] == 2.25
    stored = sum(file.stat().st_size for file in (place / "small").glob("*.safetensors"))
    assert stored == report["bytes_after"] < 0.5 * report["bytes_before"]
    assert "[0/9] block 0" in done["compress"].errors
    quality = last_json(done["evaluate against"])
    assert (quality["model"], quality["against"]) == (str(place / "small"), "gptj-tiny")
    for measure in ("bits_per_byte", "perplexity", "change", "kl", "agreement"):
        low, high = quality[measure]["interval"]
        assert low < quality[measure]["value"] < high
        assert "95 % interval" in done["evaluate against"].out
    assert quality["kl"]["value"] > 0.1
    assert quality["agreement"]["value"] < 0.9


BAD_TEXTS = {
    "empty": ("", "the calibration text empty.txt is empty; give a text of at least 512 tokens"),
    "short": ("In the beginning", "which is less than one window of 512"),
    "one token": (" the" * 900, "is one token repeated 900 times"),
    "held out": (TEXT.read_text("utf-8")[:9000], "with the held-out text, such as"),
    "bytes": ("\udcff", "cannot read the calibration text"),
}


def test_calibration_texts_that_are_refused(tmp_path: Path) -> None:
    commands = []
    for name, (text, _) in BAD_TEXTS.items():
        path = tmp_path / f"{name.replace(' ', '_')}.txt"
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        out = str(tmp_path / "out")
        commands.append(["compress", "gptj-tiny", "--method", "int4-gptq", "--out", out, "--calibration", str(path)])
    before = sorted(tmp_path.iterdir())
    for found, (_, said) in zip(many(tmp_path / "home", *commands), BAD_TEXTS.values(), strict=True):
        assert (found.status, found.out, found.errors.count("\n")) == (2, "", 1), found.errors
        assert said in found.errors
    assert sorted(path for path in tmp_path.iterdir() if path.name != "home") == before


def test_bench(done: dict[str, Done], place: Path) -> None:
    report = last_json(done["bench"])
    assert {"rows", "ratios", "machine", "versions"} <= set(report)
    assert [(row["engine"], row["batch"]) for row in report["rows"]] == [("labkit", 1), ("hf", 1), ("labkit", 2), ("hf", 2)]
    for row in report["rows"]:
        for key in ("prefill_ms", "decode_ms_per_token", "tokens_per_second", "fraction_of_limit"):
            assert row[key] > 0
        assert row["peak_bytes"] >= 0
        assert row["precision"] == "fp32"
        assert set(row["spread"]) == {"prefill", "decode", "end_to_end"}
    assert [(row["peer"], row["batch"]) for row in report["ratios"]] == [("hf", 1), ("hf", 2)]
    assert report["versions"]["torch"]
    assert json.loads((place / "record.json").read_text())["rows"] == report["rows"]
    assert "labkit against hf, batch 2" in done["bench"].out


def test_check(done: dict[str, Done]) -> None:
    report = last_json(done["check right"])
    rows = {row["exercise"]: row for row in report["exercises"]}
    assert all({"verdict", "points", "message", "notebook"} <= set(row) for row in rows.values())
    solved = rows.pop("lab00.kv_cache_bytes")
    assert (solved["verdict"], solved["points"]) == ("passed", 10)
    assert {row["verdict"] for row in rows.values()} == {"not attempted"}
    assert report["points"] == report["core_points"] == 10 < report["core_out_of"] < report["out_of"]
    assert solved["track"] == "core"
    assert "✓ 0.3" in done["check right"].out
    assert "  0.3 " in done["check right"].errors  # progress, one line per exercise
    wrong = last_json(done["check wrong"], status=1)
    assert wrong["points"] == 0
    assert [row["message"] for row in wrong["exercises"] if row["verdict"] == "failed"]
    assert "✗ 0.3" in done["check wrong"].out


def test_release_and_tour(done: dict[str, Done], place: Path) -> None:
    paths = [str(place / "course" / folder / "00_first.ipynb") for folder in ("labs", "solutions")]
    assert last_json(done["release behind"], status=1) == {"stale": paths}
    assert last_json(done["release"]) == {"written": paths}
    assert last_json(done["release in step"]) == {"stale": []}
    assert all(Path(path).exists() for path in paths)
    for command, said in (("release none", "there is no lab '77'"), ("release edited", "edited after labkit wrote it")):
        assert done[command].status == 2
        assert said in done[command].errors


def test_the_tour_prints_and_draws_a_ladder_for_each_task(done: dict[str, Done], place: Path) -> None:
    report = last_json(done["tour"])
    assert report["labs"] == ["00_measured"]
    assert report["disturbed_cells"] == {"00_measured": 1}
    found = [(rung["task"]["sequences"], rung["name"], rung["disturbed"]) for rung in report["ladder"]]
    assert found == [(1, "hf", ""), (1, "engine", ""), (8, "hf", ""), (8, "engine", "another program ran")]
    _, one, eight = done["tour"].out.split("\n\n")
    assert one.startswith("gptj-tiny: 1 sequence, 64 prompt tokens")
    assert "4.0 x" in one
    assert eight.startswith("gptj-tiny: 8 sequences at once, 64 prompt tokens")
    assert "! disturbed" in eight
    assert "another program ran. To get a better one, close other programs and run this command again." in eight
    assert "! Measurements in 1 cell were disturbed." in done["tour"].errors
    assert "encrypt" not in done["tour"].errors
    assert (place / "ladders.png").read_bytes().startswith(b"\x89PNG")


# Pipes and disks --------------------------------------------------------------------------------------------------------
def test_generate_streams_one_prompt_and_survives_a_closed_pipe(tmp_path: Path) -> None:
    command = f'"{sys.executable}" -m labkit generate "In the beginning" --max-new-tokens 30 --device cpu'
    for tail, expected in ((" | head -c 5", "In th"), (" | cat", "In the beginning")):
        script = f"{command}{tail}; echo ${{PIPESTATUS[0]}} >&2"
        done = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, check=False, env=environment(tmp_path), timeout=PATIENCE
        )
        assert done.stdout.startswith(expected)
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
        if tail == " | cat":
            assert len(done.stdout) > 40
            assert done.stderr.splitlines()[-1] == "0"
            assert done.stderr.startswith("[")
        else:
            assert done.stderr.splitlines()[-1] == "1"


def test_a_failure_of_the_disk_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    script = (
        "from labkit.cli.output import report_errors\ndef write():\n    open('file/record.json', 'w')\nreport_errors(write)()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment(tmp_path)
    )
    assert done.returncode == 1
    assert done.stderr.startswith("labkit: NotADirectoryError")
    assert done.stderr.count("\n") == 1


ASCII = {
    "one prompt": ["generate", "caf\u00e9 \u2014 \U0001f40b", "--max-new-tokens", "3"],
    "rows": ["generate", "caf\u00e9", "\u2014", "--logprobs", "1", "--max-new-tokens", "2"],
    "json": ["generate", "caf\u00e9", "--max-new-tokens", "2", "--json"],
    "refused": ["generate", "x", "--model", "mod\u00e8le"],
    "evaluate": ["evaluate", "--text", "na\u00efve.txt", "--json"],
    "check": ["check", "right.ipynb"],
    "doctor": ["doctor"],
    "help": ["generate", "--help"],
}
IN_TURN = """
import json, os, sys
from labkit.cli import main
for name, arguments in json.loads(sys.argv[1]).items():
    for stream in (sys.stdout, sys.stderr):
        print("#", name, file=stream, flush=True)
    sys.argv = ["labkit", *arguments]
    try:
        main()
    except SystemExit as end:
        print("status", end.code or 0)
"""


def test_a_terminal_that_knows_ascii_only(place: Path, done: dict[str, Done]) -> None:
    """A character that the encoding lacks is printed as its code. No command ends with a traceback."""
    (place / "na\u00efve.txt").write_text("caf\u00e9 \u2014 \U0001f40b", "utf-8")
    run = subprocess.run(
        [sys.executable, "-c", IN_TURN, json.dumps(ASCII)],
        capture_output=True,
        timeout=2 * PATIENCE,
        check=True,
        cwd=place,
        env=environment(place, PYTHONIOENCODING="ascii"),
    )
    errors = run.stderr.decode("ascii")
    assert "Traceback" not in errors
    parts = dict(part.split("\n", 1) for part in run.stdout.decode("ascii").split("# ") if part)
    statuses = {name: int(part.rsplit("status ", 1)[1]) for name, part in parts.items()}
    assert statuses == {name: 2 if name == "refused" else 0 for name in ASCII}
    assert parts["one prompt"].startswith("caf\\xe9 \\u2014 \\U0001f40b")
    assert parts["rows"].startswith("caf\\xe9")
    assert json.loads(parts["json"].splitlines()[0])["outputs"][0]["prompt"] == "caf\u00e9"
    assert "mod\\xe8le" in errors
    assert "na\\xefve.txt" in parts["evaluate"]
    assert json.loads(parts["evaluate"].splitlines()[1])["interval"] is None
    assert "passed" in parts["check"]
    assert "This machine" in parts["doctor"]
