"""Draw the pictures of README and the pages, light and dark.

    python docs/pictures/make.py [REPORT.html]

The accuracy of `mini` is drawn from accuracy.json, whose figures are those of docs/MODELS.md. With
the report of a run, its screenshots are taken too, by a headless Chromium.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib

HERE = Path(__file__).parent
THEMES = {
    "light": {"text": "#334155", "grid": "#e2e8f0", "page": "#ffffff"},
    "dark": {"text": "#b6c2cf", "grid": "#2a333d", "page": "#0f1419"},
}
COLOURS = ("#94a3b8", "#d99a2b", "#0d9488", "#7c3aed")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--hide-scrollbars", "--window-size=1120,1040"),
)


def accuracy(theme: str) -> None:
    """AUROC against length for each set of sequences."""
    from matplotlib.figure import Figure

    data, colours = json.loads((HERE / "accuracy.json").read_text()), THEMES[theme]
    figure = Figure(figsize=(7.2, 3.2), layout="constrained", facecolor=colours["page"])
    axes = figure.add_subplot(facecolor=colours["page"])
    for (name, values), colour in zip(data["auroc"].items(), COLOURS, strict=True):
        axes.plot(data["lengths"], values, "o-", color=colour, label=name, lw=2, ms=5)
    axes.set_xscale("log")
    axes.set_xticks(data["lengths"], [f"{length:,}" for length in data["lengths"]])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="length (bases)", ylabel="AUROC of mini", ylim=(0.8, 1.005))
    axes.grid(axis="y", color=colours["grid"])
    axes.tick_params(colors=colours["text"], length=0)
    axes.xaxis.label.set_color(colours["text"])
    axes.yaxis.label.set_color(colours["text"])
    for side in axes.spines.values():
        side.set_visible(False)
    axes.legend(frameon=False, labelcolor=colours["text"])
    with matplotlib.rc_context({"svg.hashsalt": "virnucpro"}):
        figure.savefig(HERE / f"accuracy-{theme}.svg", metadata={"Date": None})


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
    for each in THEMES:
        accuracy(each)
        if sys.argv[1:]:
            report(Path(sys.argv[1]), each)
