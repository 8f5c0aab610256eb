"""What the search of known proteins costs, and how much of DIAMOND's gain it reaches.

    python benchmarks/homology.py CONTIGS.fna [--reference DIR] [--threads N]
    python benchmarks/homology.py CONTIGS.fna --labels contigs.tsv --scores scores.tsv.gz

The first measures the CPU seconds until a small input is answered (in a process of its own), bases
a CPU second and memory; where `diamond` is on the PATH, also DIAMOND's, `--sensitive`, with the
same contigs and proteins.

The second says besides how well the network, each search and both together tell viruses from cells,
in folds that share no group, a contig's hits with proteins of its own group being dropped: labels
as `recipes.reference.contigs` writes them, scores as predict's contigs.tsv has them.
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

import numpy as np
from recipes.reference.fit import Contigs, figures, group_weights, in_folds

from recipes.reference.relatives import read_plain
from virnucpro.homology.choice import SHIPPED_DIRECTORY
from virnucpro.homology.evidence import weigh
from virnucpro.homology.reference import Reference, load
from virnucpro.homology.search import Hits, search
from virnucpro.homology.stretches import AMINO_ACIDS

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


def read_contigs(names: list[str], labels: Path, scores: Path) -> tuple[Contigs, np.ndarray]:
    """(what the contigs are, log-odds of the network [N, 1])."""
    with open(labels) as table:
        label = {r["name"]: r for r in csv.DictReader(table, delimiter="\t")}
    with gzip.open(scores, "rt") if scores.suffix == ".gz" else open(scores) as table:
        score = {r["seq_name"]: r["virus_score"] for r in csv.DictReader(table, delimiter="\t")}
    rows = [label[name] for name in names]
    known = [0.5 if score[name] == "NA" else float(score[name]) for name in names]
    p = np.clip(known, 1e-4, 1 - 1e-4)
    contigs = Contigs(
        np.array(names),
        *(np.array([r[f] for r in rows]) for f in ("virus", "category", "group", "set", "length")),
    )
    contigs.__dict__.update(virus=contigs.virus.astype(int), length=contigs.length.astype(int))
    return contigs, np.log(p / (1 - p))[:, None]


def others_only(hits: Hits, contigs: Contigs, reference: Reference) -> Hits:
    """The hits with proteins that are not of the contig's own group."""
    label = [reference.labels[p] for p in hits.protein.tolist()]
    own = [
        contigs.group[s] in (known.group, known.family)
        for s, known in zip(hits.sequence.tolist(), label, strict=True)
    ]
    return hits.select(np.flatnonzero(~np.array(own, bool)))


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
    said: dict[str, object] = {"sequences": len(names), "bases": bases}
    said["start_first_cpu_s"] = round(start_seconds(options.reference), 2)
    said["start_again_cpu_s"] = round(start_seconds(options.reference), 2)
    reference = load(options.reference)
    most = MOST if options.labels else 8
    hits, used, wall = ours(sequences, reference, options.threads, most)
    said |= {"cpu_s": round(used, 1), "wall_s": round(wall, 1), "hits": len(hits)}
    said["bases_a_cpu_s"] = round(bases / used)
    said["memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000
    found = {"search": hits}
    if shutil.which("diamond"):
        found["diamond"], used = diamond(options.contigs, names, reference)
        said["diamond_bases_a_cpu_s"] = round(bases / used)
    if options.labels and options.scores:
        contigs, network = read_contigs(names, options.labels, options.scores)
        sides = {"network": network}
        for name, rows in found.items():
            evidence = weigh(others_only(rows, contigs, reference), contigs.length, reference)
            sides[name] = evidence.features
            sides[f"network and {name}"] = np.hstack([network, evidence.features])
        everything = np.arange(len(names))
        for name, columns in sides.items():
            odds = in_folds(columns, contigs, everything)
            said[name] = figures(odds, contigs.virus, group_weights(contigs, everything))
        if "diamond" in found:
            base, reached, best = (
                said[name]["auroc"]  # type: ignore[index]
                for name in ("network", "network and search", "network and diamond")
            )
            said["share_of_diamond_gain"] = round((reached - base) / (best - base), 3)
    print(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()
