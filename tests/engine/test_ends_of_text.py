"""End-of-text tokens: a directory's two configs can name one, several, none or impossible ones, with the same effect as in
transformers.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import transformers

import labkit
from labkit import SamplingParams
from labkit.checkpoints import config_of, convert, open_checkpoint
from labkit.config import GPTJConfig
from labkit.errors import InvalidRequest
from labkit.serving.repository.writer import ServeSettings, write_repository
from tests.models import peer_greedy, random_peer, random_prompts

SHAPE = "rotary below the head"
VOCAB = 211
ENDS = [0, 148, 17, 59]
PROMPTS = random_prompts(VOCAB, [1, 5, 9, 3], 4)
NEW_TOKENS = 18


def folder_with(source: Path, target: Path, config: dict[str, Any], generation: dict[str, Any] | None) -> Path:
    """Copy a model and change its config. The copy has `generation` as its `generation_config.json`, or no such file."""
    shutil.copytree(source, target)
    values = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(values | config))
    (target / "generation_config.json").unlink(missing_ok=True)
    if generation is not None:
        (target / "generation_config.json").write_text(json.dumps(generation))
    return target


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose texts contain several of `ENDS`."""
    peer = random_peer(SHAPE, 1)
    peer.lm_head.bias.data[ENDS] += 2.0
    folder = tmp_path_factory.mktemp("source") / "model"
    peer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def several(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, labkit.Engine, Path]:
    """The model in transformers and in labkit, with `ENDS` in its config."""
    folder = folder_with(source, tmp_path_factory.mktemp("several") / "model", {"eos_token_id": ENDS}, None)
    engine = labkit.load(folder, device="cpu", num_slots=2048)
    return transformers.GPTJForCausalLM.from_pretrained(folder).eval(), engine, folder


@pytest.mark.parametrize("options", [{}, {"min_new_tokens": 9}], ids=["plain", "at least 9"])
def test_greedy_equals_transformers(several: tuple[Any, labkit.Engine, Path], options: dict[str, int]) -> None:
    peer, engine, _ = several
    outputs = engine.generate(PROMPTS, SamplingParams(max_new_tokens=NEW_TOKENS, **options))  # type: ignore[arg-type]
    made = [output.token_ids for output in outputs]
    assert made == [peer_greedy(peer, prompt, NEW_TOKENS, **options) for prompt in PROMPTS]
    assert len({tokens[-1] for tokens in made} & set(ENDS)) >= 2, "one end of text alone was met"
    assert all(output.finish_reason == "stop" for output in outputs if output.token_ids[-1] in ENDS)
    if options:
        assert not any(set(tokens[:9]) & set(ENDS) for tokens in made)


def test_beams_equal_transformers(several: tuple[Any, labkit.Engine, Path]) -> None:
    peer, engine, _ = several
    for beams, early in ((2, False), (3, True), (4, False)):
        params = SamplingParams(max_new_tokens=12, num_beams=beams, early_stopping=early, num_samples=beams)
        for prompt in PROMPTS:
            expected = [
                [token for token in row if token >= 0]
                for row in peer.generate(
                    transformers.BatchEncoding({"input_ids": [prompt]}, tensor_type="pt")["input_ids"],
                    max_new_tokens=12,
                    num_beams=beams,
                    early_stopping=early,
                    num_return_sequences=beams,
                    do_sample=False,
                    pad_token_id=-1,
                )[:, len(prompt) :].tolist()
            ]
            found = [completion.token_ids for completion in engine.generate([prompt], params)[0].completions]
            assert found == expected


def test_ignored_they_all_are_text(several: tuple[Any, labkit.Engine, Path]) -> None:
    peer, engine, _ = several
    outputs = engine.generate(PROMPTS, SamplingParams(max_new_tokens=NEW_TOKENS, ignore_eos=True))
    assert [output.token_ids for output in outputs] == [
        peer_greedy(peer, prompt, NEW_TOKENS, eos_token_id=None) for prompt in PROMPTS
    ]
    assert len({token for output in outputs for token in output.token_ids} & set(ENDS)) >= 2


