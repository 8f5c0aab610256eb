"""Weights of the evidence, fitted on groups whose own proteins are left out of the reference.

    python -m recipes.reference.fit features OUT REFERENCE [SHARE]
    python -m recipes.reference.fit weights OUT WEIGHTS.json

`features` searches a share (default 1) of OUT's contigs of every group and length, drops the hits
with proteins of the contig's own group, and writes `OUT/features.npz`. `weights` measures the
search, the network (its scores: `OUT/contigs_scores.tsv.gz`, predict's contigs.tsv) and both in
folds that never share a group, and fits the search's weights on all groups.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from recipes.reference.choose import read_relatives
from recipes.reference.relatives import read_plain
from virnucpro.homology.evidence import weigh
from virnucpro.homology.reference import Reference, load
from virnucpro.homology.search import search
from virnucpro.homology.weights import FEATURES, Weights

FOLDS = 8
MOST = 100  # hits of a stretch before its own group's proteins are dropped
BATCH = 1_000_000  # bases
STRENGTH = 1.0  # of the regularization, as scikit-learn's C


@dataclass(frozen=True)
class Contigs:
    """The contigs that were searched; arrays [N]."""

    name: np.ndarray
    virus: np.ndarray
    category: np.ndarray
    group: np.ndarray
    part: np.ndarray  # which set: test or more
    length: np.ndarray


def read_contigs(out: Path, share: float) -> Contigs:
    """A share of every group's contigs of every length, at least one."""
    with open(out / "contigs.tsv") as table:
        rows = list(csv.DictReader(table, delimiter="\t"))
    many: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        many[row["set"], row["category"], row["group"], row["length"]].append(row)
    kept = [r for same in many.values() for r in same[: max(1, round(share * len(same)))]]
    return Contigs(
        np.array([r["name"] for r in kept]),
        np.array([int(r["virus"]) for r in kept]),
        np.array([r["category"] for r in kept]),
        np.array([r["group"] for r in kept]),
        np.array([r["set"] for r in kept]),
        np.array([int(r["length"]) for r in kept]),
    )


def own_proteins(out: Path, reference: Reference) -> dict[tuple[str, str], np.ndarray]:
    """bool [P] by (category, group): the proteins that the group shares or is named as theirs."""
    relatives = read_relatives(out / "relatives.tsv")
    chosen = (out / "chosen.txt").read_text().split()
    own: dict[tuple[str, str], list[int]] = defaultdict(list)
    named: dict[str, list[int]] = defaultdict(list)
    for row, (name, label) in enumerate(zip(chosen, reference.labels, strict=True)):
        for _, category, group in relatives.get(name, []):
            own[category, group].append(row)
        for group in {label.group, label.family} - {""}:
            named[group].append(row)
    masks = {}
    for key in own.keys() | {("viral", g) for g in named}:
        masks[key] = np.zeros(len(reference), bool)
        masks[key][own.get(key, []) + named.get(key[1], [])] = True
    return masks


