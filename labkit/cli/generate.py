"""`labkit generate`: continues prompts in the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labkit.cli.output import DeviceOption, JsonOption, KVCacheOption, ModelOption, PrecisionOption, SeedOption, print_json, say
from labkit.cli.sampling_options import as_arguments, with_sampling_options
from labkit.errors import InvalidRequest

if TYPE_CHECKING:
    from labkit.engine import Completion, Engine, SamplingParams

ENDS = {"length": "reached max_new_tokens", "banned": "bad words and the minimum length leave no token to choose"}


@with_sampling_options
def generate(
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="One or more texts to continue.")],
    model: ModelOption = "gptj-tiny",
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    kv_cache_dtype: KVCacheOption = None,
    seed: SeedOption = 0,
    json: JsonOption = False,
    tensor_parallel: Annotated[
        int, typer.Option(help="The number of ranks that share each layer; they run on the CPU unless --device is cuda.")
    ] = 1,
    pipeline_parallel: Annotated[int, typer.Option(help="The number of pipeline stages; each stage has its own ranks.")] = 1,
    draft: Annotated[
        str | None,
        typer.Option(
            help="A smaller model with the same tokenizer, which guesses tokens. The text stays the same, and is "
            "often generated faster."
        ),
    ] = None,
    **sampling: Any,
) -> None:
    """Continue each prompt. The text of a single prompt is printed token by token as it is generated.

    Example: labkit generate "In the beginning" --temperature 0.8 --top-p 0.95 --max-new-tokens 80
    """
    from labkit.engine import SamplingParams, load

    params = SamplingParams(seed=seed, **as_arguments(sampling))
    if (tensor_parallel, pipeline_parallel) == (1, 1):
        engine = load(model, device=device, dtype=precision, seed=seed, draft=draft, kv_cache_dtype=kv_cache_dtype)
    elif draft is not None:
        raise InvalidRequest(
            f"--draft {draft} with {tensor_parallel * pipeline_parallel} ranks; a draft model only works in one process, so "
            "leave out --draft, or --tensor-parallel and --pipeline-parallel"
        )
    else:
        engine = _load_parallel(model, device, precision, seed, tensor_parallel, pipeline_parallel, kv_cache_dtype)
    with engine:
        _generate(engine, prompts, params, json=json, drafts=draft is not None)
        if draft is not None:
            say(f"[{_acceptance(engine)}]")


def _load_parallel(
    model: str, device: str | None, precision: str | None, seed: int, shards: int, stages: int, kv_cache_dtype: str | None
) -> Engine:
    from labkit.parallel import Layout, load_parallel

    layout = Layout(shards, stages)
    return load_parallel(model, layout, device=device, dtype=precision, seed=seed, kv_cache_dtype=kv_cache_dtype)


def _acceptance(engine: Engine) -> str:
    """Say in words how many of the tokens that the draft model guessed were right."""
    stats = engine.stats
    if stats.acceptance is None:
        return "nothing was guessed: the draft could not save time with so few tokens"
    return f"{stats.guesses_right} of {stats.tokens_guessed} guessed tokens were right ({stats.acceptance:.0%})"


def _generate(engine: Engine, prompts: list[str], params: SamplingParams, *, json: bool, drafts: bool) -> None:
    if len(prompts) == 1 and params.num_samples == 1 and params.logprobs is None and not json:
        _stream(engine, prompts[0], params)
        return
    outputs = engine.generate(prompts, params)
    if json:
        found: dict[str, Any] = {"outputs": [_row(c, o.prompt, n) for o in outputs for n, c in enumerate(o.completions)]}
        if drafts:
            found |= {"tokens_guessed": engine.stats.tokens_guessed, "guesses_right": engine.stats.guesses_right}
        print_json(found)
        return
    for output in outputs:
        for completion in output.completions:
            print(f"{output.prompt}{completion.text}\n")
            _print_logprobs(engine, completion)


def _stream(engine: Engine, prompt: str, params: SamplingParams) -> None:
    reason, before = None, prompt
    # Write nothing before the first event arrives, because the engine may still refuse the request.
    for event in engine.stream(prompt, params):
        sys.stdout.write(before + event.text)
        before = ""
        sys.stdout.flush()
        reason = event.finish_reason or reason
    sys.stdout.write("\n")
    say(f"[{ENDS.get(reason or '', 'the text ended')}]")


def _print_logprobs(engine: Engine, completion: Completion) -> None:
    """Print one line per token: its text and its log-probability, then the likeliest tokens and their log-probabilities."""
    for item in completion.logprobs or ():
        top = ", ".join(f"{logprob:.3f} {_text(engine, token)}" for token, logprob in item.top)
        print(f"{item.logprob:9.3f}  {_text(engine, item.token_id):16}" + (f"  of {top}" if top else ""))
    if completion.logprobs:
        print(f"{completion.cumulative_logprob:9.3f}  together\n")


def _text(engine: Engine, token: int) -> str:
    return repr(engine.tokenizer.token_bytes(token).decode("utf-8", "replace")) if engine.tokenizer else str(token)


def _row(completion: Completion, prompt: str | None, sample: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "prompt": prompt,
        "sample": sample,
        "text": completion.text,
        "token_ids": completion.token_ids,
        "finish_reason": completion.finish_reason,
        "stop_reason": completion.stop_reason,
    }
    if completion.score is not None:
        row["score"] = completion.score
    if completion.logprobs is not None:
        row["cumulative_logprob"] = completion.cumulative_logprob
        row["logprobs"] = [
            {"token_id": item.token_id, "logprob": item.logprob, "top": [list(pair) for pair in item.top]}
            for item in completion.logprobs
        ]
    return row
