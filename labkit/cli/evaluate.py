"""`labkit evaluate`: measures how well a model predicts a text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labkit.cli.output import DeviceOption, JsonOption, KVCacheOption, ModelOption, PrecisionOption, SeedOption, print_json
from labkit.errors import InvalidRequest


def evaluate(
    model: ModelOption = "gptj-tiny",
    text: Annotated[
        Path | None, typer.Option(help="A UTF-8 text file; if left out, the held-out sample that labkit ships.")
    ] = None,
    window: Annotated[int | None, typer.Option(help="Tokens per forward pass; the model's context if left out.")] = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    kv_cache_dtype: KVCacheOption = None,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Score a text: bits per byte with a 95 % interval, perplexity, and the number of predicted tokens.

    Example: labkit evaluate --text my_text.txt
    """
    from labkit.checkpoints.fetch import BUILT_IN
    from labkit.engine import evaluate as score
    from labkit.engine import load

    path = text or BUILT_IN["gptj-tiny"] / "held_out_sample.txt"
    try:
        content = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"cannot read {path} as UTF-8 text: {error}") from error
    engine = load(model, device=device, dtype=precision, seed=seed, kv_cache_dtype=kv_cache_dtype)
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
