"""What the search of known proteins costs, and how much of DIAMOND's gain it reaches.

    python -m benchmarks.homology CONTIGS.fna [--reference DIR] [--threads N]
    python -m benchmarks.homology CONTIGS.fna --labels contigs.tsv --scores scores.tsv.gz

The first measures the CPU seconds until a small input is answered (in a process of its own), bases
a CPU second and memory; where `diamond` is on the PATH, also DIAMOND's, `--sensitive`, with the
same contigs and proteins.

The second also says how well the network, each search and both together tell viruses from cells,
in folds that share no group; hits of a contig with proteins of its own group are dropped. The
labels are a table with the columns name, virus, category and group, the scores predict's
contigs.tsv of a run without the search.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from recipes.mini.evidence_fit import FOLDS, Contigs, even, without_own_fold
from recipes.reference.relatives import read_plain
from virnucpro.homology.choice import SHIPPED_DIRECTORY
from virnucpro.homology.evidence import Evidence, weigh
from virnucpro.homology.reference import Reference, load
from virnucpro.homology.search import Hits, search
from virnucpro.homology.stretches import AMINO_ACIDS
from virnucpro.training.metrics import auroc, recall_at

BATCH = 2_000_000  # bases, as a run takes them
MOST = 100  # hits of a stretch before its own group's are dropped
START = """
import sys
from pathlib import Path
from virnucpro.homology.reference import load
from virnucpro.homology.search import search
search([b"ATGGCTAAAGGTCTG" * 70], load(Path(sys.argv[1])))
"""


def cpu(who: int) -> float:
    """CPU seconds of this process (RUSAGE_SELF) or of those that it waited for."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def start_seconds(directory: Path) -> float:
    """CPU seconds of a process that searches one short sequence."""
    before = cpu(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", START, str(directory)], check=True)
    return cpu(resource.RUSAGE_CHILDREN) - before


def ours(
    sequences: list[bytes], reference: Reference, threads: int, most: int
) -> tuple[Hits, float, float]:
    """(hits, CPU seconds, wall seconds)."""
    search(sequences[:1], reference)  # compiled code is loaded
    parts, first, used, began = [], 0, cpu(resource.RUSAGE_SELF), time.perf_counter()
    ends = np.cumsum([len(s) for s in sequences])
    while first < len(sequences):
        done = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + BATCH, "right")))
        hits = search(sequences[first:last], reference, threads, most)
        rest = [getattr(hits, f) for f in list(Hits.__dataclass_fields__)[1:]]
        parts.append(Hits(hits.sequence + first, *rest))
        first = last
    seconds = time.perf_counter() - began
    return Hits.concatenate(parts), cpu(resource.RUSAGE_SELF) - used, seconds


def diamond(contigs: Path, names: list[str], reference: Reference) -> tuple[Hits, float]:
    """DIAMOND's hits with the same proteins, one thread; its CPU seconds without its index."""
    letters = np.frombuffer((AMINO_ACIDS + "X").encode(), np.uint8)[reference.proteins.residues]
    with tempfile.TemporaryDirectory() as folder:
        proteins, table = Path(folder, "proteins.faa"), Path(folder, "hits.tsv")
        with open(proteins, "wb") as out:
            rows = zip(reference.proteins.begin, reference.proteins.end, strict=True)
            for i, (a, b) in enumerate(rows):
                out.write(b">%d\n%s\n" % (i, letters[a:b].tobytes()))
        quiet = ["--threads", "1", "--quiet", "--db", f"{folder}/db"]
        subprocess.run(["diamond", "makedb", "--in", str(proteins), *quiet], check=True)
        before = cpu(resource.RUSAGE_CHILDREN)
        columns = ["qseqid", "sseqid", "qstart", "qend", "nident", "length", "bitscore", "evalue"]
        asked = ["--query", str(contigs), "--out", str(table), "--evalue", "10"]
        asked += ["--sensitive", "--max-target-seqs", str(MOST), "--outfmt", "6", *columns]
        subprocess.run(["diamond", "blastx", *quiet, *asked], check=True)
        used = cpu(resource.RUSAGE_CHILDREN) - before
        rows = [line.split("\t") for line in table.read_text().splitlines()]
    number = {name: i for i, name in enumerate(names)}
    sequence = np.array([number[r[0]] for r in rows], np.int32)
    a, b, identical, columns_ = (np.array([int(r[k]) for r in rows]) for k in (2, 3, 4, 5))
    bits, evalue = (np.array([float(r[k]) for r in rows]) for k in (6, 7))
    protein = np.array([int(r[1]) for r in rows], np.int32)
    start, end = np.minimum(a, b) - 1, np.maximum(a, b)
    hits = Hits(sequence, protein, start, end, a > b, identical, columns_, bits, evalue)
    return hits.select(np.lexsort((protein, -bits, sequence))), used


