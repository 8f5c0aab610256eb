"""The command line: options to settings, errors to one line and an exit code. Only this module prints and exits.

Nothing heavy is imported before a command needs it: `virnucpro --help` must answer at once.
"""
from __future__ import annotations

import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from virnucpro import __version__
from virnucpro.errors import UsageError, VirNucProError, one_line
from virnucpro.training import commands as training

log = logging.getLogger("virnucpro")

UNEXPECTED = 1
INTERRUPTED, TERMINATED = 130, 143
SECONDS_FOR_THE_MAIN_PROCESS = 3.0
LIBRARY_USAGE_ERROR: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="virnucpro", no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False,
    help="Which of these nucleotide sequences are viral? Answers for every one, from a laptop to many GPUs.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)  # fmt: skip


class Precision(str, Enum):
    auto = "auto"
    bf16 = "bf16"
    fp16 = "fp16"
    fp32 = "fp32"
    int8 = "int8"


class Features(str, Enum):
    float32 = "float32"
    float16 = "float16"
    none = "none"


class Switch(str, Enum):
    auto = "auto"
    on = "on"
    off = "off"


class TableFormat(str, Enum):
    tsv = "tsv"
    parquet = "parquet"


class ModelType(str, Enum):
    m300 = "300"
    m500 = "500"
    custom = "custom"


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[bool, typer.Option("-V", "--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None: ...


INPUTS, MODEL, DEVICES, RUN, CALLS = "Input and output", "Model", "Devices and speed", "Unfinished work", "Calls"

MinScore = Annotated[float | None, typer.Option("--min-score", help="Score at or over which a sequence is virus (0.5).",
                                                   rich_help_panel=CALLS)]
Conservative = Annotated[bool, typer.Option("--conservative", help="Virus from 0.8: fewer, surer.", rich_help_panel=CALLS)]
Relaxed = Annotated[bool, typer.Option("--relaxed", help="Virus from 0.3: more, less sure.", rich_help_panel=CALLS)]
AllowShort = Annotated[bool, typer.Option("--allow-short", help="Call sequences shorter than half the model's length too.",
                                          rich_help_panel=CALLS)]
Prevalence = Annotated[float | None, typer.Option("--prevalence", help="Share of viral sequences you expect; fixes what FDR assumes.",
                                                     rich_help_panel=CALLS)]
Format = Annotated[TableFormat, typer.Option("--table-format", help="Of contigs, chunks and frames.", rich_help_panel=INPUTS)]
CacheDir = Annotated[Path | None, typer.Option("--cache-dir", help="Where tokenized frames are cached (HF_DATASETS_CACHE).",
                                                  rich_help_panel=RUN)]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress display.", rich_help_panel=RUN)]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Debug log, GPU memory every 10 s, tracebacks.", rich_help_panel=RUN)]


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def predict(
    inputs: Annotated[list[str] | None, typer.Argument(
        metavar="[INPUT ...]", show_default=False,
        help="FASTA or FASTQ, also gz, bz2, xz, zst; a directory of such; - for standard input.")] = None,
    more_inputs: Annotated[list[str] | None, typer.Option("-i", "--input", help="The same, repeatable.", rich_help_panel=INPUTS)] = None,
    output_dir: Annotated[Path | None, typer.Option("-o", "--output-dir", help="Default: {first input}_virnucpro.",
                                                       rich_help_panel=INPUTS)] = None,
    table_format: Format = TableFormat.tsv,
    features: Annotated[Features, typer.Option("--features", rich_help_panel=INPUTS,
                                                    help="What merged_features.pt keeps.")] = Features.float32,
    min_length: Annotated[int, typer.Option("--min-length", min=0, help="Skip shorter sequences (they are listed).",
                                            rich_help_panel=INPUTS)] = 0,
    model: Annotated[str | None, typer.Option("-m", "--model", help="500, 300, mini, or a bundle directory. Default: the best installed.",
                                                 rich_help_panel=MODEL)] = None,
    esm_model: Annotated[str | None, typer.Option("--esm-model", help="Replace ESM-2: hub id or directory.", rich_help_panel=MODEL)] = None,
    dna_model: Annotated[str | None, typer.Option("--dna-model", help="Replace DNABERT-S: hub id or directory.",
                                                     rich_help_panel=MODEL)] = None,
    classifier: Annotated[str | None, typer.Option("--classifier", help="Replace the classifier: .safetensors or .pth.",
                                                      rich_help_panel=MODEL)] = None,
    chunk_length: Annotated[int | None, typer.Option("--chunk-length", min=3, help="Default: the model's.", rich_help_panel=MODEL)] = None,
    gpus: Annotated[str | None, typer.Option("--gpus", help="all, none, or numbers such as 0,2.", rich_help_panel=DEVICES)] = None,
    num_processes: Annotated[int | None, typer.Option("--num-processes", help="Processes without GPUs.", rich_help_panel=DEVICES)] = None,
    precision: Annotated[Precision, typer.Option("--precision", help="Of the encoders.", rich_help_panel=DEVICES)] = Precision.auto,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, metavar="TOKENS", rich_help_panel=DEVICES,
                                                      help="Tokens in a batch; lower it when memory is short.")] = None,
    compile: Annotated[Switch, typer.Option("--compile", help="Compiled encoder layers.", rich_help_panel=DEVICES)] = Switch.auto,
    resume: Annotated[bool, typer.Option("--resume", help="Continue what is unfinished in the output directory, an older version's "
                                                          "too. The default when it is the same run.", rich_help_panel=RUN)] = False,
    force: Annotated[bool, typer.Option("--force", help="Start over.", rich_help_panel=RUN)] = False,
    checkpoint_dir: Annotated[Path | None, typer.Option("--checkpoint-dir", rich_help_panel=RUN, help="Keep unfinished work here, so "
                                                           "that a retry elsewhere finds it.")] = None,
    cache_dir: CacheDir = None,
    partial_ok: Annotated[bool, typer.Option("--partial-ok", help="Exit with 0 instead of 2 when some inputs failed.",
                                             rich_help_panel=RUN)] = False,
    min_score: MinScore = None,
    conservative: Conservative = False,
    relaxed: Relaxed = False,
    allow_short: AllowShort = False,
    prevalence: Prevalence = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    model_type: Annotated[ModelType | None, typer.Option("--model-type", hidden=True)] = None,
    model_path: Annotated[str | None, typer.Option("--model-path", hidden=True)] = None,
    expected_length: Annotated[int | None, typer.Option("--expected-length", hidden=True)] = None,
    no_progress: Annotated[bool, typer.Option("--no-progress", hidden=True)] = False,
    device: Annotated[str | None, typer.Option("--device", hidden=True)] = None,
    esm_batch_size: Annotated[int | None, typer.Option("--esm-batch-size", hidden=True)] = None,
    dnabert_batch_size: Annotated[int | None, typer.Option("--dnabert-batch-size", hidden=True)] = None,
    threads: Annotated[int | None, typer.Option("--threads", hidden=True)] = None,
    parallel: Annotated[bool, typer.Option("--parallel", hidden=True)] = False,
    persistent_models: Annotated[bool, typer.Option("--persistent-models", hidden=True)] = False,
    v1_fallback: Annotated[bool, typer.Option("--v1-fallback", hidden=True)] = False,
    v1_attention: Annotated[bool, typer.Option("--v1-attention", hidden=True)] = False,
) -> None:
    """Say for every sequence whether it is viral."""
    from virnucpro import api
    from virnucpro.commands.predict import as_today, run_predict

    old = {
        "--esm-batch-size": esm_batch_size, "--dnabert-batch-size": dnabert_batch_size, "--threads": threads, "--parallel": parallel,
        "--persistent-models": persistent_models, "--v1-fallback": v1_fallback, "--v1-attention": v1_attention,
    }  # fmt: skip
    options = api.Options(
        output_dir=output_dir, table_format=table_format.value, features=features.value, min_length=min_length, model=model,
        esm_model=esm_model, dna_model=dna_model, classifier=classifier, chunk_length=chunk_length, gpus=gpus,
        num_processes=num_processes, precision=precision.value, batch_size=batch_size, compile=compile.value, resume=resume,
        force=force, checkpoint_dir=checkpoint_dir, cache_dir=cache_dir, partial_ok=partial_ok, min_score=min_score,
        conservative=conservative, relaxed=relaxed, allow_short=allow_short, prevalence=prevalence, quiet=quiet or no_progress,
        verbose=verbose,
    )  # fmt: skip
    options = as_today(options, model_type.value if model_type else None, model_path, expected_length, device)
    raise typer.Exit(run_predict([*(inputs or []), *(more_inputs or [])], options, tuple(name for name, value in old.items() if value)))


