"""What `--effort` saves and what it costs, played through on chunk scores of contigs that the
network has not seen.

    python -m benchmarks.effort TABLE SCORES [--bundle DIR] [--hits HITS]
        [--full SCORES_OF_FOLD_0 ...]

TABLE and SCORES are as recipes/mini/oof.py describes them. Long sequences are put together from
contigs of one group; prophages are viral contigs of 10 kb within 190 kb of cellular ones. Calls by
the network alone, or with the HITS of recipes/mini/evidence_hits.py by both. With --full, for
`--screen`: how much of what other networks call virus, each of the contigs of its own fold, passes
the screen.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from recipes.mini.evidence_hits import read_features
from recipes.mini.oof import read_scores
from virnucpro.calling.calibration import Calibration
from virnucpro.calling.columns import ChunkColumns, ChunkStatus, RecordColumns
from virnucpro.calling.consensus import CallRules, call_sequences
from virnucpro.calling.regions import find_regions
from virnucpro.calling.screen import POINT
from virnucpro.calling.sequential import EFFORTS, CallInputs, Effort, next_chunks
from virnucpro.homology.evidence import Evidence
from virnucpro.sequences.chunks import all_spans
from virnucpro.settings import NO_REFERENCE, CallSettings
from virnucpro.training.bundle.scoring import call_contigs

CHUNK, POLICY = 500, "stretches"
MINI = Path(__file__).parents[1] / "virnucpro" / "models" / "mini"


def chunks_of(scores: list[np.ndarray], lengths: np.ndarray, frames: list[np.ndarray]):
    """(chunks, records) of sequences from the scores and open frames of their chunks."""
    spans = all_spans(lengths, CHUNK)
    score = np.concatenate(scores)
    ok, n = np.isfinite(score), len(lengths)
    chunks = ChunkColumns(
        spans.sequence,
        spans.chunk.astype(np.int32),
        spans.start + 1,
        spans.end,
        np.concatenate(frames).astype(np.int32),
        (1 - score).astype(np.float32),
        score.astype(np.float32),
        score,
        score >= 0.5,
        np.where(ok, ChunkStatus.scored, ChunkStatus.no_open_frame).astype(np.uint8),
    )
    no, zero = np.zeros(n, bool), np.zeros(n, np.int64)
    counts = np.array([len(s) for s in scores], np.int32)
    return chunks, RecordColumns(zero.astype(np.int32), lengths, zero + 0.5, counts, zero, no, no)


def play(whole: ChunkColumns, inputs: CallInputs, effort: Effort) -> ChunkColumns:
    """The chunks with those that were not needed left out."""
    seen = ~whole.scored
    while True:
        chunks = replace(
            whole,
            status=np.where(seen, whole.status, ChunkStatus.not_needed).astype(np.uint8),
            virus_score=np.where(seen, whole.virus_score, np.nan),
            is_virus=whole.is_virus & seen,
        )
        following = next_chunks(chunks, inputs, effort)
        if not following.any():
            return chunks
        seen = seen | following


def by_both(table, hits: Path, of_row, bundle) -> None:
    """As `report`, calls by the network and known proteins, of the contigs that HITS has."""
    length = table["length"]
    known, evidence = read_features(hits, length)
    place = np.full(len(length), -1)
    place[known] = np.arange(len(known))
    for bases in (3000, 10000):
        rows = np.flatnonzero(table["new"] & (length == bases) & (place >= 0))
        mine = Evidence(*(getattr(evidence, f.name)[place[rows]] for f in fields(Evidence)))
        viral = table["label"][rows] == 1
        columns = SimpleNamespace(evidence=mine, log_odds=np.zeros(len(rows)))
        title = f"{bases:,}, both"
        report(title, [[r] for r in rows], viral, of_row, bundle, columns)


def long_ones(table, rows: np.ndarray, parts: int) -> Iterator[np.ndarray]:
    """Rows of `parts` contigs each, of one group."""
    names = np.char.add(np.char.add(table["category"][rows], "/"), table["group"][rows])
    for name in np.unique(names):
        mine = rows[names == name]
        for start in range(0, len(mine) - parts + 1, parts):
            yield mine[start : start + parts]


def inputs_of(records: RecordColumns, bundle, both: bool) -> CallInputs:
    """What the bundle's calls are made of, at its default points."""
    settings = CallSettings(call_by="both") if both else CallSettings(reference=NO_REFERENCE)
    points = settings.of_model(bundle["calibration"]).points
    rules = CallRules(CHUNK, points, frame_policy=POLICY)
    return CallInputs(records, rules, Calibration.from_json(bundle["calibration"]))