def test_guessed_tokens_and_a_single_end(several: tuple[Any, labkit.Engine, Path]) -> None:
    """Speculation changes no token; `end_token_id` replaces all ends of text of the model."""
    peer, engine, _ = several
    plain = [output.token_ids for output in engine.generate(PROMPTS, SamplingParams(max_new_tokens=NEW_TOKENS))]
    guessed = engine.generate(PROMPTS, SamplingParams(max_new_tokens=NEW_TOKENS, speculate=4))
    assert [output.token_ids for output in guessed] == plain
    one = engine.generate(PROMPTS, SamplingParams(max_new_tokens=NEW_TOKENS, end_token_id=ENDS[1]))
    assert [o.token_ids for o in one] == [peer_greedy(peer, p, NEW_TOKENS, eos_token_id=ENDS[1]) for p in PROMPTS]


def test_every_form_keeps_them(several: tuple[Any, labkit.Engine, Path], tmp_path: Path) -> None:
    """The model is converted from format to format, and each converted model has the same end-of-text tokens."""
    folder, last = several[2], several[2]
    for form in ("fastertransformer", "megatron", "hf"):
        last = convert(last, tmp_path / form, form).path
        assert config_of(last) == config_of(folder) == open_checkpoint(last).config
        assert config_of(last).end_token_ids == tuple(ENDS)
    assert json.loads((last / "config.json").read_text())["eos_token_id"] == ENDS
    ini = next((tmp_path / "fastertransformer").rglob("config.ini")).read_text()
    assert "end_id = 0\n" in ini, "FasterTransformer itself accepts only one end"


def test_a_served_model_has_them(several: tuple[Any, labkit.Engine, Path], tmp_path: Path) -> None:
    """Outputs are padded with one token. The engine that the server starts reads the model's own list of end tokens."""
    write_repository(tmp_path, ServeSettings(model=str(several[2])))
    text = (tmp_path / "fastertransformer" / "config.pbtxt").read_text()
    assert 'key: "end_token_id"' in text
    assert text.split('key: "end_token_id"')[1].split('string_value: "')[1].startswith('0"')


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        ({"eos_token_id": 148}, {"eos_token_id": [17, 59]}, (17, 59)),
        ({"eos_token_id": [148]}, {"bos_token_id": 5}, (148,)),
        ({"eos_token_id": None}, {"eos_token_id": 0}, (0,)),
        ({"eos_token_id": None}, None, ()),
        ({"eos_token_id": []}, None, ()),
        ({"eos_token_id": [5, 5, 7]}, None, (5, 7)),
    ],
)
def test_where_they_come_from(
    source: Path, tmp_path: Path, config: dict[str, Any], generation: dict[str, Any] | None, expected: tuple[int, ...]
) -> None:
    folder = folder_with(source, tmp_path / "model", config, generation)
    assert open_checkpoint(folder).config.end_token_ids == config_of(folder).end_token_ids == expected


def test_a_generation_config_counts_as_in_transformers(source: Path, tmp_path: Path) -> None:
    folder = folder_with(source, tmp_path / "model", {"eos_token_id": 1}, {"eos_token_id": ENDS})
    peer = transformers.GPTJForCausalLM.from_pretrained(folder).eval()
    engine = labkit.load(folder, device="cpu", num_slots=512)
    made = [output.token_ids for output in engine.generate(PROMPTS, SamplingParams(max_new_tokens=NEW_TOKENS))]
    assert made == [peer_greedy(peer, prompt, NEW_TOKENS) for prompt in PROMPTS]
    written = convert(folder, tmp_path / "again", "hf").path
    assert (written / "generation_config.json").read_bytes() == (folder / "generation_config.json").read_bytes()


def test_what_is_not_taken_from_a_generation_config_is_named(source: Path, tmp_path: Path) -> None:
    settings = {"eos_token_id": 0, "do_sample": True, "temperature": 0.7, "top_k": 50, "max_length": 20, "suppress_tokens": [3]}
    folder = folder_with(source, tmp_path / "model", {}, settings)
    with pytest.warns(
        UserWarning, match=r"sets temperature 0\.7, do_sample True, suppress_tokens \[3\]; labkit only uses its end"
    ):
        assert config_of(folder).end_token_ids == (0,)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"eos_token_id": "x"}', '{"eos_token_id": [1.5]}', '{"eos_token_id": true}'])
