"""Which stretches of a window should count, and how: AUROC and recall at 5 % false positives on
500-base validation windows.

    python -m recipes.mini.frames work run bundle        # with PYTHONPATH=.; ten
    minutes on two cores

`run` and `bundle` as in more_scores.py. Of every window the longest stretch of each frame is
scored. Prints a line for each way of joining them: the mean of the logits of the `most` longest
ones that have a `share` of the longest one's residues, weighted by residues to a power, or
`maxima`, the highest score of a virus against the highest of another, as of open frames. `cost`:
residues to embed, the longest alone being 1.
"""

from __future__ import annotations

import multiprocessing
import sys
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from recipes.mini.finish import needed_scores, policy_of
from recipes.mini.more_scores import score, scored
from recipes.mini.windows import CHUNK_LENGTH, POLICY
from virnucpro.sequences import frames
from virnucpro.training.bundle.scoring import frames_of_contigs
from virnucpro.training.metrics import auroc, recall_at
from virnucpro.training.store import Store

MOST, SHARES, POWERS = (1, 2, 3, 6), (0.0, 0.4, 0.5, 0.7), (0, 1, 2, 3)


def main(work: Path, run: Path, bundle: Path) -> None:
    """Print a line for each way of joining."""
    contigs, path = Store.load(work / "contigs.npz"), run / "scores.npz"
    frames.LEAST_OF_THE_LONGEST = 0, 1  # all that have 20 residues
    lab = contigs.labels.select(contigs.record)
    rows = np.flatnonzero((lab.split == "validation") & (lab.kind == "contig500"))
    what, every = frames_of_contigs(contigs, rows, CHUNK_LENGTH, POLICY)
    lengths = np.zeros((len(rows), 6))
    lengths[np.searchsorted(rows, what.contig), what.frame] = what.aa_length
    lengths.sort(axis=1)
    second = lengths[:, -2] >= 0.8 * lengths[:, -1]
    virus = lab.virus[rows].astype(bool)
    print(
        f"a second stretch of 0.8 of the longest: {second[virus].mean():.3f} of viral windows,"
        f" {second[~virus].mean():.3f} of others"
    )
    with multiprocessing.get_context("fork").Pool() as pool:
        work_of = partial(pool.map, partial(score, run, bundle), chunksize=1)
        found = scored(what, every, needed_scores(path, policy_of(path)), work_of)
    order = np.lexsort((found.frame, -found.aa_length, found.contig))
    contig = found.contig[order]
    at = np.searchsorted(rows, contig)
    rank = np.arange(len(order)) - np.searchsorted(contig, contig)
    logit, residues = np.zeros((len(rows), 6)), np.zeros((len(rows), 6))
    logit[at, rank], residues[at, rank] = found.logit[order], found.aa_length[order]
    for most, share in product(MOST, SHARES):
        if most == 1 and share:
            continue
        taken = (np.arange(6) < most) & (residues > 0) & (residues >= share * residues[:, :1])
        line = [
            f"most {most}  share {share}  cost"
            f" {(residues * taken).sum() / residues[:, 0].sum():.2f}"
        ]
        scores = np.where(taken, 1 / (1 + np.exp(-logit)), np.nan)
        highest, others = np.nanmax(scores, axis=1), np.nanmax(1 - scores, axis=1)
        joined = highest / (highest + others)
        line.append(f"maxima: {auroc(joined, virus):.4f} {recall_at(joined, virus, 0.05):.3f}")
        for power in POWERS if most > 1 else (0,):
            weight = np.where(taken, np.maximum(residues, 1.0) ** power, 0)
            joined = (weight * logit).sum(1) / np.maximum(weight.sum(1), 1e-9)
            line.append(
                f"power {power}: {auroc(joined, virus):.4f} {recall_at(joined, virus, 0.05):.3f}"
            )
        print("   ".join(line), flush=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
