"""The proteins that become the reference: `python -m recipes.reference.choose OUT REFERENCE`.

Reads what `gather`, DIAMOND's clustering (`OUT/viral.clu`, `cell.clu`, `plasmid.clu`: a
representative and a member a line) and `relatives` left in OUT. All viral representatives are
taken; then those of plasmids that stand for two proteins or more; then cellular ones, those that
stand for most first, until the reference has RESIDUES. Long proteins that are not viral are cut to
LONGEST residues.

Left out: cellular and plasmid proteins that are also a virus's (prophages), and plasmid proteins
that are also a chromosome's.
"""

from __future__ import annotations

import csv
import hashlib
import sys
from collections import Counter, defaultdict
from pathlib import Path

from recipes.reference.relatives import read_plain
from virnucpro.homology.reference import ProteinLabel, build

RESIDUES = 35_600_000
LONGEST = 1000
SHARED = 0.2  # of its 9-mers: a protein is also another kind's
EUKARYOTES = ("fungi", "protozoa", "plants", "invertebrates", "vertebrates")
# Names that tell the kind: RefSeq's of eukaryotic genes, genome projects of plants and fungi.
_BY_NAME = {
    "eukaryote": (
        *("NP_001", "NP_5", "NP_6", "NP_7", "NP_17", "NP_18", "NP_19", "XP_", "mpa_XM", "CAE59"),
        *("Viridiplantae", "Trypanosomatidae", "Aspergillus"),
    ),
    "bacteria": ("WP_", "mpa_N", "EG1", "IS", "G6", "G7", "YP_00"),
}


def kind_of(label: str, source: str, relatives: list[tuple[float, str, str]]) -> str:
    """The label of a protein that is known to be cellular only."""
    if label != "cellular":
        return label
    for _, category, _ in relatives:
        if category in EUKARYOTES:
            return "eukaryote"
        if category in ("bacteria", "archaea"):
            return category
    for kind, names in _BY_NAME.items():
        if source.startswith(names):
            return kind
    return "cellular"


def read_relatives(path: Path) -> dict[str, list[tuple[float, str, str]]]:
    """(share, category, group) of each protein's groups, most alike first."""
    found: dict[str, list[tuple[float, str, str]]] = defaultdict(list)
    with open(path) as table:
        for row in csv.DictReader(table, delimiter="\t"):
            found[row["id"]].append((float(row["share"]), row["category"], row["group"]))
    return found


def shared(relatives: list[tuple[float, str, str]], categories: tuple[str, ...]) -> bool:
    """Whether a protein is also one of these categories'."""
    return any(s >= SHARED and c in categories for s, c, _ in relatives)


def order(out: Path, stem: str) -> list[tuple[str, int]]:
    """(representative, proteins it stands for), most first; ties by a hash of the name."""
    with open(out / f"{stem}.clu") as table:
        size = Counter(line.split("\t")[0] for line in table)
    return sorted(size.items(), key=lambda x: (-x[1], hashlib.sha256(x[0].encode()).digest()))


def main(out: Path, reference: Path) -> None:
    """Choose, label and write."""
    with open(out / "proteins.tsv") as table:
        rows = {r["id"]: r for r in csv.DictReader(table, delimiter="\t")}
    relatives = read_relatives(out / "relatives.tsv")
    sequences = dict(read_plain(out / "representatives.faa"))
    chosen: list[str] = []
    room = RESIDUES
    for stem in ("viral", "plasmid", "cell"):
        for name, size in order(out, stem):
            mine = relatives.get(name, [])
            if stem != "viral" and shared(mine, ("viral",)):
                continue
            if stem == "plasmid" and (size < 2 or shared(mine, ("bacteria", "archaea"))):
                continue
            n = len(sequences[name]) if stem == "viral" else min(len(sequences[name]), LONGEST)
            if n <= room:
                chosen.append(name)
                room -= n
    labels, residues = [], []
    for name in chosen:
        row, mine = rows[name], relatives.get(name, [])
        label = kind_of(row["label"], row["source"], mine)
        group = row["group"] or next(
            (g for _, c, g in mine if (c == "viral") == (label == "viral")), ""
        )
        family = row["family"] or (group if group.endswith(("viridae", "aceae")) else "")
        labels.append(ProteinLabel(row["source"], row["organism"], family, group, label))
        sequence = sequences[name]
        residues.append(sequence if label == "viral" else sequence[:LONGEST])
    (out / "chosen.txt").write_text("\n".join(chosen) + "\n")
    build(residues, labels, reference, "VirNucPro's reference proteins")
    print(Counter(x.label for x in labels), sum(map(len, residues)), RESIDUES - room)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
