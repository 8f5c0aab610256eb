"""The command line: its commands, errors to one line, and the exit code. Only this module exits;
only it and the `commands` of tools and training print.

Nothing heavy is imported before a command needs it: `virnucpro --help` must answer at once.
"""

from __future__ import annotations

import gc
import itertools
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from virnucpro import __version__
from virnucpro.errors import UsageError, VirNucProError, one_line
from virnucpro.hints import command_hint, option_hint
from virnucpro.run.home import ensure_home
from virnucpro.run.stopping import SIGNALS
from virnucpro.run.terminal import close_standard_streams, open_standard_streams
from virnucpro.settings import INPUTS, Options, argument, flag, option
from virnucpro.tools.commands import (
    benchmark,
    cache,
    citation,
    command,
    console_logging,
    doctor,
    models,
    reference,
)
from virnucpro.training import commands as training

UNEXPECTED = 1
INTERRUPTED = 128 + signal.SIGINT
STOPPED = [128 + number for number in SIGNALS]
# commands that take up what an interrupted one has done
GOING_ON = {"predict", "train", "download"}
SECONDS_FOR_THE_MAIN_PROCESS = 3.0

log = logging.getLogger("virnucpro")

app = typer.Typer(
    name="virnucpro",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help=(
        "Which of these nucleotide sequences are viral? Answers for every one, from a laptop to"
        " many GPUs."
    ),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool,
        typer.Option(
            "-V", "--version", callback=_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None: ...


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
    """Try the program on six real sequences that are part of it, with the shipped model."""
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
    """Write the results of a run again, with other thresholds or another classifier.

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
    """Join the results of an array job (predict --shard i/n) to those of one run."""
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


app.command()(command(predict, Inputs, LegacyOptions, Options))
app.command()(command(merge, Shards))
app.command()(command(demo, Demo))
app.command()(command(summarize, Finished, Options, only=OF_SUMMARIZE))
for word, made in training.COMMANDS.items():
    app.command(word)(made)
app.add_typer(models, name="models")
app.add_typer(reference, name="reference")
app.add_typer(cache, name="cache")
for made in (doctor, citation, benchmark):
    app.command()(made)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and end the process with its exit code."""
    open_standard_streams()
    for number in (signal.SIGTERM, signal.SIGHUP):  # until a run takes signals over
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves it
            signal.signal(number, _terminated)
    # what is started from here on imports nothing from the current directory (Python 3.11 and on)
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    # Beside another program on the same cores, threads that wait for each other by spinning burn
    # half of the time (docs/PERFORMANCE.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported
    # importing torch makes half a million objects and no garbage, which is searched for all the
    # time
    gc.set_threshold(10_000)
    code = run(list(sys.argv[1:] if arguments is None else arguments))
    # else it is searched for once more, in all that was ever imported: a second at the end of a run
    gc.freeze()
    close_standard_streams()
    # An interrupt may have fallen into code that was made at run time, and Python would end by the
    # signal itself. And a process that aborts while libraries are taken down makes a launcher end
    # the main one, which may be writing results.
    if code == INTERRUPTED or os.environ.get("RANK", "0") != "0":
        os._exit(code)
    sys.exit(code)


def _terminated(number: int, _frame: Any) -> None:
    raise SystemExit(128 + number)


def run(arguments: list[str]) -> int:
    """Run a command; the exit code. Every error a user can cause is one line on standard error."""
    from virnucpro.launch import read_world, stopped

    options = list(itertools.takewhile(lambda word: word != "--", arguments))  # inputs follow it
    verbose = "-v" in options or "--verbose" in options
    world, said = None, False
    try:
        ensure_home()
        world = read_world()
        _refuse_nothing(options)
        group: Any = typer.main.get_command(app)
        if arguments[:1] == ["help"]:
            arguments = [*arguments[1:], "--help"]
        if hint := command_hint(arguments, group.commands):
            raise UsageError(hint)
        # the list of commands needs no panels, and answers in half the time without rich
        group.rich_markup_mode = None
        code = group(arguments or ["--help"], standalone_mode=False)
        code = int(code) if isinstance(code, int) else 0
    except VirNucProError as error:
        code, said = error.exit_code, True
        _complain(error, verbose, world)
    except typer.TyperException as error:
        code = UsageError.exit_code
        _complain(_explained(error), verbose, world)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except PermissionError as error:  # may come from wherever a path is looked at
        code = UNEXPECTED
        _complain(
            VirNucProError(
                f"{error.filename}: permission denied; make it accessible, or name another"
            ),
            verbose,
            world,
        )
    except Exception as error:
        code = _signal_within(error) or _unexpected(error, verbose, world)
    speaks = world is not None and world.is_main and not world.self_launched
    if code in STOPPED and speaks and not said:
        goes_on = bool(GOING_ON.intersection(options[:2]))  # not an input of that name
        print(
            f"virnucpro: error: {stopped(code - 128, '--force' in options, goes_on)}",
            file=sys.stderr,
            flush=True,
        )
    return code


def _signal_within(error: BaseException | None) -> int | None:
    """The exit code of a signal that an error stands for: Python 3.11 and older turn what is raised
    while a class is made, as when a module is imported, into a RuntimeError.
    """
    while error is not None:
        if isinstance(error, SystemExit) and isinstance(error.code, int):
            return error.code
        if isinstance(error, KeyboardInterrupt):
            return INTERRUPTED
        error = error.__cause__
    return None


def _unexpected(error: Exception, verbose: bool, world: Any) -> int:
    """Say what nobody has foreseen; the exit code."""
    what = (
        f"unexpected {type(error).__name__}: {error}; run again with -v for details and report it"
    )
    _complain(VirNucProError(what), verbose, world)
    return UNEXPECTED


def _refuse_nothing(arguments: Sequence[str]) -> None:
    """An option's empty value is a shell variable that was not set, and as a path would be the
    current directory.
    """
    for name, value in itertools.pairwise([*arguments, "-"]):
        if (name.startswith("-") and not value) or (name.startswith("--") and name.endswith("=")):
            raise UsageError(
                f"{name.rstrip('=')}: its value is empty, perhaps a variable that is not set;"
                " give one, or leave it out"
            )


def _explained(error: typer.TyperException) -> VirNucProError:
    context = getattr(error, "ctx", None)
    name = (
        f"virnucpro {context.info_name}"
        if context is not None and context.parent is not None
        else "virnucpro"
    )
    option = getattr(error, "option_name", None) or ""
    if hint := option_hint(option):
        return UsageError(f"{option}: no such option; give {hint}; see {name} --help")
    return UsageError(
        f"{error.format_message().rstrip('.').replace('Value error, ', '')}; see {name} --help"
    )


def _complain(error: VirNucProError, verbose: bool, world: Any) -> None:
    """One line, from the process that failed.

    The others wait: where all fail alike, the main process has said it by then.
    """
    if verbose:
        traceback.print_exc()
    who = ""
    if world is not None and not world.is_main:
        time.sleep(SECONDS_FOR_THE_MAIN_PROCESS)
        who = f"process {world.rank}: "
    print(f"virnucpro: error: {who}{one_line(str(error))}", file=sys.stderr, flush=True)
