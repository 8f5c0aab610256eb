"""The commands `predict`, `demo`, `summarize` and `merge`; everything heavy is imported when
called.
"""

from __future__ import annotations

import logging
from dataclasses import MISSING, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import typer

from virnucpro.errors import UsageError
from virnucpro.options import argument, command, flag, option
from virnucpro.reporting.log import console_logging
from virnucpro.settings import INPUTS, Options

log = logging.getLogger("virnucpro")


@dataclass(frozen=True)
class Inputs:
    """What `predict` reads."""

    inputs: list[str] | None = argument(
        "FASTA or FASTQ files, also compressed (gz, bz2, xz, zst); directories of such files; - for"
        " standard input.",
        "INPUT",
        None,
    )
    more_inputs: list[str] | None = option(
        None,
        "An input, as INPUT; may be given more than once.",
        "-i",
        "--input",
        panel=INPUTS,
        metavar="PATH",
    )


@dataclass(frozen=True)
class LegacyOptions:
    """What the original's command line has besides; the help leaves it out."""

    model_type: Literal["300", "500", "custom"] | None = option(None, "", hidden=True)
    model_path: str | None = option(None, "", hidden=True)
    expected_length: int | None = option(None, "", hidden=True)
    no_progress: bool = option(False, "", "--no-progress", hidden=True)
    device: str | None = option(None, "", hidden=True)
    # these do nothing any more
    esm_batch_size: int | None = option(None, "", hidden=True)
    dnabert_batch_size: int | None = option(None, "", hidden=True)
    parallel: bool = option(False, "", "--parallel", hidden=True)
    persistent_models: bool = option(False, "", "--persistent-models", hidden=True)
    v1_fallback: bool = option(False, "", "--v1-fallback", hidden=True)
    v1_attention: bool = option(False, "", "--v1-attention", hidden=True)

    def obsolete(self) -> list[str]:
        """The options given that do nothing."""
        return [flag(name) for name in OBSOLETE if getattr(self, name)]

    def translate(self, options: Options) -> Options:
        """The options of the original in today's words."""
        if self.model_type and options.model:
            raise UsageError("--model-type is the older name of --model; give one of them")
        if self.model_type == "custom" and not self.model_path:
            raise UsageError("--model-type custom: give the classifier with --model-path FILE.pth")
        # beside it, --batch-size is the classifier's rows, which need no choice
        if self.model_type is not None:
            custom = self.model_type == "custom"
            base = "300" if self.expected_length == 300 else "500"
            options = replace(
                options,
                model=base if custom else self.model_type,
                chunk_length=options.chunk_length or (self.expected_length if custom else None),
                batch_size=None,
            )
        return replace(
            options,
            classifier=options.classifier or self.model_path,
            gpus=_gpus(options.gpus, self.device),
            quiet=options.quiet or self.no_progress,
        )


OBSOLETE = (
    "esm_batch_size",
    "dnabert_batch_size",
    "parallel",
    "persistent_models",
    "v1_fallback",
    "v1_attention",
)


@dataclass(frozen=True)
class Finished:
    """What `summarize` starts from."""

    directory: Path = argument("The output directory of a finished `predict`.", "DIR")
    classifier: Path | None = option(
        None,
        "Use another classifier: a .safetensors file, or the original program's .pth.",
        metavar="FILE",
    )
    output_dir: Path | None = option(
        None, "Write here and leave DIR as it is.", "-o", "--output-dir", metavar="OUT"
    )
    force: bool = option(False, "Replace the results that are in OUT.", "--force")


OF_SUMMARIZE = (
    "min_score",
    "conservative",
    "relaxed",
    "max_fdr",
    "false_positives",
    "allow_short",
    "prevalence",
    "reference",
    "call_by",
    "table_format",
    "cache_dir",
    "quiet",
    "verbose",
)


