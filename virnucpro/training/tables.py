"""What an evaluation writes: tables and plots; and the log of a training."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.files import write_text, writing
from virnucpro.training.evaluation import Scored
from virnucpro.training.metrics import auroc, curve


def write_rows(path: Path, rows: list[dict[str, float]]) -> None:
    """Rows of the same fields as CSV with a header."""
    with writing(path, "w") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_table(path: Path, results: dict[str, Any]) -> None:
    """All of evaluation.json but recall by viral group, one figure a line: value, 95 % limits, and
    the groups it rests on.
    """
    lines = ["length\tsequences\tfigure\tvalue\tlow\thigh\tgroups"]
    for length, found in results["lengths"].items():
        beside = {f"baseline {name}": of for name, of in results.get("baselines", {}).items()}
        beside = {**results.get("parts", {}), **beside}
        for part, figures, groups in parts_of(length, found, beside):
            for name, value in figures.items():
                if isinstance(value, list | float) or value is None:
                    limits = value if isinstance(value, list) else [value, None, None]
                    shown = ("NA" if v is None else f"{v:.4f}" for v in limits)
                    lines.append("\t".join([length, part, name, *shown, str(groups)]))
    write_text(path, lines)


def parts_of(
    length: str, found: dict[str, Any], beside: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any], int]]:
    """(name, figures, number of groups) of each part of the results of one length."""
    groups = found["all"]["viral_groups"] + found["all"]["cellular_groups"]
    for name in ("all", "scored"):
        if name in found:
            yield name, found[name], found[name]["viral_groups"] + found[name]["cellular_groups"]
    for name, figures in found["classes"].items():
        yield f"class {name}", figures, figures["groups"]
    yield "mean of classes", found["macro"], groups
    for name, figures in found["prevalence"].items():
        yield f"prevalence {name}", figures, groups
    for name, of in beside.items():
        if length in of:
            yield name, of[length], groups


def write_scores(path: Path, s: Scored) -> None:
    """A line a contig: labels, score and probability."""
    lines = ["seq_name\tlabel\tcategory\tgroup\tlength\tvirus_score\tvirus_probability"]
    for i in range(len(s)):
        numbers = ("NA" if np.isnan(v) else f"{v:.4f}" for v in (s.score[i], s.probability[i]))
        label = "virus" if s.virus[i] else "others"
        words = (f"c{i}", label, s.category[i], s.group[i], str(s.length[i]), *numbers)
        lines.append("\t".join(words))
    write_text(path, lines)


def plot(path: Path, s: Scored) -> None:
    """ROC curves by length, and how calibrated the probabilities are."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for length in sorted(set(s.length.tolist())):
        part = s.select(s.length == length)
        if part.virus.any() and not part.virus.all():
            c = curve(part.deciding, part.virus)
            left.plot(
                c.false_positive,
                c.true_positive,
                label=f"{length:,} bases: {auroc(part.deciding, part.virus):.3f}",
            )
    left.set(xlabel="false positives", ylabel="recall", title="by length (AUROC)")
    left.legend(frameon=False)
    known = ~np.isnan(s.probability)
    if known.any():
        bins = np.clip((s.probability[known] * 10).astype(int), 0, 9)
        n = np.bincount(bins, minlength=10)
        ok = n > 0
        right.plot(
            np.bincount(bins, s.probability[known], 10)[ok] / n[ok],
            np.bincount(bins, s.virus[known], 10)[ok] / n[ok],
            "o-",
        )
    right.plot([0, 1], [0, 1], color="0.7", zorder=0)
    right.set(xlabel="probability", ylabel="share of viruses", title="calibration")
    figure.savefig(path, dpi=120)
