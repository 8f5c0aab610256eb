"""Charts as inline SVG, drawn by matplotlib, coloured by the page.

Matplotlib draws in marker colours that stand for roles (`#010101` is virus); they are exchanged for
CSS variables, so that one picture serves the light and the dark page. Text stays text, in the
page's font. Knows arrays; knows no tables and no HTML.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ROLES = {
    "virus": "#010101",
    "ambiguous": "#020202",
    "non-virus": "#030303",
    "not_scored": "#040404",
    "too_short": "#0a0a0a",
    "text": "#050505",
    "grid": "#060606",
    "gap": "#070707",
    "region": "#080808",
    "line": "#090909",
}
LENGTH_EDGES = (0, 500, 1000, 3000, 10_000, 30_000, 100_000)
LENGTH_NAMES = ("< 500", "500-1k", "1k-3k", "3k-10k", "10k-30k", "30k-100k", "≥ 100k")
# in inches; in points: what lies left of the numbers beside the axes, and a digit of these
CHART_SIZE, POINTS_OF_LABEL, POINTS_OF_DIGIT = (6.2, 2.9), 24, 5.5
LENGTH_TICKS = tuple(n * 10**power for power in range(10) for n in (1, 3))
# in inches: the size of a track, the part below its axes and the height of these; rows of arrows
TRACK_SIZE, TRACK_BELOW, TRACK_HEIGHT, ARROWS_HEIGHT = (9.6, 0.95), 0.24, 0.6, 0.36
VIRAL_ROW, OTHER_ROW, ROW_HEIGHT = 1.53, 1.27, 0.2  # of the arrows, in heights of the axes
MOST_POINTS = 2000  # of a chart; more sequences are counted in boxes
MOST_BINS = 300  # steps of a track; more chunks are averaged
CALLS = ("virus", "ambiguous", "non-virus")


class Arrow(NamedTuple):
    """A hit with a known protein, in bases of the sequence."""

    start: int
    end: int
    reverse: bool
    viral: bool


@dataclass(frozen=True, slots=True)
class Track:
    """Chunk scores along one sequence, NaN where a chunk has none.

    `edges` [n + 1] in bases, `regions` as (start, end).
    """

    edges: NDArray[np.float64]
    scores: NDArray[np.float64]
    regions: Sequence[tuple[int, int]] = ()
    arrows: Sequence[Arrow] = ()


def score_histogram(
    score: NDArray[np.float64], call: NDArray[np.str_], points: Sequence[float], label: str
) -> str:
    """How many sequences have which score, stacked by call; `points` are drawn as lines."""
    bins = np.linspace(0, 1, 41)
    counts = [np.histogram(score[call == word], bins)[0] for word in CALLS]
    figure, axes = _figure(*CHART_SIZE, _margins(f"{np.sum(counts, axis=0).max():,}"))
    _stack(axes, bins[:-1], counts, 0.025 * 0.92, "edge")
    for point in sorted(set(points)):
        axes.axvline(point, color=ROLES["line"], lw=1, ls=(0, (4, 3)))
    axes.set(xlim=(0, 1), xlabel=label, ylabel="sequences")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value == int(value) else "")
    return _svg(figure, f"Histogram of the {label} of {len(score)} sequences")


def length_against_score(
    length: NDArray[np.int64], score: NDArray[np.float64], call: NDArray[np.str_], label: str
) -> str:
    """Length and score of every sequence: points in the colours of the calls where they are few,
    else a map of how many there are, the darker the more (on a logarithmic scale).
    """
    figure, axes = _figure(*CHART_SIZE, _margins("0.0"))
    axes.set_xscale("log")
    if len(length):
        # a decade at least, so that a single sequence has an axis to be read by
        spread = max(1.1, np.sqrt(10 * max(length.min(), 1) / max(length.max(), 1)))
        low, high = max(length.min(), 1) / spread, max(length.max(), 1) * spread
        if len(length) <= MOST_POINTS:
            _points(axes, length, score, call)
        else:
            _density(axes, length, score, (low, high))
        ticks = [t for t in LENGTH_TICKS if low <= t <= high]
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set(xlim=(low, high))
    axes.set(ylim=(0, 1), xlabel="length (bases)", ylabel=label)
    return _svg(figure, f"Length against {label}")


def _points(axes, length, score, call) -> None:
    """A point a sequence; virus last, so that it lies above the others."""
    for word in reversed(CALLS):
        mine = call == word
        axes.plot(
            np.maximum(length[mine], 1),
            score[mine],
            "o",
            color=ROLES[word],
            ms=5.5,
            alpha=0.8,
            mew=0,
            clip_on=False,
        )


def _density(axes, length, score, ends: tuple[float, float]) -> None:
    """How many sequences have which length and score, in five shades."""
    x, y = np.geomspace(*ends, 49), np.linspace(0, 1, 31)
    counts = np.histogram2d(np.maximum(length, 1), score, (x, y))[0]
    shade = np.log1p(counts) / np.log1p(counts.max())
    for level in np.linspace(0.2, 1, 5):  # one path each
        i, j = np.nonzero((shade > level - 0.2) & (shade <= level))
        _boxes(axes, x[i], x[i + 1], y[j], y[j + 1], alpha=float(level))


def calls_by_length(length: NDArray[np.int64], call: NDArray[np.str_]) -> str:
    """The share of each call among the sequences of each range of lengths, with their
    number above.
    """
    figure, axes = _figure(*CHART_SIZE, _margins("100"))
    group = np.searchsorted(LENGTH_EDGES, length, side="right") - 1
    totals = np.bincount(group, minlength=len(LENGTH_NAMES))
    x = np.arange(len(LENGTH_NAMES))
    words = (*CALLS, "too_short", "not_scored")
    shares = [
        np.bincount(group[call == word], minlength=len(x)) / np.maximum(totals, 1) * 100
        for word in words
    ]
    _stack(axes, x, shares, 0.72, "center", words)
    for place, total in zip(x, totals, strict=True):
        axes.text(
            place, 103, f"{total:,}", ha="center", va="bottom", fontsize=8, color=ROLES["text"]
        )
    axes.set(xlabel="length (bases)", ylabel="% of sequences", ylim=(0, 115), yticks=(0, 50, 100))
    axes.set_xticks(x, LENGTH_NAMES)
    return _svg(figure, "Calls by length")


def track(data: Track) -> str:
    """Chunk scores along a sequence: filled steps, grey where a chunk has no score, regions
    marked above, and above these hits as arrows, with viral proteins in the upper row.
    """
    width, height = TRACK_SIZE
    height += ARROWS_HEIGHT if data.arrows else 0
    margins = {
        "left": 0.02,
        "right": 0.97,
        "bottom": TRACK_BELOW / height,
        "top": (TRACK_BELOW + TRACK_HEIGHT) / height,
    }
    figure, axes = _figure(width, height, margins)
    edges, scores = _binned(data)
    gap = np.isnan(scores)
    axes.stairs(np.where(gap, 1.0, 0.0), edges, fill=True, color=ROLES["gap"], lw=0)
    for role, inside in (("virus", scores >= 0.5), ("non-virus", scores < 0.5)):
        axes.stairs(
            np.where(inside, np.maximum(scores, 0.02), 0.0),
            edges,
            fill=True,
            color=ROLES[role],
            lw=0,
        )
    axes.axhline(0.5, color=ROLES["line"], lw=0.8, ls=(0, (4, 3)))
    for start, end in data.regions:
        axes.plot(
            [start, end],
            [1.1, 1.1],
            color=ROLES["region"],
            lw=3,
            solid_capstyle="butt",
            clip_on=False,
        )
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0, 1), yticks=(0, 1))
    axes.grid(False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    viral = [arrow for arrow in data.arrows if arrow.viral]
    others = [arrow for arrow in data.arrows if not arrow.viral]
    _arrows(axes, viral, VIRAL_ROW, ROLES["virus"], edges)
    _arrows(axes, others, OTHER_ROW, ROLES["line"], edges)
    shown = f", {len(viral)} hits with viral and {len(others)} with other proteins"
    return _svg(figure, f"Chunk scores along the sequence{shown if data.arrows else ''}")


def _arrows(axes, arrows: Sequence[Arrow], low: float, color: str, edges) -> None:
    """Arrows in one row, as one path; short ones are widened until they can be seen."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    span = float(edges[-1] - edges[0])
    corners, codes = [], []
    for arrow in arrows:
        middle = (arrow.start + arrow.end) / 2
        half = max((arrow.end - arrow.start) / 2, span / 400)
        head = min(half, span / 120)
        sign = -1 if arrow.reverse else 1
        tail, neck, tip = middle - sign * half, middle + sign * (half - head), middle + sign * half
        top, edge = low + ROW_HEIGHT, ROW_HEIGHT / 5
        corners += [
            *((tail, low + edge), (neck, low + edge), (neck, low), (tip, (low + top) / 2)),
            *((neck, top), (neck, top - edge), (tail, top - edge), (tail, low + edge)),
        ]
        codes += [Path.MOVETO, *[Path.LINETO] * 6, Path.CLOSEPOLY]
    if corners:
        patch = PathPatch(Path(corners, codes), facecolor=color, lw=0, clip_on=False)
        axes.add_patch(patch)


