"""The scores that no training saw: one table of contigs, for calibration and for evidence.

    python -m recipes.mini.oof WORK PACKED OUT TABLE [--fasta FASTA]

TABLE (.npz) has one row a contig of recipes/mini/pack.py, arrays [n] each:

- `id` (record:first-last, 1-based), `row` (of the record in WORK/records.npz), `offset`, `length`;
- `category`, `group`, `unit` (groups joined by near-identical records), `kind`, `label` (1 virus);
- `fold` (0 to 4), and `new` (nothing like it was in the training or validation of version 8);
- `logit`: log-odds of the sequence's `virus_score` by the network that has not seen its fold;
- `logit_8`: the same by version 8 as it ships, NaN but where `new`.

FASTA: the contigs by `id`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from recipes.mini.contigs import Packed, contigs_of
from recipes.mini.deal import FOLDS
from recipes.mini.windows import CHUNK_LENGTH, POLICY
from virnucpro.calling.calibration import SCORE_MARGIN, logit
from virnucpro.training.bundle.scoring import FrameScores, call_contigs
from virnucpro.training.store import Store, decode


def read_scores(path: Path) -> tuple[np.ndarray, FrameScores]:
    """(rows of the contigs that were scored, their frames), as stages.py keeps them."""
    with np.load(path) as z:
        kinds = {k: np.float32 if "logit" in k else np.int64 for k in FrameScores._fields}
        return z["rows"].astype(np.int64), FrameScores(*(z[k].astype(t) for k, t in kinds.items()))


def log_odds(contigs: Store, path: Path) -> np.ndarray:
    """float64 [contigs]: of each sequence's virus score; NaN where it was not scored."""
    _, answers = call_contigs(read_scores(path)[1], contigs.length, CHUNK_LENGTH, POLICY)
    return logit(np.clip(answers.virus_score, SCORE_MARGIN, 1 - SCORE_MARGIN))


def table(work: Path, packed: Path, out: Path) -> tuple[Store, dict[str, Any]]:
    """(the contigs, the columns of TABLE)."""
    genomes = Packed.load(packed, "genomes")
    contigs = contigs_of(genomes, packed)
    labels, row = genomes.store.labels.select(contigs.record), genomes.row[contigs.record]
    fold, found = genomes.fold[contigs.record], np.full(len(contigs), np.nan)
    for k in range(FOLDS):
        mine, path = fold == k, out / f"new-{k}-scores.npz"
        if path.exists():
            found[mine] = log_odds(contigs, path)[mine]
    first, last = contigs.offset + 1, contigs.offset + contigs.length
    with np.load(work / "deal.npz") as z:
        unit = z["unit"][row]
    return contigs, {
        "id": np.array([f"{n}:{a}-{b}" for n, a, b in zip(labels.name, first, last, strict=True)]),
        "row": row,
        "offset": contigs.offset,
        "length": contigs.length,
        "category": labels.category,
        "group": labels.group,
        "unit": unit,
        "kind": labels.kind,
        "label": labels.virus,
        "fold": fold,
        "new": genomes.new[contigs.record],
        "logit": found,
        "logit_8": log_odds(contigs, out / "eight-scores.npz"),
    }


def main() -> None:
    """Write TABLE and FASTA."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("work", "packed", "out", "table"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--fasta", type=Path)
    options = parser.parse_args()
    contigs, columns = table(options.work, options.packed, options.out)
    np.savez_compressed(options.table, **columns)
    if options.fasta is not None:
        with options.fasta.open("wb") as handle:
            for i, name in enumerate(columns["id"].tolist()):
                handle.write(b">%s\n%s\n" % (name.encode(), decode(contigs.segment(i))))
    print(f"{len(contigs):,} contigs")


if __name__ == "__main__":
    main()
