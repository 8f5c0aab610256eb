"""What the reference proteins say of contigs that no training saw; the first half of
evidence_fit.py, which needs it once for any number of networks.

    python -m recipes.mini.evidence_hits TABLE FASTA RELATIVES HITS [--reference DIR] [--bases N]

TABLE and FASTA are oof.py's; RELATIVES is the folder that recipes/reference left (`relatives.tsv`,
`chosen.txt`). HITS gets a file of about 2 million bases each: `row` of TABLE, and its hits,
[H] each, with `own`: whether the protein is one of the contig's own group or near-identical to
one (recipes/reference/relatives.py). The same length of every group comes in turn, so that the
first files are already an even sample; a file that is there is not made again.
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
from virnucpro.homology.reference import Reference, load
from virnucpro.homology.search import Hits, search

BATCH = 2_000_000  # bases
MOST = 60  # hits of a stretch, of which the group's own proteins are dropped
SHARE = {300: 0.5, 500: 1.0, 1000: 0.5, 3000: 0.5, 10000: 0.25}  # of the rounds, by length


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


def in_turn(table: dict[str, np.ndarray], seed: int = 21) -> np.ndarray:
    """All rows: of every group the first of each length, then the second, and so on; shorter
    and longer contigs than 500 bases every second or fourth time.
    """
    rng, n = np.random.default_rng(seed), len(table["length"])
    order = rng.permutation(n)
    key = np.char.add(np.char.add(table["category"], "/"), table["group"])
    _, which = np.unique(key, return_inverse=True)
    turn, seen = np.zeros(n), defaultdict(int)
    for row in order.tolist():
        length = int(table["length"][row])
        turn[row] = seen[which[row], length] / SHARE[length]
        seen[which[row], length] += 1
    return order[np.argsort(turn[order], kind="stable")]


def run(table: dict[str, np.ndarray], fasta: Path, folder: Path, out: Path, options) -> None:
    """Search a batch after another until so many bases are done."""
    reference = load(options.reference)
    own = own_of_units(table, own_proteins(folder, reference), len(reference))
    sequences, order = dict(read_plain(fasta)), in_turn(table)
    done = np.cumsum(table["length"][order])
    out.mkdir(parents=True, exist_ok=True)
    for number in range(-(-min(options.bases, int(done[-1])) // BATCH)):
        path = out / f"{number:03}.npz"
        if path.exists():
            continue
        first, last = np.searchsorted(done, [number * BATCH, (number + 1) * BATCH])
        rows = order[first:last]
        hits = search([sequences[i] for i in table["id"][rows].tolist()], reference, most=MOST)
        unit = table["unit"][rows][hits.sequence].tolist()
        mine = [own[u][p] for u, p in zip(unit, hits.protein.tolist(), strict=True)]
        columns = {f.name: getattr(hits, f.name) for f in fields(Hits)}
        with path.with_suffix(".part").open("wb") as stream:
            np.savez_compressed(stream, row=rows, own=np.array(mine, bool), **columns)
        path.with_suffix(".part").rename(path)
        print(f"{path.name}: {len(rows):,} contigs, {len(hits):,} hits", flush=True)


def main() -> None:
    """Write HITS."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("table", "fasta", "relatives", "hits"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--reference", type=Path, default=SHIPPED_DIRECTORY)
    parser.add_argument("--bases", type=int, default=12_000_000)
    options = parser.parse_args()
    with np.load(options.table) as z:
        table = {k: z[k] for k in ("id", "unit", "category", "group", "length")}
    run(table, options.fasta, options.relatives, options.hits, options)


if __name__ == "__main__":
    main()