def _binned(data: Track) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Edges and scores of a track in at most `MOST_BINS` steps: means of the scored chunks, a gap
    where none is.
    """
    n = len(data.scores)
    if n <= MOST_BINS:
        return data.edges, data.scores
    first = np.linspace(0, n, MOST_BINS + 1).astype(int)[:-1]
    scored = ~np.isnan(data.scores)
    total = np.add.reduceat(np.where(scored, data.scores, 0.0), first)
    count = np.add.reduceat(scored.astype(float), first)
    means = np.divide(total, count, out=np.full(len(first), np.nan), where=count > 0)
    return np.append(data.edges[first], data.edges[-1]), means


def _stack(axes, x, heights, width: float, align: str, words: Sequence[str] = CALLS) -> None:
    """Stacked bars, one path a colour."""
    base = np.zeros(len(x))
    for word, height in zip(words, heights, strict=True):
        left = x if align == "edge" else x - width / 2
        kept = height > 0
        _boxes(axes, left[kept], left[kept] + width, base[kept], (base + height)[kept], ROLES[word])
        base = base + height
    axes.set_xlim(float(x[0]) - width, float(x[-1]) + width)
    axes.set_ylim(0, max(float(base.max()), 1.0) * 1.05)


def _boxes(axes, left, right, bottom, top, color: str = ROLES["virus"], alpha: float = 1.0) -> None:
    """Any number of rectangles as one path."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    if not len(left):
        return
    corners = np.stack(
        [left, bottom, right, bottom, right, top, left, top, left, bottom], axis=1
    ).reshape(-1, 2)
    codes = np.tile([Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY], len(left))
    axes.add_patch(PathPatch(Path(corners, codes), facecolor=color, alpha=alpha, lw=0))


