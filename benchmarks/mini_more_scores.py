"""Version 2's network on the sets that came later: shuffled contigs and windows with N, beside what it was scored on.

    python -P benchmarks/mini_more_scores.py work run out.npz        # with PYTHONPATH=.:benchmarks, on a CPU

`run` holds the parts of the network and its scores.npz; contigs are rows of work/contigs.npz. `out.npz` gets these and the new scores,
and which contigs they are of (`longest_taken`, `blurred-SIDE_taken`): of the windows with N every sixth.
"""
from __future__ import annotations

import multiprocessing
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from mini_data import blurred_sets
from mini_windows import CHUNK_LENGTH

from virnucpro.sequences.tokens import Tokenizers
from virnucpro.training.batches import BatchShape
from virnucpro.training.network import Network, NetworkShape
from virnucpro.training.saving import load_parts
from virnucpro.training.scoring import FrameScores, score_contigs
from virnucpro.training.store import Store

NETWORK = NetworkShape(esm2_heads=20, dnabert_s_heads=8)  # version 2's
SHAPE = BatchShape(frames=128, fragments=0, row_length=512, esm2_rows=40, dnabert_s_rows=30)  # an N is a token
KINDS = ("shuffled3000", "shuffled500")


def score_block(work: Path, run: Path, store: Store, rows: np.ndarray, shape: NetworkShape = NETWORK,
                policy: str = "longest") -> FrameScores:  # fmt: skip
    """Scores of the contigs `rows` by the network in `run`, in a process of its own."""
    torch.set_num_threads(1)
    network = Network(shape)
    load_parts(network, run, ("esm2", "dnabert_s", "classifier", "heads"))
    tokenizers = Tokenizers(work / "esm2", work / "dnabert_s")
    return score_contigs(network, store, rows, tokenizers, SHAPE, CHUNK_LENGTH, policy, torch.device("cpu"))


def main(work: Path, run: Path, out: Path) -> None:
    contigs = Store.load(work / "contigs.npz")
    with np.load(run / "scores.npz") as z:
        kept = {k: z[k] for k in z.files}
    taken, sets = [kept.get("longest_taken", np.arange(kept["longest_contig"].max() + 1))], []
    for kind in KINDS:
        rows = np.setdiff1d(np.flatnonzero(contigs.labels.kind[contigs.record] == kind), taken[0])
        rows = rows[contigs.labels.split[contigs.record[rows]] == "validation"]
        sets += [("longest", contigs, rows)] if len(rows) else []
        taken.append(rows)
    kept["longest_taken"] = np.concatenate(taken)
    for side in ("validation", "test"):
        store = blurred_sets(contigs.select_records(contigs.labels.split == side))
        kept[f"blurred-{side}_taken"] = np.arange(0, len(store), 6)
        sets.append((f"blurred-{side}", store, kept[f"blurred-{side}_taken"]))
    with multiprocessing.get_context("fork").Pool() as pool:
        for prefix, store, rows in sets:
            blocks = np.split(rows, np.flatnonzero(np.diff(np.cumsum(store.length[rows]) // 60_000)) + 1)
            found = pool.map(partial(score_block, work, run, store), blocks, chunksize=1)
            for name, *columns in zip(FrameScores._fields, *found, strict=True):
                key = f"{prefix}_{name}"
                kept[key] = np.concatenate([kept[key], *columns] if key in kept else columns)
            order = np.lexsort([kept[f"longest_{k}"] for k in ("frame", "chunk", "contig")])
            kept |= {f"longest_{k}": kept[f"longest_{k}"][order] for k in FrameScores._fields}
            np.savez_compressed(out, **kept)
            print(prefix, len(rows), "contigs", flush=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
