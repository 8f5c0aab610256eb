"""Scores of the frames that a run has none of, by a bundle of its network on a CPU: those of
another frame policy, on the same contigs.

    python -m recipes.mini.more_scores work run bundle out        # with
    PYTHONPATH=.; 45 minutes on two cores

`run` as gather.py leaves it; its contigs are rows of work/contigs.npz. `out` gets the same
files: those scores of the run that are of POLICY too with the missing ones, and the classifier with
a share of the proteins' one that is chosen again. Of the windows with N it has every
`EVERY_BLURRED`th (`blurred-SIDE_taken`).
"""

from __future__ import annotations

import multiprocessing
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from recipes.mini.contig_sets import blurred_sets
from recipes.mini.finish import needed_scores, policy_of
from recipes.mini.gather import share_proteins
from recipes.mini.windows import CHUNK_LENGTH, POLICY
from virnucpro.embedding.plan import make_plan
from virnucpro.models.classifier import Classifier
from virnucpro.models.dnabert_s import load_dnabert_s
from virnucpro.models.encoders import read_tokenizers
from virnucpro.models.esm2 import load_esm2
from virnucpro.models.packing import pack
from virnucpro.sequences.frames import Frames
from virnucpro.training.bundle.scoring import FrameScores, frames_of_contigs
from virnucpro.training.store import Store

EVERY_BLURRED = 6
TOKENS = 4096  # of a batch
FRAMES = 1000  # that a process has at a time


def embedded(encoder, tokens: tuple[np.ndarray, np.ndarray]) -> torch.Tensor:
    """fp32 [n, width] of token ids end to end, and their lengths."""
    ids = [part.astype(np.int64) for part in np.split(tokens[0], np.cumsum(tokens[1])[:-1])]
    vectors = torch.empty(len(ids), encoder.width)
    plan = make_plan(np.arange(len(ids)), tokens[1].astype(np.int64), TOKENS)
    for rows in map(plan.batch, range(len(plan))):
        vectors[rows] = encoder.embed(pack([ids[i] for i in rows], TOKENS, encoder.pad_id))
    return vectors


def score(run: Path, bundle: Path, frames: tuple[list[bytes], list[bytes]]) -> np.ndarray:
    """float32 [3, n]: virus minus others of the classifier, of the proteins' head and of the
    nucleotides' head; in a process of its own.
    """
    torch.set_num_threads(1)
    tokenizers = read_tokenizers({name: bundle / name for name in ("esm2", "dnabert_s")})
    protein = embedded(load_esm2(bundle / "esm2", "cpu", "fp32"), tokenizers["esm2"](frames[0]))
    dna = embedded(
        load_dnabert_s(bundle / "dnabert_s", "cpu", "fp32"), tokenizers["dnabert_s"](frames[1])
    )
    odds = np.log(
        Classifier.load(bundle / "classifier.safetensors").scores(
            torch.cat([dna, protein], dim=1).numpy()
        )
    )
    heads, single = load_file(run / "heads.safetensors"), []
    for name, vectors in (("esm2_only", protein), ("dnabert_s_only", dna)):
        logits = vectors @ heads[f"{name}.weight"].float().T + heads[f"{name}.bias"].float()
        single.append((logits[:, 1] - logits[:, 0]).numpy())
    return np.stack([odds[:, 1] - odds[:, 0], *single]).astype(np.float32)


def key(scores: FrameScores) -> np.ndarray:
    """A number a frame: contig, chunk and frame."""
    return (scores.contig.astype(np.int64) * 1_000 + scores.chunk) * 10 + scores.frame


def scored(what: FrameScores, found: Frames, known: FrameScores, work) -> FrameScores:
    """`what`, which describes `found`, with the scores that are known, and those that `work(list of
    (proteins, nucleotides))` gives.
    """
    mine, order = key(what), np.argsort(key(known))
    at = np.minimum(np.searchsorted(key(known), mine, sorter=order), len(order) - 1)
    at = order[at]
    there = (key(known)[at] == mine) & (known.aa_length[at] == what.aa_length)
    logits = np.stack([np.where(there, column[at], np.nan) for column in known[5:]]).astype(
        np.float32
    )
    missing = np.flatnonzero(~there)
    missing = missing[np.argsort(-what.aa_length[missing], kind="stable")]
    parts = np.split(missing, range(FRAMES, len(missing), FRAMES)) if len(missing) else []
    texts = [
        ([found.proteins[i] for i in rows], [found.nucleotides[i] for i in rows]) for rows in parts
    ]
    for rows, new in zip(parts, work(texts), strict=True):
        logits[:, rows] = new
    return FrameScores(*what[:5], *logits)


def main(work: Path, run: Path, bundle: Path, out: Path) -> None:
    """Score what is missing, and write the whole run."""
    contigs, path = Store.load(work / "contigs.npz"), run / "scores.npz"
    lab = contigs.labels.select(contigs.record)
    known, sets, kept = needed_scores(path, policy_of(path)), [], {}
    for split in ("validation", "test"):
        for kind in sorted(
            set(lab.kind[lab.split == split]),
            key=lambda kind: (not kind.startswith("contig"), kind),
        ):
            sets.append(
                (
                    POLICY,
                    contigs,
                    np.flatnonzero((lab.split == split) & (lab.kind == kind)),
                    known,
                    f"{split} {kind}",
                )
            )
    for split in ("validation", "test"):
        store, prefix = (
            blurred_sets(contigs.select_records(contigs.labels.split == split)),
            f"blurred-{split}",
        )
        kept[f"{prefix}_taken"] = np.arange(0, len(store), EVERY_BLURRED)
        sets.append((prefix, store, kept[f"{prefix}_taken"], needed_scores(path, prefix), prefix))
    sets = sorted(sets, key=lambda s: "blurred" in s[0])
    with multiprocessing.get_context("fork").Pool() as pool, np.load(path) as z:
        kept |= {name: z[name] for name in z.files if name.startswith(("open_", "longest_"))}
        for prefix, store, rows, before, what in sets:
            work_of = partial(pool.map, partial(score, run, bundle), chunksize=1)
            found = scored(*frames_of_contigs(store, rows, CHUNK_LENGTH, POLICY), before, work_of)
            for name, column in found._asdict().items():
                field = f"{prefix}_{name}"
                kept[field] = np.concatenate([kept[field], column]) if field in kept else column
            order = np.lexsort([kept[f"{prefix}_{k}"] for k in ("frame", "chunk", "contig")])
            kept |= {f"{prefix}_{k}": kept[f"{prefix}_{k}"][order] for k in FrameScores._fields}
            print(what, len(rows), "contigs", len(found.contig), "frames", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    for file in run.iterdir():
        if file.suffix in (".safetensors", ".jsonl"):
            shutil.copyfile(file, out / file.name)
    share_proteins(out, kept, contigs)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:5]))
