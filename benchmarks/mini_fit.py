"""How well a network of `mini` fits its own training windows, by part, beside validation windows.

    python -P benchmarks/mini_fit.py work run        # with PYTHONPATH=.:benchmarks, on a CPU: 8 minutes

`run` as mini_gather.py leaves it. Windows of 500 bases as the network was trained on, but whole and as they are. Prints one JSON: AUROC and
recall at 5 % false positives of the classifier, of proteins alone and of nucleotides alone.
"""
from __future__ import annotations

import json
import multiprocessing
import sys
from functools import partial
from pathlib import Path

import numpy as np
from mini_campaign import BASE
from mini_lane import means
from mini_more_scores import score_block
from mini_windows import CHUNK_LENGTH, HARD_GENOMES, HARD_KINDS, MARKER_SHARE, POLICY
from safetensors.torch import load_file

from virnucpro.training.metrics import auroc, recall_at
from virnucpro.training.network import NetworkShape
from virnucpro.training.sampling import WindowRules, WindowSampler
from virnucpro.training.scoring import FrameScores
from virnucpro.training.store import Store

SETS = {"genomes": (6000, HARD_GENOMES, HARD_KINDS), "markers": (4000, MARKER_SHARE, HARD_KINDS)}
PARTS = {"classifier": "logit", "proteins alone": "esm2_logit", "nucleotides alone": "dnabert_s_logit"}
BLOCK = 100  # windows a process scores at a time


def training_windows(work: Path, name: str) -> Store:
    """Unmutated windows of CHUNK_LENGTH from WORK/NAME.npz, as a store: a segment each."""
    n, categories, kinds = SETS[name]
    store = Store.load(work / f"{name}.npz")
    rules = WindowRules(CHUNK_LENGTH, mutated_share=0, full_share=1.0, category_share=categories, kind_share=kinds,
                        group_exponent=BASE.group_exponent)  # fmt: skip
    found = WindowSampler(store, rules).draw(n, np.random.default_rng(11))
    return Store(found.codes, found.start, found.end - found.start, found.record, np.zeros(n, np.int64), store.labels)


def figures(store: Store, scores: FrameScores, rows: np.ndarray) -> dict:
    """[AUROC, recall at 5 %] of each part on the contigs `rows`."""
    virus = store.labels.virus[store.record[rows]].astype(bool)
    found = {name: means(store, scores, rows, field) for name, field in PARTS.items()}
    return {name: [round(auroc(s, virus), 4), round(recall_at(s, virus, 0.05), 3)] for name, s in found.items()}


def main(work: Path, run: Path) -> None:
    results = {}
    shape = NetworkShape(hidden=len(load_file(run / "classifier.safetensors")["hidden_layer.bias"]))
    with multiprocessing.get_context("fork").Pool() as pool:
        for name in SETS:
            store = training_windows(work, name)
            blocks = np.split(np.arange(len(store)), range(BLOCK, len(store), BLOCK))
            found = pool.map(partial(score_block, work, run, store, shape=shape, policy=POLICY), blocks, chunksize=1)
            scores = FrameScores(*(np.concatenate(columns) for columns in zip(*found, strict=True)))
            results[f"training, {name}"] = figures(store, scores, np.arange(len(store)))
    contigs = Store.load(work / "contigs.npz")
    with np.load(run / "scores.npz") as z:
        scores = FrameScores(*(z[f"{POLICY}_{field}"] for field in FrameScores._fields))
    lab = contigs.labels.select(contigs.record)
    results["validation"] = figures(contigs, scores, np.flatnonzero((lab.split == "validation") & (lab.kind == "contig500")))
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