def _margins(widest: str) -> Mapping[str, float]:
    """The edges of a chart's axes as shares of the chart, for numbers beside them as long as
    `widest`. Matplotlib would find them by drawing twice more, half of a small run's report.
    """
    width, height = (72 * inches for inches in CHART_SIZE)
    left = POINTS_OF_LABEL + POINTS_OF_DIGIT * len(widest)
    return {
        "left": left / width,
        "right": 1 - 10 / width,
        "bottom": 36 / height,
        "top": 1 - 6 / height,
    }


def _figure(width: float, height: float, margins: Mapping[str, float]):
    """An empty, quiet pair of axes; `width` and `height` in inches of 72 points.

    margins: edges of the axes as shares of the figure.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(**margins)
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(ROLES["grid"])
    axes.tick_params(colors=ROLES["text"], labelsize=8.5, length=0)
    axes.xaxis.label.set(color=ROLES["text"], fontsize=9)
    axes.yaxis.label.set(color=ROLES["text"], fontsize=9)
    axes.grid(axis="y", color=ROLES["grid"], lw=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure, label: str) -> str:
    """The figure as an `<svg>` element in the page's colours and font, the same bytes for the same
    data.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "virnucpro"}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        # `savefig` would draw everything once before, to find a layout that is known here
        FigureCanvasSVG(figure).print_svg(stream, metadata=nothing)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r"(\d+\.\d\d)\d+", r"\1", text)
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    for role, colour in ROLES.items():
        text = text.replace(colour, f"var(--{role})")
    head, _, body = text.partition(">")  # of the tag `svg`
    box = re.findall(r'viewBox="([^"]*)"', head)[0]
    body = re.sub(r"\s*\n\s*", "\n", body)
    return (
        f'<svg viewBox="{box}" role="img" aria-label="{label}"'
        f' xmlns:xlink="http://www.w3.org/1999/xlink">{body}'.strip()
    )