@app.command()
def summarize(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Output directory of a finished predict.", show_default=False)],
    classifier: Annotated[Path | None, typer.Option("--classifier", help="Another classifier: .safetensors or .pth.")] = None,
    min_score: MinScore = None,
    conservative: Conservative = False,
    relaxed: Relaxed = False,
    allow_short: AllowShort = False,
    prevalence: Prevalence = None,
    table_format: Format = TableFormat.tsv,
    cache_dir: CacheDir = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Call again from stored features: other thresholds, another classifier. Nothing is embedded again."""
    from virnucpro.commands.predict import run_summarize

    raise typer.Exit(run_summarize(
        directory, classifier, quiet, verbose, min_score=min_score, conservative=conservative, relaxed=relaxed, allow_short=allow_short,
        prevalence=prevalence, table_format=table_format.value, cache_dir=cache_dir,
    ))  # fmt: skip


for command in (training.prepare, training.train, training.evaluate, training.calibrate):
    app.command()(command)

models = typer.Typer(no_args_is_help=True, help="List, download, import and verify models.")
app.add_typer(models, name="models")


@models.command("list")
def models_list() -> None:
    """What is installed, and where."""
    from virnucpro.commands.models import run_list

    raise typer.Exit(run_list())


@models.command("download")
def models_download(
    name: Annotated[str, typer.Argument(help="500 or 300.", show_default=False)],
    to: Annotated[Path | None, typer.Option("--to", metavar="DIR", help="Default: VIRNUCPRO_HOME, or ~/.cache/virnucpro.")] = None,
) -> None:
    """Fetch a published model (13 GB), checked and converted once; goes on where it was interrupted."""
    from virnucpro.commands.models import run_download

    raise typer.Exit(run_download(name, to))


@models.command("import")
def models_import(
    path: Annotated[Path, typer.Argument(help="The original's .pth, a .safetensors, or an encoder's directory.", show_default=False)],
    name: Annotated[str | None, typer.Option("--name", help="Of a classifier of your own; default: the file's.")] = None,
) -> None:
    """Take a model that was brought by other means; nothing in it is executed."""
    from virnucpro.commands.models import run_import

    raise typer.Exit(run_import(path, name))


@models.command("verify")
def models_verify(name: Annotated[str, typer.Argument(help="500, 300, or any installed bundle.", show_default=False)]) -> None:
    """Compare an installed model with the published figures on this machine, in every precision it has."""
    from virnucpro.commands.models import run_verify

    raise typer.Exit(run_verify(name))


@app.command()
def doctor(
    directory: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="Where results would go.", show_default=False)] = None,
) -> None:
    """Look this machine over: a verdict a line, and a fix where one is needed."""
    from virnucpro.commands.models import run_doctor

    raise typer.Exit(run_doctor(directory))


@app.command()
def citation(bibtex: Annotated[bool, typer.Option("--bibtex", help="As BibTeX.")] = False) -> None:
    """What to cite."""
    from virnucpro.commands.models import run_citation

    raise typer.Exit(run_citation(bibtex))


class ModelShape(str, Enum):
    b3 = "3B"
    m650 = "650M"
    mini = "mini"
    tiny = "tiny"


class SequenceLengths(str, Enum):
    bp500 = "500bp"
    reads = "reads"
    mix = "mix"


class Rival(str, Enum):
    original = "original"


@app.command()
def benchmark(
    model_shape: Annotated[ModelShape, typer.Option("--model-shape", help="Random weights of this shape.")] = ModelShape.b3,
    lengths: Annotated[SequenceLengths, typer.Option("--lengths", help="Of the random sequences.")] = SequenceLengths.bp500,
    precision: Annotated[Precision, typer.Option("--precision", help="As for predict.")] = Precision.auto,
    compile: Annotated[Switch, typer.Option("--compile", help="As for predict.")] = Switch.auto,
    against: Annotated[
        Rival | None, typer.Option("--against", help="Run fair-esm in fp32 at 2,048 tokens a batch beside it.", show_default=False)
    ] = None,
    frames: Annotated[int | None, typer.Option("--frames", min=1, help="Sequences of the whole run.", show_default=False)] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=512, metavar="TOKENS", show_default=False)] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Measure the CPU, GPU or not.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Also as JSON.", show_default=False)] = None,
) -> None:
    """Measure this machine: the matrix-product ceiling, each encoder, and a whole run."""
    from virnucpro.commands.benchmark import run_benchmark_command

    raise typer.Exit(run_benchmark_command(
        output, model_shape=model_shape.value, lengths=lengths.value, precision=precision.value, compile=compile.value,
        against=against.value if against else None, frames=frames, batch_tokens=batch_size, cpu=cpu))  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and end the process with its exit code."""
    signal.signal(signal.SIGTERM, _terminated)  # until a run takes signals over
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def _terminated(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)


def run(arguments: list[str]) -> int:
    """Run a command; the exit code. Every error a user can cause is one line on standard error."""
    from virnucpro.launch import leave_status, read_world, stopped

    verbose = "-v" in arguments or "--verbose" in arguments
    world, said = None, False
    try:
        world = read_world()
        command = typer.main.get_command(app)
        command.rich_markup_mode = None  # the list of commands needs no panels, and answers in half the time without rich
        code = command(arguments, standalone_mode=False)
        code = int(code) if isinstance(code, int) else 0
    except VirNucProError as error:
        code, said = error.exit_code, True
        _complain(error, verbose, world)
    except LIBRARY_USAGE_ERROR as error:
        code = UsageError.exit_code
        _complain(_explained(error), verbose, world)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        code = 1
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except Exception as error:
        code = UNEXPECTED
        what = f"unexpected {type(error).__name__}: {error}; run again with -v for details and report it"
        _complain(VirNucProError(what), verbose, world)
    if world is not None:
        if code in (INTERRUPTED, TERMINATED) and world.is_main and not world.self_launched and not said:
            print(f"virnucpro: error: {stopped(code - 128, '--force' in arguments)}", file=sys.stderr, flush=True)
        leave_status(code, world)
    return code


def _explained(error: Any) -> VirNucProError:
    context = f"virnucpro {error.ctx.info_name}" if error.ctx is not None and error.ctx.parent is not None else "virnucpro"
    return UsageError(f"{error.format_message().rstrip('.')}; see {context} --help")


def _complain(error: VirNucProError, verbose: bool, world: Any) -> None:
    """One line, from the process that failed. The others wait: where all fail alike, the main process has said it by then."""
    if verbose:
        traceback.print_exc()
    who = ""
    if world is not None and not world.is_main:
        time.sleep(SECONDS_FOR_THE_MAIN_PROCESS)
        who = f"process {world.rank}: "
    print(f"virnucpro: error: {who}{one_line(str(error))}", file=sys.stderr, flush=True)
