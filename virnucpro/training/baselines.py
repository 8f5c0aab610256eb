"""What simple methods reach on the same split: length and GC, 6-mers (both logistic), and a protein
search.

A new method must beat these to be worth its time. The logistic ones are scikit-learn's; the search
reads DIAMOND's or MMseqs2's tabular output.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.errors import UsageError
from virnucpro.training.bundle.sampling import WindowRules, WindowSampler
from virnucpro.training.contigs import Contigs, write_fasta
from virnucpro.training.evaluation import Scored, measure
from virnucpro.training.settings import EvaluateSettings
from virnucpro.training.store import CODON_TO_AMINO_ACID, STOP, Store, decode_protein

K = 6
# of DIAMOND, in the directory of the search
SEARCH = (
    "makedb --in train.faa -d train",
    "blastx -q contigs.fna -d train --sensitive -k 30 -e 0.01 -o hits.tsv"
    " -f 6 qseqid sseqid pident length bitscore evalue",
)


def kmer_index(k: int = K) -> np.ndarray:
    """Column of each k-mer when a k-mer and its reverse complement share one, int64 [4^k]."""
    codes = np.arange(4**k)
    reverse = np.zeros_like(codes)
    rest = codes.copy()
    for _ in range(k):
        reverse = reverse * 4 + (3 - rest % 4)
        rest //= 4
    return np.unique(np.minimum(codes, reverse), return_inverse=True)[1]


def kmer_frequencies(sequences: list[np.ndarray], k: int = K) -> np.ndarray:
    """Shares of k-mers of base codes, strands together, float32 [n, columns], times their number
    (about 1 each).
    """
    index = kmer_index(k)
    columns = int(index.max()) + 1
    out = np.zeros((len(sequences), columns), dtype=np.float32)
    for i, codes in enumerate(sequences):
        n = len(codes) - k + 1
        if n > 0:
            value = np.zeros(n, dtype=np.int64)
            for j in range(k):
                value = value * 4 + codes[j : j + n]
            out[i] = np.bincount(index[value], minlength=columns) * (columns / n)
    return out


def length_and_gc(sequences: list[np.ndarray]) -> np.ndarray:
    """log10 length, GC, GC squared; float32 [n, 3]."""
    gc = np.array([((s == 1) | (s == 2)).mean() if len(s) else 0.0 for s in sequences])
    return np.stack([np.log10([max(len(s), 1) for s in sequences]), gc, gc**2], axis=1).astype(
        np.float32
    )


def logistic(
    train: np.ndarray, virus: np.ndarray, test: np.ndarray, strength: float = 1.0
) -> np.ndarray:
    """Scores of `test` by a ridge logistic regression fitted to `train`."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=strength, class_weight="balanced", max_iter=300)
    )
    return model.fit(train, virus).predict_proba(test)[:, 1]


