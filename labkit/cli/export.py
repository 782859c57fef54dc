"""`labkit export`: writes a GPT-J as graphs in ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labkit.cli.output import JsonOption, SeedOption, print_json, say, whole_numbers
from labkit.plurals import counted

if TYPE_CHECKING:
    from labkit.graphs.levels import LevelFound


def export(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A model's name or directory, or a config.json.")],
    out: Annotated[Path, typer.Option(help="The folder to write; it must not exist yet.")],
    parts: Annotated[int, typer.Option(help="The number of pipeline parts, each a graph of its own.")] = 1,
    precision: Annotated[str, typer.Option(help="fp32 or fp16.")] = "fp32",
    opset: Annotated[int, typer.Option(help="The version of ONNX's operator set, 18 to 23.")] = 20,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Compare the result, in ONNX Runtime, with the engine.")
    ] = True,
    levels: Annotated[
        bool,
        typer.Option(
            "--levels", help="Print which operations ONNX Runtime fuses at each optimisation level, its kernels and bytes."
        ),
    ] = False,
    repository: Annotated[
        Path | None, typer.Option(help="Also write a model repository for Triton: the parts, and an ensemble of them.")
    ] = None,
    platform: Annotated[
        str,
        typer.Option(
            help="How Triton runs a part: python (ONNX Runtime in the Python backend), onnxruntime_onnx or tensorrt_plan."
        ),
    ] = "python",
    gpus: Annotated[str, typer.Option(help="Triton: the GPU of each part, such as 0,1; the CPU if left out.")] = "",
    instances: Annotated[int, typer.Option(help="Triton: copies of each part.")] = 1,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Write a GPT-J with its KV cache to ONNX, whole or cut into parts, each with its weights in a file beside it.

    The number of sequences, of new tokens and of cached tokens can vary. The hidden state goes from one part to the next,
    under the names hidden_1, hidden_2 and so on. The result is compared with the engine: in fp32, the logits must agree to a
    relative error of 1e-5, and greedy generation must choose the same tokens. The comparison needs memory for both models;
    leave it out (--no-check) if the model does not fit into memory twice. With --repository, the parts are also written as
    Triton models, which `labkit serve DIR` serves.

    Example: labkit export gptj-tiny --parts 2 --out gptj-tiny-onnx
    """
    from labkit.graphs.export import export as run
    from labkit.graphs.levels import compare_levels
    from labkit.graphs.packages import graph_package
    from labkit.graphs.verify import verify
    from labkit.serving.repository.graph_models import GraphServing, write_graph_repository

    if check or levels:
        graph_package("onnxruntime")
    numbers = whole_numbers(gpus, "--gpus") if gpus else ()
    serving = GraphServing(platform=platform, gpus=numbers, instances=instances)
    serving.check(parts)
    exported = run(
        source,
        out,
        parts=parts,
        precision=precision,
        opset=opset,
        seed=seed,
        progress=lambda done, total, name: say(f"[{done}/{total}] {name}"),
    )
    say(f"{counted(len(exported.parts), 'part')}, {exported.byte_count / 1e6:,.1f} MB, opset {exported.opset}")
    found = verify(exported, source, seed=seed) if check else None
    if found:
        tokens = "the same greedy tokens" if found.same_tokens else "different greedy tokens"
        say(f"ONNX Runtime against the engine in fp32: relative error {found.relative_error:.1e}, {tokens}")
    found_levels = compare_levels(exported) if levels else []
    if found_levels:
        print_levels(found_levels)
    if repository:
        say(f"model repository: {', '.join(write_graph_repository(repository, exported, serving))} in {repository}")
    if json:
        described = [
            {
                "path": str(part.path),
                "inputs": [vars(tensor) for tensor in part.tensors.inputs],
                "outputs": [vars(tensor) for tensor in part.tensors.outputs],
            }
            for part in exported.parts
        ]
        kept = [asdict(level) for level in found_levels]
        print_json({"path": str(exported.path), "parts": described, "check": vars(found) if found else None, "levels": kept})
    else:
        print(exported.path)


def print_levels(levels: Sequence[LevelFound]) -> None:
    """Print a line for each optimization level, the operations fused at the highest level, and the lecture's optimizations."""
    from labkit.graphs.lecture_list import lecture_list

    for level in levels:
        moved, weights = level.work.moved_bytes / 1e6, level.work.weight_bytes / 1e6
        print(
            f"level {level.level}: {level.work.kernels} kernels in a decode step, which move {moved:.2f} MB: {weights:.2f} MB "
            f"of weights and {moved - weights:.2f} MB of other tensors"
        )
    for one in levels[-1].fusions:
        print(f"{one.count} x {one.kind} in place of {' '.join(one.replaced)}")
    for item in lecture_list(levels[0], levels[-1]):
        into = f" ({', '.join(item.into)})" if item.into else ""
        print(f"{item.what}: {item.done} of {item.places}{into}")
