"""Every option of `labkit generate` sets the parameter of the same name, and the printed text is the generated text."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import labkit.engine
from labkit.cli.generate import generate
from labkit.engine import SamplingParams

GIVEN: dict[str, tuple[Any, dict[str, Any]]] = {
    "--max-new-tokens": (12, {"max_new_tokens": 12}),
    "--min-new-tokens": (3, {"min_new_tokens": 3}),
    "--stop": (["end", "over"], {"stop": ["end", "over"]}),
    "--stop-token-id": ([7, 8], {"stop_token_ids": [7, 8]}),
    "--end-token-id": (9, {"end_token_id": 9}),
    "--start-token-id": (5, {"start_token_id": 5}),
    "--ignore-eos": (None, {"ignore_eos": True}),
    "--temperature": (0.5, {"temperature": 0.5}),
    "--top-k": (40, {"top_k": 40}),
    "--top-p": (0.9, {"top_p": 0.9}),
    "--top-p-decay": (0.8, {"top_p_decay": 0.8}),
    "--top-p-min": (0.2, {"top_p_min": 0.2}),
    "--top-p-reset-id": ([3, 4], {"top_p_reset_ids": [3, 4]}),
    "--num-samples": (2, {"num_samples": 2, "temperature": 1.0}),
    "--repetition-penalty": (1.2, {"repetition_penalty": 1.2}),
    "--presence-penalty": (0.3, {"presence_penalty": 0.3}),
    "--bad-word": (["God", "Lord"], {"bad_words": ["God", "Lord"]}),
    "--num-beams": (4, {"num_beams": 4}),
    "--length-penalty": (2.0, {"length_penalty": 2.0}),
    "--early-stopping": ("true", {"early_stopping": True}),
    "--num-beam-groups": (2, {"num_beam_groups": 2, "num_beams": 4, "diversity_penalty": 1.0}),
    "--diversity-penalty": (0.7, {"diversity_penalty": 0.7, "num_beams": 4, "num_beam_groups": 2}),
    "--diversity-rate": (0.6, {"diversity_rate": 0.6}),
    "--logprobs": (2, {"logprobs": 2}),
    "--memory-len": (20, {"memory_len": 20}),
    "--speculate": (3, {"speculate": 3}),
    "--seed": (11, {"seed": 11}),
}
NEEDED = {
    "--num-samples": ["--temperature", "1"],
    "--num-beam-groups": ["--num-beams", "4", "--diversity-penalty", "1"],
    "--diversity-penalty": ["--num-beams", "4", "--num-beam-groups", "2"],
}
NOT_TYPED = {"soft_prompt", "prefix_prompt", "prompt_logprobs"}
"""Parameters without an option: two are tensors, and one asks for a report that the command does not print."""

app = typer.Typer()
app.command()(generate)


class Seen(Exception):
    """Raised instead of running the engine. It holds the parameters that the engine would have used."""


class FakeEngine:
    def generate(self, prompts: list[str], params: SamplingParams) -> Any:
        raise Seen(prompts, params)

    stream = generate

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def parameters(monkeypatch: pytest.MonkeyPatch, *options: str) -> SamplingParams:
    monkeypatch.setattr(labkit.engine, "load", lambda *_, **__: FakeEngine())
    ran = CliRunner().invoke(app, ["a prompt", "--json", *options])
    assert isinstance(ran.exception, Seen), ran.output
    (prompts, params) = ran.exception.args
    assert prompts == ["a prompt"]
    return params


@pytest.mark.filterwarnings("ignore:.* changes nothing")
@pytest.mark.parametrize("name", GIVEN)
def test_an_option_is_the_parameter_of_its_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value, expected = GIVEN[name]
    values = value if isinstance(value, list) else [value]
    options = [part for one in values for part in ([name] if one is None else [name, str(one)])]
    assert parameters(monkeypatch, *options, *NEEDED.get(name, [])) == SamplingParams(**{"seed": 0, **expected})


@pytest.mark.filterwarnings("ignore:.* changes nothing")
def test_no_parameter_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    reached = {field for _, expected in GIVEN.values() for field in expected}
    assert reached | NOT_TYPED == {field.name for field in fields(SamplingParams)}
    assert parameters(monkeypatch) == SamplingParams(seed=0)
    assert parameters(monkeypatch, "--early-stopping", "never").early_stopping == "never"


def test_beams_and_logprobs_are_printed() -> None:
    small = ["In the beginning", "--device", "cpu", "--max-new-tokens", "5", "--num-beams", "3", "--num-samples", "2"]
    made = json.loads(CliRunner().invoke(app, [*small, "--logprobs", "1", "--json"]).stdout.splitlines()[-1])["outputs"]
    assert [row["sample"] for row in made] == [0, 1]
    assert made[0]["score"] >= made[1]["score"]
    for row in made:
        assert row["score"] == pytest.approx(row["cumulative_logprob"] / len(row["token_ids"]), abs=1e-4)
    plain = CliRunner().invoke(app, [*small, "--logprobs", "1"])
    assert plain.exit_code == 0, plain.output
    for row in made:
        assert f"In the beginning{row['text']}\n" in plain.stdout
        assert f"{row['cumulative_logprob']:9.3f}  together" in plain.stdout
        assert all(f"{item['logprob']:9.3f}  " in plain.stdout for item in row["logprobs"])


def test_a_draft_changes_no_token_and_its_share_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from labkit.engine.schedule.draft_length import DraftLength

    monkeypatch.setattr(DraftLength, "choose", lambda self, sequences: 2)
    monkeypatch.setattr(DraftLength, "may_read", lambda self, *given: True)
    small = ["In the beginning", "--device", "cpu", "--max-new-tokens", "9"]
    plain = json.loads(CliRunner().invoke(app, [*small, "--json"]).stdout.splitlines()[-1])
    ran = CliRunner().invoke(app, [*small, "--draft", "gptj-tiny", "--json"])
    drafted = json.loads(ran.stdout.splitlines()[-1])
    assert drafted["outputs"] == plain["outputs"]
    assert "tokens_guessed" not in plain
    assert drafted["guesses_right"] == drafted["tokens_guessed"] > 3
    assert f"[{drafted['guesses_right']} of {drafted['tokens_guessed']} guessed tokens were right (100%)]" in ran.stderr
    monkeypatch.setattr(DraftLength, "choose", lambda self, sequences: 0)
    assert "[nothing was guessed" in CliRunner().invoke(app, [*small, "--draft", "gptj-tiny"]).stderr
