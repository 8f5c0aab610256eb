"""`benchmark`: what was measured, as a table and as JSON."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from virnucpro.commands.options import Compile, Precision, one_of
from virnucpro.errors import UsageError

ModelShape = one_of("ModelShape", ("3B", "650M", "mini", "tiny"))
SequenceLengths = one_of("SequenceLengths", ("500bp", "reads", "mix"))
Rival = one_of("Rival", ("original",))


def benchmark(
    model_shape: Annotated[
        ModelShape, typer.Option("--model-shape", help="Random weights of this shape.")
    ] = ModelShape("3B"),
    lengths: Annotated[
        SequenceLengths, typer.Option("--lengths", help="Of the random sequences.")
    ] = SequenceLengths("500bp"),
    precision: Annotated[
        Precision, typer.Option("--precision", metavar="TYPE", help="As for predict.")
    ] = Precision.auto,
    compile: Annotated[Compile, typer.Option("--compile", help="As for predict.")] = Compile.auto,
    against: Annotated[
        Rival | None,
        typer.Option(
            "--against",
            help="Run fair-esm in fp32 at 2,048 tokens a batch beside it.",
            show_default=False,
        ),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option("--frames", min=1, help="Sequences of the whole run.", show_default=False),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size", min=512, metavar="TOKENS", show_default=False, help="Tokens in a batch."
        ),
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Measure the CPU, GPU or not.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Also as JSON.", show_default=False),
    ] = None,
) -> None:
    """Measure this machine. The matrix-product ceiling, each encoder, and a whole run."""
    run_benchmark_command(
        output,
        model_shape=model_shape.value,
        lengths=lengths.value,
        precision=precision.value,
        compile=compile.value,
        against=against.value if against else None,
        frames=frames,
        batch_tokens=batch_size,
        cpu=cpu,
    )


def run_benchmark_command(output: Path | None, **options: Any) -> None:
    """Choices and steps to standard error as they come, the table to standard output."""
    from virnucpro.tools.benchmark import BenchmarkSettings, closing_lines, run_benchmark, table

    # before minutes of work, not after
    if output is not None and (output.is_dir() or not os.access(output.parent, os.W_OK)):
        raise UsageError(f"--output {output}: cannot be written; choose another")
    result = run_benchmark(
        BenchmarkSettings(**options), lambda line: print(line, file=sys.stderr, flush=True)
    )
    rows = table(result)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for name, *cells in rows:
        print(
            name.ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)),
            sep="  ",
        )
    for line in closing_lines(result):
        print(line)
    if output is not None:
        output.write_text(json.dumps(result, indent=1) + "\n")
