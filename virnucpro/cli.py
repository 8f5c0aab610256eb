"""The command line: its commands, errors to one line, and the exit code. Only this module exits;
only it and the `commands` of run, tools and training print.

Nothing heavy is imported before a command needs it: `virnucpro --help` must answer at once.
"""

from __future__ import annotations

import gc
import itertools
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from virnucpro import __version__
from virnucpro.errors import UsageError, VirNucProError, limit_behind, one_line
from virnucpro.run import commands as of_runs
from virnucpro.run.hints import command_hint, option_hint
from virnucpro.run.home import ensure_home
from virnucpro.run.stopping import SIGNALS
from virnucpro.run.terminal import close_standard_streams, open_standard_streams
from virnucpro.tools.commands import benchmark, cache, citation, doctor, models, reference, ro_crate
from virnucpro.training import commands as training

UNEXPECTED = 1
INTERRUPTED = 128 + signal.SIGINT
STOPPED = [128 + number for number in SIGNALS]
# commands that take up what an interrupted one has done
GOING_ON = {"predict", "train", "download"}
SECONDS_FOR_THE_MAIN_PROCESS = 3.0

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


for word, made in {**of_runs.COMMANDS, **training.COMMANDS}.items():
    app.command(word)(made)
app.add_typer(models, name="models")
app.add_typer(reference, name="reference")
app.add_typer(cache, name="cache")
for made in (doctor, citation, benchmark, ro_crate):
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
    # oneDNN keeps the kernels of the last 1,024 shapes, a quarter of a megabyte each; attention has
    # a shape for each length and number of sequences, and a batch needs fewer than 64
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    # importing torch makes half a million objects and no garbage, which is searched for all the
    # time
    gc.set_threshold(100_000)
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
        _complain(_explained(error), False, world)
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
    """Say what nobody has foreseen, or which limit was reached; the exit code."""
    what = limit_behind(error) or (
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
