"""`labkit convert`: a checkpoint in another system's form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labkit.cli.output import JsonOption, SeedOption, print_json, say


def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A model's name, or a checkpoint in any form named below.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The folder to write; it may not be there yet.")],
    format: Annotated[str, typer.Option("--format", help="hf, fastertransformer or megatron.")],
    tensor_parallel: Annotated[int, typer.Option(help="Ranks that each layer is split over.")] = 1,
    pipeline_parallel: Annotated[int, typer.Option(help="Ranks that the layers are dealt to (megatron).")] = 1,
    precision: Annotated[
        str | None, typer.Option(help="fp32, fp16 or bf16; the source's when left out (fastertransformer: fp32).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a checkpoint that is at DST.")] = False,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Write a GPT-J's weights in Hugging Face's (hf), FasterTransformer's or Megatron-LM's form.

    SRC may be in any of these, or a NeMo checkpoint (.nemo or unpacked). FasterTransformer's form goes to DST/N-gpu, N being
    the tensor parallel size. DST gets its name when it is whole. A checkpoint with code in it is refused, and none is run.

    Of Megatron-LM and NeMo only GPT-J models map: not learned positions, not a tied head, not a sequential residual with
    two layer norms (Megatron's usual GPT), not biases in attention. Such a checkpoint is refused, with what differs. What
    is written for megatron has Megatron's files and names, but a GPT-J's layers, which Megatron's own GPT does not compute.

    Example: labkit convert gptj-tiny converted --format fastertransformer --tensor-parallel 2
    """
    from labkit.checkpoints import convert as convert_checkpoint

    def progress(done: int, total: int, name: str) -> None:
        if done == total or done * 10 // total != (done - 1) * 10 // total:
            say(f"[{done}/{total}] {name}")

    result = convert_checkpoint(
        source,
        target,
        format,
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
        precision=precision,
        force=force,
        seed=seed,
        progress=progress,
    )
    say(f"{result.files} files, {result.bytes / 1e6:,.1f} MB")
    if json:
        print_json({"path": str(result.path), "files": result.files, "bytes": result.bytes})
    else:
        print(result.path)