def test_a_generation_config_that_is_none(source: Path, tmp_path: Path, text: str) -> None:
    folder = folder_with(source, tmp_path / "model", {}, {})
    (folder / "generation_config.json").write_text(text)
    with pytest.raises(InvalidRequest, match=r"cannot read .*generation_config\.json as a generation config: "):
        labkit.load(folder, device="cpu")


@pytest.mark.parametrize("ends", [50256, [50256, -1], -1, 211, [2**70]])
def test_ends_outside_of_the_vocabulary_never_match(source: Path, tmp_path: Path, ends: Any) -> None:
    """`transformers.GPTJConfig(vocab_size=1000)` writes such ids. They are never used as an index, and they end no text."""
    folder = folder_with(source, tmp_path / "model", {"eos_token_id": ends, "bos_token_id": 50256}, None)
    with pytest.warns(UserWarning, match="is outside the vocabulary of 211 tokens; the model never"):
        engine = labkit.load(folder, device="cpu", num_slots=512)
    assert (engine.config.eos_token_id, engine.config.bos_token_id) == (None, None)
    peer = transformers.GPTJForCausalLM.from_pretrained(folder).eval()
    plain = {"repetition_penalty": 1.3}
    params = [SamplingParams(max_new_tokens=8, **plain), SamplingParams(max_new_tokens=8, min_new_tokens=5)]
    params += [
        SamplingParams(max_new_tokens=8, bad_words=[[5]]),
        SamplingParams(max_new_tokens=4, num_beams=2, min_new_tokens=2),
    ]
    outputs = engine.generate(PROMPTS, params)
    assert outputs[0].token_ids == peer_greedy(peer, PROMPTS[0], 8, eos_token_id=None, **plain)
    assert outputs[1].token_ids == peer_greedy(peer, PROMPTS[1], 8, eos_token_id=None)
    assert [len(output.token_ids) for output in outputs] == [8, 8, 8, 4]


def test_a_synthetic_config_of_another_vocabulary(tmp_path: Path) -> None:
    config = transformers.GPTJConfig(
        vocab_size=1000, n_embd=64, n_layer=1, n_head=2, rotary_dim=8, n_positions=64, bos_token_id=0
    )
    config.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="eos_token_id 50256 is outside the vocabulary of 1000"):
        engine = labkit.load(tmp_path / "config.json", device="cpu", num_slots=256)
    params = SamplingParams(max_new_tokens=6, presence_penalty=0.5, min_new_tokens=2, bad_words=[[3]])
    assert len(engine.generate([[1, 2]], params)[0].token_ids) == 6


@pytest.mark.parametrize("ends", ["50256", True, 1.0, [1, "2"], [[1]], {"a": 1}, [True], [None]])
def test_ends_that_are_no_token_ids(ends: Any) -> None:
    values = GPTJConfig(hidden_size=8, num_layers=1, num_heads=1, rotary_dim=4, context_length=8, vocab_size=9).to_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InvalidRequest, match=r"eos_token_id is .*; a token id, a list of token ids, or null is accepted"):
            GPTJConfig.from_dict(values | {"eos_token_id": ends})
        with pytest.raises(InvalidRequest, match=r"bos_token_id is .*; a token id or null is accepted"):
            GPTJConfig.from_dict(values | {"bos_token_id": ends})


def test_each_warning_comes_once(source: Path, tmp_path: Path) -> None:
    """The config is read several times while an engine is built, but each warning is printed once, on one line."""
    import subprocess
    import sys

    folder = folder_with(source, tmp_path / "model", {"eos_token_id": 50256}, {"temperature": 0.5})
    code = f"import labkit; labkit.load({str(folder)!r}, device='cpu', num_slots=64)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count("eos_token_id 50256 is outside the vocabulary") == 1
    assert done.stderr.count("sets temperature 0.5; labkit only uses its end tokens") == 1