def predict(inputs: Inputs, legacy: LegacyOptions, given: Options) -> None:
    """Say for every sequence whether it is viral.

    \b
    virnucpro predict contigs.fna                     into contigs_virnucpro/
    virnucpro predict reads.fastq.gz genomes/ -o out  several inputs, one result
    virnucpro predict contigs.fna --min-length 1000   skip short sequences
    virnucpro predict contigs.fna --conservative      fewer false positives
    virnucpro predict --samplesheet samples.tsv       many samples

    Given again, a command continues its unfinished run.
    """
    from virnucpro.launch import code_for_launcher, read_world
    from virnucpro.run.start import run, run_samples

    options, world = legacy.translate(given), read_world()
    console_logging(options.verbose, options.quiet, world.is_main)
    for name in legacy.obsolete() if world.is_main and not world.self_launched else ():
        log.warning("%s is no longer needed and does nothing", name)
    words = [*(inputs.inputs or []), *(inputs.more_inputs or [])]
    if options.samplesheet is not None or options.per_input:
        samples = run_samples(words, options, own_process=True)
        if samples is not None:
            if not options.quiet:
                print(samples.line())
            code = 0 if samples.exit_code == 2 and options.partial_ok else samples.exit_code
            raise typer.Exit(code_for_launcher(code, world))
        return
    result = run(words, options, own_process=True)
    if result is not None:
        _show(result, options.quiet)
        raise typer.Exit(result.exit_code)


@dataclass(frozen=True)
class Demo:
    """Where `demo` writes."""

    output_dir: Path = option(
        Path("demo_virnucpro"), "Where the results go.", "-o", "--output-dir", metavar="DIR"
    )


def demo(settings: Demo) -> None:
    """Try the program on six real sequences. They are part of it, and the shipped model answers."""
    from importlib.resources import as_file, files

    from virnucpro.run.start import run

    console_logging(False, False, True)
    with as_file(files("virnucpro.tools") / "demo.fna.gz") as path:
        options = Options(output_dir=settings.output_dir, model="mini", gpus="none")
        result = run([str(path)], options, own_process=True)
    if result is not None:
        _show(result, False)
        raise typer.Exit(result.exit_code)


def summarize(finished: Finished, options: Options) -> None:
    """Write the results of a run anew. With other thresholds or another classifier.

    Nothing is embedded again: seconds, not hours.
    """
    from virnucpro import api

    console_logging(options.verbose, options.quiet, True)
    given = {name: getattr(options, name) for name in OF_SUMMARIZE}
    result = api.summarize(
        finished.directory, finished.classifier, finished.output_dir, finished.force, **given
    )
    _show(result, options.quiet)
    raise typer.Exit(result.exit_code)


@dataclass(frozen=True)
class Shards:
    """What `merge` reads and where it writes."""

    directories: list[Path] = argument(
        "The output directories of `predict --shard i/n`, all n of them.", "DIR"
    )
    output_dir: Path = option(MISSING, "Where the results go.", "-o", "--output-dir", metavar="DIR")
    partial_ok: bool = option(
        False, "Exit with 0 instead of 2 when some inputs failed.", "--partial-ok"
    )
    force: bool = option(False, "Replace the results that are there.", "--force")
    reference: str | None = option(
        None, "The --reference that the shards were started with, if any.", metavar="DIR"
    )
    quiet: bool = option(False, "Print no summary.", "-q", "--quiet")
    verbose: bool = option(False, "Log everything, and tracebacks of errors.", "-v", "--verbose")


def merge(shards: Shards) -> None:
    """Join the results of an array job. They become those of one run."""
    from virnucpro import api

    console_logging(shards.verbose, shards.quiet, True)
    result = api.merge(
        *(shards.directories, shards.output_dir, shards.partial_ok, shards.force, shards.reference)
    )
    _show(result, shards.quiet)
    raise typer.Exit(result.exit_code)


def _show(result: Any, quiet: bool) -> None:
    """The calls, the best hits and where the files are, on standard output."""
    if not result.is_shown:
        from virnucpro.reporting.console import show_result

        show_result(result, quiet)


def _gpus(gpus: str | None, device: str | None) -> str | None:
    """`--gpus`, or what `--device auto|cpu|cuda|cuda:1` means."""
    if gpus is not None or device in (None, "auto"):
        return gpus
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise UsageError(f"--device {device}: use --gpus all, none or numbers such as 0,2")
    return "none" if kind == "cpu" else number or "all"


COMMANDS = {
    "predict": command(predict, Inputs, LegacyOptions, Options),
    "merge": command(merge, Shards),
    "demo": command(demo, Demo),
    "summarize": command(summarize, Finished, Options, only=OF_SUMMARIZE),
}
