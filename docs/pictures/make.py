"""Draw the pictures of README and the pages, light and dark.

    python docs/pictures/make.py [REPORT.html]

Each plot is drawn from the JSON file of its name, whose figures the pages state too
(`docs/generate.py`). With the report of a run, its screenshots are taken, by a headless Chromium.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

HERE = Path(__file__).parent
THEMES = {
    "light": {"text": "#334155", "grid": "#e2e8f0", "page": "#ffffff"},
    "dark": {"text": "#cbd5e1", "grid": "#2a333d", "page": "#0f1419"},
}
COLOURS = ("#94a3b8", "#d99a2b", "#0d9488", "#7c3aed", "#dc5f4b")
MARKS = ("o", "s", "D", "^", "v")  # series differ by more than their colour
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--hide-scrollbars", "--window-size=1120,1040"),
)


def by_length(axes: Axes, data: dict[str, Any]) -> None:
    """Values with intervals against the length of the sequences; [value, low, high] a point, the
    limits perhaps null.
    """
    lengths = data["lengths"]
    for number, (name, points) in enumerate(data["series"].items()):
        x = [length * (1 + 0.02 * (number - 1.5)) for length in lengths]  # whiskers side by side
        values = [point[0] for point in points]
        below = [
            max(value - point[1], 0) if point[1] is not None else 0
            for value, point in zip(values, points, strict=True)
        ]
        above = [
            max(point[2] - value, 0) if point[2] is not None else 0
            for value, point in zip(values, points, strict=True)
        ]
        axes.errorbar(
            x,
            values,
            [below, above],
            fmt=f"{MARKS[number]}-",
            color=COLOURS[number],
            label=name,
            lw=1.8,
            ms=5,
            capsize=2,
            elinewidth=1,
        )
    axes.set_xscale("log")
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("length (bases)")


def bars(axes: Axes, data: dict[str, Any]) -> None:
    """One bar a name, with its value."""
    names, values = list(data["values"]), list(data["values"].values())
    axes.barh(names, values, color=[COLOURS[2], *[COLOURS[0]] * (len(names) - 1)], height=0.6)
    for name, value in zip(names, values, strict=True):
        axes.annotate(f" {value:,}", (value, name), va="center", fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(data["title"])


def classes(axes: Axes, data: dict[str, Any]) -> None:
    """Shares of several classes and series, from [called, of all], with 95 % Wilson intervals."""
    places = range(len(data["classes"]))
    for number, (name, counts) in enumerate(data["series"].items()):
        x = [place + 0.3 * (number - (len(data["series"]) - 1) / 2) for place in places]
        shares = [called / of if of else 0.0 for called, of in counts]
        limits = [wilson(called, of) for called, of in counts]
        below = [100 * (share - low) for share, (low, _) in zip(shares, limits, strict=True)]
        above = [100 * (high - share) for share, (_, high) in zip(shares, limits, strict=True)]
        heights = [100 * share for share in shares]
        error = {"elinewidth": 1, "ecolor": COLOURS[0], "capsize": 2}
        axes.bar(
            x,
            heights,
            0.28,
            yerr=[below, above],
            color=COLOURS[number + 1],
            label=name,
            error_kw=error,
        )
    axes.set_xticks(places, data["classes"])


def wilson(called: int, of: int) -> tuple[float, float]:
    """95 % limits of a share; the share itself where nothing was counted."""
    if not of:
        return 0.0, 0.0
    z, share = 1.96, called / of
    middle = (share + z * z / 2 / of) / (1 + z * z / of)
    half = z / (1 + z * z / of) * (share * (1 - share) / of + z * z / 4 / of / of) ** 0.5
    return min(max(middle - half, 0.0), share), max(min(middle + half, 1.0), share)


def refresh() -> None:
    """Write what is drawn of mini's measurements."""
    measured = json.loads((HERE.parents[1] / "recipes" / "mini" / "mini_evidence.json").read_text())
    for name, figure in (("accuracy", "auroc"), ("calibration", "calibration_error")):
        path = HERE / f"{name}.json"
        data = json.loads(path.read_text())
        for label, model in (("network and known proteins", "both"), ("network alone", "network")):
            data["series"][label] = [
                [round(value, 3) for value in measured[str(length)][model][figure]]
                for length in data["lengths"]
            ]
        path.write_text(json.dumps(data) + "\n")
    called = {n: measured[n]["points"]["1%"]["false_positives"] for n in ("500", "3000")}
    names = sorted(called["500"])
    series = {
        f"{int(length):,} bases": [of.get(name, [0, 0]) for name in names]
        for length, of in called.items()
    }
    data = {
        "kind": "classes",
        "y": "% of a class called virus",
        "limits": [0, 70],
        "classes": names,
        "series": series,
    }
    (HERE / "false_positives.json").write_text(json.dumps(data) + "\n")


def against_ideal(axes: Axes, data: dict[str, Any]) -> None:
    """Points [x, y] of several series beside the line where both are equal or proportional."""
    most = max(x for points in data["series"].values() for x, _ in points)
    axes.plot(
        [0, most], [0, most * data["slope"]], "--", color=COLOURS[0], lw=1, label=data["ideal"]
    )
    for number, (name, points) in enumerate(data["series"].items()):
        x, y = zip(*points, strict=True)
        axes.plot(x, y, f"{MARKS[number]}-", color=COLOURS[number + 2], lw=1.8, ms=5, label=name)
    axes.set_xticks([0, *x])
    axes.set_xlabel(data["x"])


KINDS: dict[str, Callable[[Axes, dict[str, Any]], None]] = {
    "by length": by_length,
    "bars": bars,
    "classes": classes,
    "against ideal": against_ideal,
}


def plot(source: Path, theme: str) -> None:
    """The plot of a JSON file in a theme."""
    data, colours = json.loads(source.read_text()), THEMES[theme]
    words = {"text.color": colours["text"], "svg.hashsalt": "virnucpro", "svg.fonttype": "path"}
    with matplotlib.rc_context(words):
        figure = Figure(figsize=(7.2, data.get("height", 3.2)), layout="constrained")
        figure.set_facecolor(colours["page"])
        axes = figure.add_subplot(facecolor=colours["page"])
        KINDS[data["kind"]](axes, data)
        if "y" in data:
            axes.set_ylabel(data["y"])
            axes.set_ylim(*data["limits"])
            axes.grid(axis="y", color=colours["grid"])
            axes.legend(frameon=False, labelcolor=colours["text"], fontsize=9)
        axes.set_axisbelow(True)
        axes.tick_params(colors=colours["text"], length=0)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_color(colours["text"])
        for side in axes.spines.values():
            side.set_visible(False)
        figure.savefig(source.with_name(f"{source.stem}-{theme}.svg"), metadata={"Date": None})


def report(page: Path, theme: str) -> None:
    """The head of a report as the browser shows it."""
    scheme = 0 if theme == "dark" else 1
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("make.py: no chromium here; install it for the screenshots")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                chromium,
                *FLAGS,
                f"--blink-settings=preferredColorScheme={scheme}",
                f"--user-data-dir={profile}",
                f"--screenshot={HERE / f'report-{theme}.png'}",
                page.absolute().as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )


if __name__ == "__main__":
    refresh()
    for each in THEMES:
        for path in sorted(HERE.glob("*.json")):
            plot(path, each)
        if sys.argv[1:]:
            report(Path(sys.argv[1]), each)
