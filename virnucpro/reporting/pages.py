"""The templates of the HTML pages, compiled once a process: many samples have a page each."""

from __future__ import annotations

import math
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2

MOST_LETTERS = 200  # of a name; a page is not the place for longer ones


@cache
def template(name: str) -> jinja2.Template:
    """The page `name` of this package, with the filters that pages use."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = lambda value: f"{value:,}"
    environment.filters["score"] = lambda value: "NA" if math.isnan(value) else f"{value:.4f}"
    environment.filters["percent"] = lambda value: (
        "NA" if math.isnan(value) else f"{100 * value:.0f} %"
    )
    environment.filters["short"] = shortened
    return environment.from_string(asset(name))


@cache
def asset(name: str) -> str:
    """A text file of this package."""
    return (files("virnucpro.reporting") / name).read_text(encoding="utf-8")


def shortened(text: str) -> str:
    """A name that fits a page."""
    return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 1]}…"