def features(out: Path, directory: Path, share: float) -> None:
    """Search and weigh; one row of features a contig."""
    reference, contigs = load(directory), read_contigs(out, share)
    own, sequences = own_proteins(out, reference), dict(read_plain(out / "contigs.fna"))
    found = np.zeros((len(contigs.name), len(FEATURES)))
    plasmid = np.zeros(len(contigs.name), bool)
    none = np.zeros(len(reference), bool)
    order = np.argsort(contigs.length, kind="stable")
    for rows in np.split(
        order, np.flatnonzero(np.diff(np.cumsum(contigs.length[order]) // BATCH)) + 1
    ):
        hits = search([sequences[n] for n in contigs.name[rows]], reference, most=MOST)
        keys = [(contigs.category[r], contigs.group[r]) for r in rows]
        mine = [own.get(key, none) for key in keys]
        keep = [not mine[s][p] for s, p in zip(hits.sequence, hits.protein, strict=True)]
        evidence = weigh(hits.select(np.flatnonzero(keep)), contigs.length[rows], reference)
        found[rows], plasmid[rows] = evidence.features, evidence.plasmid_like
        print(len(rows), int(contigs.length[rows].sum()), len(hits), sum(keep), flush=True)
    np.savez_compressed(out / "features.npz", features=found, plasmid=plasmid, **vars(contigs))


def group_weights(contigs: Contigs, rows: np.ndarray) -> np.ndarray:
    """Every group counts the same, and viruses as much as cells."""
    key = np.char.add(contigs.category[rows], contigs.group[rows])
    _, which, size = np.unique(key, return_inverse=True, return_counts=True)
    weight = 1.0 / size[which]
    for side in (0, 1):
        mine = contigs.virus[rows] == side
        weight[mine] /= weight[mine].sum()
    return weight * len(rows) / 2


def fit(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """[1 + F]: the intercept and the weights of a logistic model."""
    middle, scale = x.mean(axis=0), x.std(axis=0) + 1e-9
    model = LogisticRegression(C=STRENGTH, max_iter=1000)
    model.fit((x - middle) / scale, y, sample_weight=weight)
    slopes = model.coef_[0] / scale
    return np.concatenate([[model.intercept_[0] - (slopes * middle).sum()], slopes])


def in_folds(x: np.ndarray, contigs: Contigs, rows: np.ndarray, seed: int = 3) -> np.ndarray:
    """Log-odds of each row from a model that has not seen its group."""
    key = np.char.add(contigs.category[rows], contigs.group[rows])
    groups, which = np.unique(key, return_inverse=True)
    fold = (np.random.default_rng(seed).permutation(len(groups)) % FOLDS)[which]
    odds, y, weight = np.zeros(len(rows)), contigs.virus[rows], group_weights(contigs, rows)
    for f in range(FOLDS):
        rest = fold != f
        w = fit(x[rest], y[rest], weight[rest])
        odds[~rest] = w[0] + x[~rest] @ w[1:]
    return odds


def figures(odds: np.ndarray, y: np.ndarray, weight: np.ndarray) -> dict[str, float]:
    """AUROC, recall at 5 and 1 % false positives, calibration error; groups count the same."""
    order = np.argsort(-odds)
    false = np.cumsum(weight[order] * (y[order] == 0)) / weight[y == 0].sum()
    true = np.cumsum(weight[order] * (y[order] == 1)) / weight[y == 1].sum()
    p = 1 / (1 + np.exp(-odds))
    bins = np.minimum((p * 10).astype(int), 9)
    error = (
        sum(abs((weight * (p - y))[bins == b].sum()) for b in range(10) if (bins == b).any())
        / weight.sum()
    )
    at = {f: float(true[max(np.searchsorted(false, f) - 1, 0)]) for f in (0.05, 0.01)}
    return {
        "auroc": float(roc_auc_score(y, odds, sample_weight=weight)),
        "recall_at_5pct": at[0.05],
        "recall_at_1pct": at[0.01],
        "calibration_error": float(error),
    }


def weights(out: Path, target: Path) -> None:
    """Measure in folds, fit on all, write."""
    with np.load(out / "features.npz") as z:
        x, plasmid = z["features"], z["plasmid"]
        contigs = Contigs(*(z[f] for f in Contigs.__dataclass_fields__))
    with gzip.open(out / "contigs_scores.tsv.gz", "rt") as table:
        scores = {r["seq_name"]: r["virus_score"] for r in csv.DictReader(table, delimiter="\t")}
    score = np.array([scores[n] for n in contigs.name])
    known = score != "NA"
    p = np.clip(np.where(known, score, "0.5").astype(float), 1e-4, 1 - 1e-4)
    network = np.log(p / (1 - p))[:, None]
    fitted: dict[str, list[np.ndarray]] = {"search": [], "both": []}
    measured: dict[str, dict[str, float]] = {}
    lengths = sorted(set(contigs.length.tolist()))
    for length in lengths:
        rows = np.flatnonzero((contigs.length == length) & known)
        sides = {"network": network, "search": x, "both": np.hstack([network, x])}
        for name, columns in sides.items():
            odds = in_folds(columns[rows], contigs, rows)
            for part in ("test", "more", "all"):
                mine = np.flatnonzero((contigs.part[rows] == part) | (part == "all"))
                chosen = rows[mine]
                entry = figures(odds[mine], contigs.virus[chosen], group_weights(contigs, chosen))
                measured[f"{length} {part} {name}"] = {k: round(v, 4) for k, v in entry.items()}
            if name in fitted:
                fitted[name].append(
                    fit(columns[rows], contigs.virus[rows], group_weights(contigs, rows))
                )
        for category in sorted(set(contigs.category)):
            mine = (contigs.length == length) & (contigs.category == category)
            measured[f"{length} plasmid_like {category}"] = {
                "share": round(float(plasmid[mine].mean()), 4)
            }
    data = {n: Weights(tuple(lengths), tuple(map(tuple, w))).to_json() for n, w in fitted.items()}
    target.write_text(json.dumps(data, indent=1) + "\n")
    (out / "measured.json").write_text(json.dumps(measured, indent=1) + "\n")
    print(json.dumps(measured, indent=1))


if __name__ == "__main__":
    folder, path = Path(sys.argv[2]), Path(sys.argv[3])
    if sys.argv[1] == "features":
        features(folder, path, float(sys.argv[4]) if len(sys.argv) > 4 else 1.0)
    else:
        weights(folder, path)
