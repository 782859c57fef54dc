"""`labkit generate`: continue prompts in the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labkit.cli.output import DeviceOption, JsonOption, ModelOption, PrecisionOption, SeedOption, print_json, say

if TYPE_CHECKING:
    from labkit.engine import Completion, Engine, SamplingParams


def generate(
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="One or more texts to continue.")],
    model: ModelOption = "gptj-tiny",
    max_new_tokens: Annotated[int | None, typer.Option(help="New tokens at most; 64, or what fits, when left out.")] = None,
    min_new_tokens: Annotated[int, typer.Option(help="New tokens at least.")] = 0,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Keep the k likeliest tokens; 0 keeps all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens that together reach p.")] = 1.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1 discourages tokens already there.")] = 1.0,
    presence_penalty: Annotated[float, typer.Option(help="Subtracted from logits of tokens already written.")] = 0.0,
    stop: Annotated[list[str] | None, typer.Option(help="End the text before this string (repeatable).")] = None,
    num_samples: Annotated[int, typer.Option(help="Continuations a prompt (needs a temperature).")] = 1,
    logprobs: Annotated[int | None, typer.Option(help="Log-probabilities of chosen and of so many likeliest tokens.")] = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Continue each prompt; one prompt is written out token by token as it is made.

    Example: labkit generate "In the beginning" --temperature 0.8 --top-p 0.95 --max-new-tokens 80
    """
    from labkit.engine import SamplingParams, load

    params = SamplingParams(
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        stop=tuple(stop or ()),
        num_samples=num_samples,
        logprobs=logprobs,
        seed=seed,
    )
    engine = load(model, device=device, dtype=precision, seed=seed)
    if len(prompts) == 1 and num_samples == 1 and not json:
        _stream(engine, prompts[0], params)
        return
    outputs = engine.generate(prompts, params)
    if json:
        print_json({"outputs": [_row(c, o.prompt, n) for o in outputs for n, c in enumerate(o.completions)]})
        return
    for output in outputs:
        for completion in output.completions:
            print(f"{output.prompt}{completion.text}\n")


def _stream(engine: Engine, prompt: str, params: SamplingParams) -> None:
    reason, before = None, prompt
    for event in engine.stream(prompt, params):  # nothing is written before the first event: the request may be refused
        sys.stdout.write(before + event.text)
        before = ""
        sys.stdout.flush()
        reason = event.finish_reason or reason
    sys.stdout.write("\n")
    say(f"[{'reached max_new_tokens' if reason == 'length' else 'the text ended'}]")


def _row(completion: Completion, prompt: str | None, sample: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "prompt": prompt,
        "sample": sample,
        "text": completion.text,
        "token_ids": completion.token_ids,
        "finish_reason": completion.finish_reason,
        "stop_reason": completion.stop_reason,
    }
    if completion.logprobs is not None:
        row["cumulative_logprob"] = completion.cumulative_logprob
        row["logprobs"] = [
            {"token_id": item.token_id, "logprob": item.logprob, "top": [list(pair) for pair in item.top]}
            for item in completion.logprobs
        ]
    return row