def report(title: str, groups, viral: np.ndarray, of_row, bundle, evidence=None) -> None:
    """One line for each effort: share of the chunks looked at, and of the calls that are equal."""
    scores, frames, lengths = of_row(groups)
    chunks, records = chunks_of(scores, lengths, frames)
    inputs = replace(inputs_of(records, bundle, evidence is not None), evidence=evidence)
    calls = inputs.calls(chunks)
    for name, effort in EFFORTS.items():
        few = play(chunks, inputs, effort)
        share = np.bincount(few.record, few.scored) / np.bincount(chunks.record, chunks.scored)
        shares = [f"{share[mine].mean():.3f}" for mine in (viral, ~viral)]
        same = inputs.calls(few) == calls
        line = [title, name, len(calls), *shares, f"{same[viral].mean():.4f}"]
        print("| " + " | ".join(map(str, [*line, f"{same[~viral].mean():.4f}"])) + " |")


def prophages(of_row, viral: np.ndarray, cells: np.ndarray, bundle) -> None:
    """How many viruses of 10 kb within 190 kb of cells are found as regions, whole or in part."""
    draw = np.random.default_rng(1)
    n = min(len(viral), 200)
    groups = [[*draw.choice(cells, 10), v, *draw.choice(cells, 9)] for v in viral[:n]]
    scores, frames, lengths = of_row(groups)
    chunks, records = chunks_of(scores, lengths, frames)
    inputs = inputs_of(records, bundle, False)
    for name, effort in {"full": None, **EFFORTS}.items():
        few = chunks if effort is None else play(chunks, inputs, effort)
        sequences = call_sequences(few, records, inputs.rules, inputs.calibration)
        found = find_regions(few, sequences, records.length, limits=inputs.limits)
        inside = (found.start < 110_000) & (found.end > 100_000)
        hit = len(np.unique(found.record[inside]))
        overlap = np.minimum(found.end, 110_000) - np.maximum(found.start, 100_001) + 1
        covered = overlap[inside].sum() / (10_000 * max(hit, 1))
        share = few.scored.sum() / chunks.scored.sum()
        line = f"{name}: {hit} of {n} found, {covered:.2f} of their bases"
        print(f"{line}, {(~inside).sum()} other regions, {share:.3f} of the chunks")


def screened(table, scores: list[Path], calibration: Calibration) -> None:
    """How much passes a screen by the first scores, where the others are the full model's."""
    length, found = table["length"], []
    for path in scores:
        answers = call_contigs(read_scores(path)[1], length, CHUNK, POLICY)[1]
        p, ok = np.full(len(length), np.nan), np.isfinite(answers.virus_score)
        columns = (answers.virus_score, length, answers.scored_fraction, answers.n_open_frames)
        p[ok] = calibration.probability(*(column[ok] for column in columns))
        found.append(p)
    full = np.choose(table["fold"], found[1:])
    print("| bases | contigs | called virus by the full model and kept | cellular ones kept |")
    print("|---|---|---|---|")
    for bases in (500, 1000, 3000, 10000):
        rows = table["new"] & (length == bases) & np.isfinite(full) & np.isfinite(found[0])
        kept, called = found[0][rows] >= POINT, full[rows] >= 0.5
        cells = table["label"][rows] != 1
        shares = f"{kept[called].mean():.4f} | {kept[cells].mean():.3f}"
        print(f"| {bases:,} | {rows.sum():,} | {shares} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("scores", type=Path)
    parser.add_argument("--bundle", type=Path, default=MINI)
    parser.add_argument("--hits", type=Path)
    parser.add_argument("--full", type=Path, nargs="+", default=[])
    options = parser.parse_args()
    table = dict(np.load(options.table))
    bundle = json.loads((options.bundle / "bundle.json").read_text())
    calibration = Calibration.from_json(bundle["calibration"])
    length = table["length"]
    chunks, _ = call_contigs(read_scores(options.scores)[1], length, CHUNK, POLICY)
    first = np.searchsorted(chunks.record, np.arange(len(length) + 1))
    virus = table["label"] == 1

    def of_row(groups):
        part = [[slice(first[r], first[r + 1]) for r in group] for group in groups]
        scores = [np.concatenate([chunks.virus_score[s] for s in p]) for p in part]
        frames = [np.concatenate([chunks.n_open_frames[s] for s in p]) for p in part]
        return scores, np.array([length[group].sum() for group in groups]), frames

    def columns(groups):
        scores, lengths, frames = of_row(groups)
        return scores, frames, lengths

    if options.full:
        screened(table, [options.scores, *options.full], calibration)
    print("| bases | effort | contigs | chunks: viral | cellular | calls equal: viral | cellular |")
    print("|---|---|---|---|---|---|---|")
    for bases in (1000, 3000, 10000):
        rows = np.flatnonzero(table["new"] & (length == bases))
        report(f"{bases:,}", [[r] for r in rows], virus[rows], columns, bundle)
    if options.hits is not None:
        by_both(table, options.hits, columns, bundle)
    rows = np.flatnonzero(table["new"] & (length == 10000))
    groups = list(long_ones(table, rows, 5))
    report("50,000", groups, virus[[g[0] for g in groups]], columns, bundle)
    prophages(columns, rows[virus[rows]], rows[~virus[rows]], bundle)


if __name__ == "__main__":
    main()
