"""`labkit convert`: writes a checkpoint in the format of another system."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labkit.cli.output import JsonOption, SeedOption, print_json, say
from labkit.plurals import counted


def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A model's name, or a checkpoint in any of the formats below.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The folder to write; it must not exist yet.")],
    format: Annotated[str, typer.Option("--format", help="hf, fastertransformer or megatron.")],
    tensor_parallel: Annotated[int, typer.Option(help="The number of ranks that share each layer.")] = 1,
    pipeline_parallel: Annotated[int, typer.Option(help="The number of stages that the layers are split into (megatron).")] = 1,
    precision: Annotated[
        str | None,
        typer.Option(help="fp32, fp16 or bf16; if left out, the precision of the source (for fastertransformer: fp32)."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing checkpoint at DST.")] = False,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Write the weights of a GPT-J in the format of Hugging Face (hf), FasterTransformer or Megatron-LM.

    SRC can be in any of these formats, or a NeMo checkpoint (.nemo or unpacked). With the format fastertransformer, the files
    are written to DST/N-gpu, where N is the tensor parallel size. The folder DST appears only when the checkpoint is complete.
    A checkpoint that contains code is refused, and its code is not run.

    Checkpoints of Megatron-LM and NeMo can be converted only if the model is a GPT-J. A model with learned positions, a tied
    head, a sequential residual with two layer norms (as in Megatron's usual GPT) or biases in attention is refused, and the
    message says what differs. A checkpoint in the megatron format has Megatron's files and names, but Megatron's own GPT cannot
    run it, because the layers are those of a GPT-J.

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
    say(f"{counted(result.files, 'file')}, {result.bytes / 1e6:,.1f} MB")
    if json:
        print_json({"path": str(result.path), "files": result.files, "bytes": result.bytes})
    else:
        print(result.path)
