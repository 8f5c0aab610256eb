"""How well a network of `mini` fits its training windows, by part, compared with validation
windows.

    python -m recipes.mini.fit work run        # with PYTHONPATH=., on a CPU: 8
    minutes

`run` as gather.py leaves it. Windows of 500 bases as the network was trained on, but whole and
as they are. Prints one JSON: AUROC and recall at 5 % false positives of the classifier, of proteins
alone and of nucleotides alone, each window by its longest stretch.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from recipes.mini.campaign import BASE
from recipes.mini.lane import means
from recipes.mini.networks import load_parts
from recipes.mini.windows import CHUNK_LENGTH, HARD_GENOMES, HARD_KINDS, MARKER_SHARE
from virnucpro.models.encoders import read_tokenizers
from virnucpro.training.bundle.batches import BatchShape
from virnucpro.training.bundle.network import Network
from virnucpro.training.bundle.sampling import WindowRules, WindowSampler
from virnucpro.training.bundle.scoring import ContigFrames, FrameScores, score_contigs
from virnucpro.training.bundle.shape import NetworkShape
from virnucpro.training.metrics import auroc, recall_at
from virnucpro.training.store import Store

SETS = {"genomes": (6000, HARD_GENOMES, HARD_KINDS), "markers": (4000, MARKER_SHARE, HARD_KINDS)}
PARTS = {
    "classifier": "logit",
    "proteins alone": "esm2_logit",
    "nucleotides alone": "dnabert_s_logit",
}
BLOCK = 100  # windows a process scores at a time
SHAPE = BatchShape(frames=128, fragments=0, row_length=512, esm2_rows=40, dnabert_s_rows=30)


def score_block(
    work: Path, run: Path, store: Store, rows: np.ndarray, shape: NetworkShape
) -> FrameScores:
    """Scores of the contigs `rows` by the network in `run`, in a process of its own."""
    torch.set_num_threads(1)
    network = Network(shape)
    load_parts(network, run, ("esm2", "dnabert_s", "classifier", "heads"))
    tokenizers = read_tokenizers({name: work / name for name in ("esm2", "dnabert_s")})
    frames = ContigFrames(store, rows, tokenizers, SHAPE, CHUNK_LENGTH, "longest")
    return score_contigs(network, frames, torch.device("cpu"))


def training_windows(work: Path, name: str) -> Store:
    """Unmutated windows of CHUNK_LENGTH from WORK/NAME.npz, as a store: a segment each."""
    n, categories, kinds = SETS[name]
    store = Store.load(work / f"{name}.npz")
    rules = WindowRules(
        CHUNK_LENGTH,
        mutated_share=0,
        full_share=1.0,
        category_share=categories,
        kind_share=kinds,
        group_exponent=BASE.group_exponent,
    )
    found = WindowSampler(store, rules).draw(n, np.random.default_rng(11))
    return Store(
        found.codes,
        found.start,
        found.end - found.start,
        found.record,
        np.zeros(n, np.int64),
        store.labels,
    )


def figures(store: Store, scores: FrameScores, rows: np.ndarray) -> dict:
    """[AUROC, recall at 5 %] of each part on the contigs `rows`."""
    virus = store.labels.virus[store.record[rows]].astype(bool)
    found = {name: means(store, scores, rows, field) for name, field in PARTS.items()}
    return {
        name: [round(auroc(s, virus), 4), round(recall_at(s, virus, 0.05), 3)]
        for name, s in found.items()
    }


def main(work: Path, run: Path) -> None:
    """Print the figures of training and validation windows."""
    results = {}
    shape = NetworkShape(hidden=len(load_file(run / "classifier.safetensors")["hidden_layer.bias"]))
    with multiprocessing.get_context("fork").Pool() as pool:
        for name in SETS:
            store = training_windows(work, name)
            blocks = np.split(np.arange(len(store)), range(BLOCK, len(store), BLOCK))
            found = pool.map(
                partial(score_block, work, run, store, shape=shape), blocks, chunksize=1
            )
            scores = FrameScores(*(np.concatenate(columns) for columns in zip(*found, strict=True)))
            results[f"training, {name}"] = figures(store, scores, np.arange(len(store)))
    contigs = Store.load(work / "contigs.npz")
    with np.load(run / "scores.npz") as z:
        scores = FrameScores(*(z[f"longest_{field}"] for field in FrameScores._fields))
    lab = contigs.labels.select(contigs.record)
    results["validation"] = figures(
        contigs, scores, np.flatnonzero((lab.split == "validation") & (lab.kind == "contig500"))
    )
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
