"""What the reference proteins say of contigs that no training saw; the first half of
evidence_fit.py, which needs it once for any number of networks.

    python -m recipes.mini.evidence_hits TABLE FASTA RELATIVES HITS [--reference DIR]

TABLE and FASTA are oof.py's; RELATIVES is the folder that recipes/reference left (`relatives.tsv`,
`chosen.txt`). HITS gets a file of about 2 million bases each: `row` of TABLE, and its hits,
[H] each, with `own`: whether the protein is one of the contig's own group or near-identical to
one (recipes/reference/relatives.py). A file that is there is not made again.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import fields
from pathlib import Path

import numpy as np

from recipes.reference.choose import read_relatives
from recipes.reference.relatives import read_plain
from virnucpro.homology.choice import SHIPPED_DIRECTORY
from virnucpro.homology.evidence import Evidence, weigh
from virnucpro.homology.reference import Reference, load
from virnucpro.homology.search import Hits, search

BATCH = 2_000_000  # bases
MOST_HITS = 60  # hits of a stretch, of which the group's own proteins are dropped
# by length: of viruses, and of each category of cells
MOST_CONTIGS = {
    300: (400, 200),
    500: (1200, 600),
    1000: (600, 350),
    3000: (600, 400),
    10000: (200, 80),
}


def own_proteins(folder: Path, reference: Reference) -> dict[tuple[str, str], np.ndarray]:
    """int64 [n] by (category, group): the proteins that the group's genomes share 9-mers with, or
    that are named as the group's.
    """
    relatives = read_relatives(folder / "relatives.tsv")
    chosen = (folder / "chosen.txt").read_text().split()
    own: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, (name, label) in enumerate(zip(chosen, reference.labels, strict=True)):
        for _, category, group in relatives.get(name, []):
            own[category, group].append(row)
        side = "viral" if label.label == "viral" else "cellular"
        for group in {label.group, label.family} - {""}:
            own[side, group].append(row)
    return {key: np.array(rows) for key, rows in own.items()}


def own_of_units(
    table: dict[str, np.ndarray], own: dict[tuple[str, str], np.ndarray], n: int
) -> dict[int, np.ndarray]:
    """bool [proteins] of each unit: the proteins of all its groups."""
    groups = defaultdict(set)
    for unit, category, group in zip(
        *(table[k].tolist() for k in ("unit", "category", "group")), strict=True
    ):
        groups[unit].add((category, group))
        groups[unit].add(("viral" if category == "viral" else "cellular", group))
    masks = {}
    for unit, keys in groups.items():
        masks[unit] = np.zeros(n, bool)
        for key in keys & own.keys():
            masks[unit][own[key]] = True
    return masks


def sample(table: dict[str, np.ndarray], seed: int = 21) -> np.ndarray:
    """Rows of MOST_CONTIGS with a score of every category and length, of all its groups in turn,
    mixed.
    """
    rng, n = np.random.default_rng(seed), len(table["length"])
    order, turn = rng.permutation(n), np.zeros(n)
    seen: dict[tuple[str, str, int], int] = defaultdict(int)
    keys = list(zip(*(table[k].tolist() for k in ("category", "group", "length")), strict=True))
    for row in order.tolist():
        turn[row] = seen[keys[row]]
        seen[keys[row]] += 1
    order = order[np.argsort(turn[order], kind="stable")]
    kept = []
    for category in sorted(set(table["category"].tolist())):
        for length, (viral, other) in MOST_CONTIGS.items():
            mine = (table["category"] == category) & (table["length"] == length)
            mine &= ~np.isnan(table["logit"])
            kept.append(order[mine[order]][: viral if category == "viral" else other])
    return rng.permutation(np.concatenate(kept))


def run(table: dict[str, np.ndarray], fasta: Path, folder: Path, out: Path, where: Path) -> None:
    """Search one batch after another."""
    reference = load(where)
    own = own_of_units(table, own_proteins(folder, reference), len(reference))
    sequences, order = dict(read_plain(fasta)), sample(table)
    done = np.cumsum(table["length"][order])
    out.mkdir(parents=True, exist_ok=True)
    for number in range(-(-int(done[-1]) // BATCH)):
        path = out / f"{number:03}.npz"
        if path.exists():
            continue
        first, last = np.searchsorted(done, [number * BATCH, (number + 1) * BATCH])
        rows = order[first:last]
        hits = search([sequences[i] for i in table["id"][rows].tolist()], reference, most=MOST_HITS)
        unit = table["unit"][rows][hits.sequence].tolist()
        mine = [own[u][p] for u, p in zip(unit, hits.protein.tolist(), strict=True)]
        columns = {f.name: getattr(hits, f.name) for f in fields(Hits)}
        with path.with_suffix(".part").open("wb") as stream:
            np.savez_compressed(stream, row=rows, own=np.array(mine, bool), **columns)
        path.with_suffix(".part").rename(path)
        print(f"{path.name}: {len(rows):,} contigs, {len(hits):,} hits", flush=True)


def read_features(folder: Path, length: np.ndarray) -> tuple[np.ndarray, Evidence]:
    """(rows of TABLE, their evidence without hits with their own proteins) of all files of HITS;
    `length` is TABLE's.
    """
    reference, rows, parts = load(SHIPPED_DIRECTORY), [], []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as z:
            hits = Hits(*(z[f.name] for f in fields(Hits))).select(np.flatnonzero(~z["own"]))
            rows.append(z["row"])
        parts.append(weigh(hits, length[rows[-1]], reference))
    found, first = np.unique(np.concatenate(rows), return_index=True)
    together = Evidence.concatenate(parts)
    return found, Evidence(*(getattr(together, f.name)[first] for f in fields(Evidence)))


def main() -> None:
    """Write HITS."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("table", "fasta", "relatives", "hits"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--reference", type=Path, default=SHIPPED_DIRECTORY)
    options = parser.parse_args()
    with np.load(options.table) as z:
        table = {k: z[k] for k in ("id", "unit", "category", "group", "length", "logit")}
    run(table, options.fasta, options.relatives, options.hits, options.reference)


if __name__ == "__main__":
    main()
