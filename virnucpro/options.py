"""An option is a field of a dataclass, and a command is made of such dataclasses.

Knows how options stand on a command line and in its help; does not know any option.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from virnucpro.errors import UsageError


@dataclass(frozen=True, slots=True)
class Option:
    """How an option stands on a command line and in its help."""

    help: str
    names: tuple[str, ...] = ()  # else it is called as its field is
    panel: str | None = None  # of the help
    metavar: str | None = None
    min: float | None = None
    max: float | None = None
    hidden: bool = False
    is_argument: bool = False  # given by its place


def option(default: Any, help: str, *names: str, **more: Any) -> Any:
    """A field that is an option. more: the other fields of `Option`."""
    return field(default=default, metadata={"option": Option(help, names, **more)})


def argument(help: str, metavar: str, default: Any = MISSING) -> Any:
    """A field that is given by its place."""
    meaning = Option(help, metavar=metavar, is_argument=True)
    return field(default=default, metadata={"option": meaning})


def words(options: type) -> dict[str, tuple[str, ...]]:
    """The words that an option may be, of those fields that are one of some words."""
    found = {}
    for name, kind in get_type_hints(options).items():
        for one in (kind, *get_args(kind)):  # the latter of `Literal[...] | None`
            if get_origin(one) is Literal:
                found[name] = get_args(one)
    return found


def check_words(options: Any) -> None:
    """Raise UsageError unless every option that is one of some words is one of these."""
    for name, known in words(type(options)).items():
        value = getattr(options, name)
        if value is not None and value not in known:
            raise UsageError(f"{flag(name)} {value}: choose one of {', '.join(known)}")


def flag(name: str) -> str:
    """The option of a field."""
    return "--" + name.replace("_", "-")


def command(
    run: Callable[..., None], *parts: type, only: Sequence[str] = ()
) -> Callable[..., None]:
    """`run(*parts)` as typer takes a command: an option for each field of these dataclasses.

    only: the fields of the last one that are options; all where it is empty. Name and help are
    those of `run`.
    """
    import typer

    names = [[one.name for one in fields(part)] for part in parts]
    if only:
        names[-1] = list(only)
    parameters = [
        _parameter(part, name) for part, some in zip(parts, names, strict=True) for name in some
    ]

    def call(**given: Any) -> None:
        for name, value in given.items():
            if isinstance(value, float) and math.isnan(value):  # within every range, for typer
                raise typer.BadParameter("nan is not a number", param_hint=f"'{flag(name)}'")
        run(
            *(
                part(**{name: given[name] for name in some})
                for part, some in zip(parts, names, strict=True)
            )
        )

    call.__name__, call.__doc__ = run.__name__.lstrip("_"), run.__doc__
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return call


def _parameter(part: Any, name: str) -> inspect.Parameter:
    """What typer reads of the field `name` of a dataclass."""
    import typer

    (one,) = (one for one in fields(part) if one.name == name)
    meaning: Option = one.metadata["option"]
    if meaning.is_argument:
        info = typer.Argument(metavar=meaning.metavar, help=meaning.help, show_default=False)
    else:
        info = typer.Option(
            *meaning.names,
            help=meaning.help,
            metavar=meaning.metavar,
            min=meaning.min,
            max=meaning.max,
            hidden=meaning.hidden,
            rich_help_panel=meaning.panel,
        )
    kind = get_type_hints(part)[name]
    if set(get_args(kind)) >= {Path, str}:  # from Python both are taken
        kind = Path | None
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if one.default is MISSING else one.default,
        annotation=Annotated[kind, info],
    )
