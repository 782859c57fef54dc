"""`labkit evaluate`: measures how well a model predicts a text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labkit.cli.output import DeviceOption, JsonOption, KVCacheOption, ModelOption, PrecisionOption, SeedOption, print_json
from labkit.errors import InvalidRequest

if TYPE_CHECKING:
    from labkit.engine import Estimate, Quality


def evaluate(
    model: ModelOption = "gptj-tiny",
    text: Annotated[
        Path | None, typer.Option(help="A UTF-8 text file; if left out, the held-out sample that labkit ships.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="A reference model, which runs in fp32; prints how far the model is from this reference.")
    ] = None,
    window: Annotated[int | None, typer.Option(help="Tokens per forward pass; the model's context if left out.")] = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    kv_cache_dtype: KVCacheOption = None,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Score a text: bits per byte with a 95 % interval, perplexity, and the number of predicted tokens.

    With --against, also compare the model with a reference, such as a quantized model with the model that it was made from: the
    change of the perplexity, the Kullback-Leibler divergence, and how often the same token is the likeliest for both models.

    Example: labkit evaluate --text my_text.txt

    Example: labkit evaluate --model gptj-tiny-int4 --against gptj-tiny
    """
    from labkit.checkpoints.fetch import BUILT_IN
    from labkit.engine import compare, load
    from labkit.engine import evaluate as score

    path = text or BUILT_IN["gptj-tiny"] / "held_out_sample.txt"
    try:
        content = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"cannot read {path} as UTF-8 text: {error}") from error
    engine = load(model, device=device, dtype=precision, seed=seed, kv_cache_dtype=kv_cache_dtype)
    if against is not None:
        with load(against, device=device, dtype="fp32", seed=seed) as reference:
            quality = compare(engine, reference.logits, content, window=window, seed=seed)
        print(f"{model} against {against} in fp32, {quality.tokens:,} tokens of {path.name}")
        print(table(quality))
        if json:
            print_json({"model": model, "against": against, **quality.to_dict()})
        return
    result = score(engine, content, window=window, seed=seed)
    interval = "no interval: the text is one window"
    if result.interval is not None:
        low, high = result.interval
        interval = f"95 % interval {low:.4f} to {high:.4f}"
    print(
        f"{result.bits_per_byte:.4f} bits per byte ({interval}), perplexity "
        f"{result.perplexity:.2f} over {result.tokens:,} tokens of {path.name}"
    )
    if json:
        print_json(
            {
                "bits_per_byte": result.bits_per_byte,
                "perplexity": result.perplexity,
                "tokens": result.tokens,
                "interval": None if result.interval is None else list(result.interval),
            }
        )


def table(quality: Quality) -> str:
    """Format the five measures of quality as text, one per line, each with its 95 % interval."""
    rows: list[tuple[str, Estimate, str, str]] = [
        ("bits per byte", quality.bits_per_byte, ".4f", ""),
        ("perplexity", quality.perplexity, ".3f", ""),
        ("change of perplexity", quality.change, "+.3f", " %"),
        ("KL divergence", quality.kl, ".5f", " nats per token"),
        ("same greedy token", quality.agreement, ".2%", ""),
    ]
    return "\n".join(f"  {name:<21} {_said(found, form, unit)}" for name, found, form, unit in rows)


def _said(found: Estimate, form: str, unit: str) -> str:
    value = f"{found.value:{form}}{unit}"
    if found.low is None or found.high is None:
        return f"{value:<22} no interval: the text is one window"
    return f"{value:<22} 95 % interval {found.low:{form}} to {found.high:{form}}"