def read_labels(names: list[str], labels: Path, scores: Path) -> list[dict[str, str]]:
    """What is known of each contig, with the network's score."""
    with open(labels) as table:
        label = {r["name"]: r for r in csv.DictReader(table, delimiter="\t")}
    with gzip.open(scores, "rt") if scores.suffix == ".gz" else open(scores) as table:
        score = {r["seq_name"]: r["virus_score"] for r in csv.DictReader(table, delimiter="\t")}
    return [{**label[name], "score": score[name]} for name in names]


def others_only(hits: Hits, group: list[str], reference: Reference) -> Hits:
    """The hits with proteins that are not of the contig's own group."""
    label = [reference.labels[p] for p in hits.protein.tolist()]
    pairs = zip(hits.sequence.tolist(), label, strict=True)
    own = [group[s] in (known.group, known.family) for s, known in pairs]
    return hits.select(np.flatnonzero(~np.array(own, bool)))


def contigs_of(rows: list[dict[str, str]], length: np.ndarray, evidence: Evidence) -> Contigs:
    """What is fitted and measured on, in folds of whole groups."""
    score = np.array([0.5 if r["score"] == "NA" else float(r["score"]) for r in rows])
    score = np.clip(score, 1e-4, 1 - 1e-4)
    group = np.array([f"{r['category']}/{r['group']}" for r in rows])
    groups, which = np.unique(group, return_inverse=True)
    return Contigs(
        evidence.features,
        np.log(score / (1 - score)),
        np.array([r["virus"] == "1" for r in rows]),
        np.array([r["category"] for r in rows]),
        group,
        (np.random.default_rng(3).permutation(len(groups)) % FOLDS)[which],
        length,
        np.nan_to_num(evidence.closest_identity),
        evidence.plasmid_like,
    )


def gains(rows: list[dict[str, str]], length: np.ndarray, found: dict[str, Hits], reference):
    """Figures of the network, each search and both together, and the share of DIAMOND's gain."""
    said: dict[str, Any] = {}
    for name, hits in found.items():
        own = others_only(hits, [r["group"] for r in rows], reference)
        contigs = contigs_of(rows, length, weigh(own, length, reference))
        for model, odds in without_own_fold(contigs).items():
            weight = even(contigs)
            said[model if model == "network" else f"{model}, {name}"] = {
                "auroc": round(auroc(odds, contigs.virus, weight), 4),
                "recall_at_5pct": round(recall_at(odds, contigs.virus, 0.05, weight), 4),
                "recall_at_1pct": round(recall_at(odds, contigs.virus, 0.01, weight), 4),
            }
    if "diamond" in found:
        base, ours_, best = (
            said[name]["auroc"] for name in ("network", "both, ours", "both, diamond")
        )
        said["share_of_diamond_gain"] = round((ours_ - base) / (best - base), 3)
    return said


def main() -> None:
    """Measure and print, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("contigs", type=Path)
    parser.add_argument("--reference", type=Path, default=SHIPPED_DIRECTORY)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--scores", type=Path)
    options = parser.parse_args()
    records = list(read_plain(options.contigs))
    names, sequences = [n for n, _ in records], [s for _, s in records]
    bases = sum(map(len, sequences))
    said: dict[str, Any] = {"sequences": len(names), "bases": bases}
    said["start_first_cpu_s"] = round(start_seconds(options.reference), 2)
    said["start_again_cpu_s"] = round(start_seconds(options.reference), 2)
    reference = load(options.reference)
    most = MOST if options.labels else 8
    hits, used, wall = ours(sequences, reference, options.threads, most)
    said |= {"cpu_s": round(used, 1), "wall_s": round(wall, 1), "hits": len(hits)}
    said["bases_a_cpu_s"] = round(bases / used)
    said["memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000
    found = {"ours": hits}
    if shutil.which("diamond"):
        found["diamond"], used = diamond(options.contigs, names, reference)
        said["diamond_bases_a_cpu_s"] = round(bases / used)
    if options.labels and options.scores:
        rows = read_labels(names, options.labels, options.scores)
        said |= gains(rows, np.array([len(s) for s in sequences]), found, reference)
    print(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()