def read_hits(path: Path, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns `query target identity length bitscore evalue`, targets named V... or C..., queries
    by number.

    Gives [n]: best bit score among viral and among cellular proteins (0 for none), and the identity
    (%) of the best viral hit.
    """
    viral, cellular, identity = np.zeros(n), np.zeros(n), np.zeros(n)
    with path.open() as handle:
        for line in handle:
            query, target, percent, _, bits, *_ = line.split("\t")
            q, b = int(query), float(bits)
            if target[0] == "V":
                if b > viral[q]:
                    viral[q], identity[q] = b, float(percent)
            else:
                cellular[q] = max(cellular[q], b)
    return viral, cellular, identity


def long_orfs(codes: np.ndarray, shortest: int) -> Iterator[bytes]:
    """Stop-free stretches of at least `shortest` residues in the six frames of base codes."""
    for strand in (codes, 3 - codes[::-1]):
        if len(strand) < 3 * shortest:
            continue
        residues = CODON_TO_AMINO_ACID[(strand[:-2] << 4) + (strand[1:-1] << 2) + strand[2:]]
        for f in range(3):
            frame = residues[f::3]
            edges = np.concatenate([[-1], np.flatnonzero(frame == STOP), [len(frame)]])
            for a, b in zip(edges[:-1] + 1, edges[1:], strict=True):
                if b - a >= shortest:
                    yield decode_protein(frame[a:b])


def measure_baselines(
    store: Store, contigs: Contigs, scored: Scored, settings: EvaluateSettings, say: Callable
) -> dict[str, Any]:
    """Length + GC, 6-mers, and DIAMOND where it is installed, learned on windows of the training
    side; by length.
    """
    learned = store.select_records(store.labels.split == "train")
    windows = WindowSampler(learned, WindowRules(500, 200, mutated_share=0.0)).draw(
        6000, np.random.default_rng(settings.seed)
    )
    training = [windows.codes[a:b] for a, b in zip(windows.start, windows.end, strict=True)]
    found = {
        "length and GC": logistic(
            length_and_gc(training), windows.virus, length_and_gc(contigs.codes)
        ),
        "6-mers": logistic(
            kmer_frequencies(training), windows.virus, kmer_frequencies(contigs.codes), 0.001
        ),
    }
    identity = None
    if shutil.which("diamond"):
        say("protein search (DIAMOND)")
        search = settings.output / "search"
        found["protein search"], identity = protein_search(learned, contigs, search)
    out: dict[str, Any] = {}
    for name, score in found.items():
        for length in settings.contig_lengths:
            rows = contigs.length == length
            if rows.any() and contigs.virus[rows].any() and not contigs.virus[rows].all():
                nothing = np.full(int(rows.sum()), np.nan)
                alone = replace(scored.select(rows), score=score[rows], probability=nothing)
                m = measure(alone, 100)
                out.setdefault(name, {})[str(length)] = {
                    k: m[k] for k in ("auroc", "recall_at_1pct", "recall_at_5pct")
                }
    if identity is not None:
        out["recall_by_identity"] = recall_by_identity(scored, identity)
    return out


def protein_search(
    store: Store, contigs: Contigs, directory: Path
) -> tuple[np.ndarray, np.ndarray]:
    """(best viral minus best cellular bit score, identity of the best viral hit), by blastx against
    the training side's ORFs.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "train.faa").open("wb") as handle:
        number = 0
        for i in range(len(store)):
            kind = b"V" if store.labels.virus[store.record[i]] else b"C"
            for protein in long_orfs(store.segment(i), 60):
                handle.write(b">%s%d\n%s\n" % (kind, number, protein))
                number += 1
    write_fasta(directory / "contigs.fna", contigs.codes, "")
    for command in map(shlex.split, SEARCH):
        done = subprocess.run(
            ["diamond", *command, "--quiet"], cwd=directory, capture_output=True, text=True
        )
        if done.returncode:
            raise UsageError(
                f"diamond {command[0]} failed: {done.stderr.strip()[-300:]}; use --no-baselines"
            )
    viral, cellular, identity = read_hits(directory / "hits.tsv", len(contigs.codes))
    return viral - cellular, identity


def recall_by_identity(s: Scored, identity: np.ndarray) -> dict:
    """Viral contigs by the identity (%) of their best hit among viral training proteins: number,
    groups, recall at 0.5.
    """
    out = {}
    called = s.deciding >= 0.5
    for name, rows in identity_strata(identity).items():
        mine = s.virus & rows
        if mine.any():
            out[name] = {
                "sequences": int(mine.sum()),
                "groups": len(set(s.group[mine])),
                "recall": round(float(called[mine].mean()), 4),
            }
    return out


def identity_strata(identity: np.ndarray) -> dict[str, np.ndarray]:
    """Masks of the strata; 0 stands for no hit."""
    return {
        "no hit": identity == 0,
        "<30": (identity > 0) & (identity < 30),
        "30-50": (identity >= 30) & (identity < 50),
        "50-70": (identity >= 50) & (identity < 70),
        ">70": identity >= 70,
    }
