"""Labelled genomes -> what training needs: packed sequences, a split by group, and the frames of
each side.

Groups are dealt out whole; then records of the training side that resemble the held-out sides
(shared sampled 21-mers) are removed and counted. Writes into the output directory:

    sequences.npz          the packed sequences of all sides, for `train` and `evaluate`
    {side}.fna             train, validation and test, for `predict` (features) or other programs
    frames.tsv             frame_id label group split: the frames of whole A, C, G, T chunks (with
    GenBank: only those whose
                           protein is part of an annotated CDS of their record), labels for `train
                           --features`
    summary.json           counts, and what was removed
"""

from __future__ import annotations

import gzip
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.errors import InputError
from virnucpro.files import write_json
from virnucpro.sequences.chunks import chunk_spans
from virnucpro.sequences.frames import FRAME_NAMES, open_frames
from virnucpro.sequences.inputs import find_inputs
from virnucpro.sequences.reader import Record, read_records
from virnucpro.training.labels import Line, read_labels
from virnucpro.training.settings import SPLITS, PrepareSettings
from virnucpro.training.similarity import dna_kmers, kmer_set, share_seen
from virnucpro.training.store import Store, StoreBuilder


def prepare(
    settings: PrepareSettings, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Write the directory; returns what summary.json says."""
    lines = read_labels(settings.labels)
    translations = read_translations(settings.genbank) if settings.genbank else None
    records = list(labelled_records(lines))
    names = [record.name for record, _ in records]
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise InputError(
            f"{twice}: two records have this name; names must differ over all files of a table"
        )
    split_of_group = deal_groups(lines, settings)
    builder = StoreBuilder()
    for record, line in records:
        side = line.split or split_of_group[(line.virus, line.group)]
        builder.add(
            record.sequence, record.name, line.virus, line.category, line.group, "", side, "genome"
        )
    store = builder.build()
    say(
        f"{len(records):,} records, {int(store.length.sum()):,} bases in {len(split_of_group)}"
        " groups"
    )
    drop = near_identical(store, settings.most_shared)
    say(f"{int(drop.sum())} records removed: near-identical to one of a held-out side")
    settings.output.mkdir(parents=True, exist_ok=True)
    kept = store.select_records(~drop)
    kept.save(settings.output / "sequences.npz", bits=2)
    frames = write_sides(records, store, drop, translations, settings)
    summary = {
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in asdict(settings).items()}
        | {"genbank": [str(path) for path in settings.genbank or ()]},
        "sides": {side: count_side(kept, side) for side in SPLITS},
        "removed_near_identical": removed(store, drop),
        "frames": frames,
    }
    write_json(settings.output / "summary.json", summary)
    return summary


def labelled_records(lines: list[Line]) -> Iterator[tuple[Record, Line]]:
    """Each record with its line; of a file with `record` lines only those named. InputError for one
    that is not there.
    """
    by_file: dict[Path, dict[str, Line]] = defaultdict(dict)
    for line in lines:
        if line.record in by_file[line.file]:
            raise InputError(
                f"{line.file}: {line.record or 'the file'} has two lines in the table of labels"
            )
        by_file[line.file][line.record] = line
    for file, of_record in by_file.items():
        found = set()
        for record in read_records(find_inputs([file])[0]):
            named = of_record.get(record.name) or of_record.get("")
            if named is None:
                continue
            if record.problem:
                raise InputError(
                    f"{file}: {record.name}: {record.problem}; remove it from the training data"
                )
            found.add(record.name)
            yield record, named
        absent = set(of_record) - found - {""}
        if absent:
            raise InputError(f"{file}: no record {min(absent)}, which the table of labels names")


def deal_groups(lines: list[Line], settings: PrepareSettings) -> dict[tuple[bool, str], str]:
    """(virus, group) -> side.

    Given splits stay. Groups of viruses and of others are separate, whatever their names; none is
    on two sides.
    """
    given: dict[tuple[bool, str], set[str]] = defaultdict(set)
    for line in lines:
        given[(line.virus, line.group)].add(line.split)
    for (_, group), sides in given.items():
        if len(sides) > 1:
            raise InputError(
                f"group {group} is on several sides of the split"
                f" ({', '.join(sorted(s or 'none' for s in sides))})"
            )
    rng = np.random.default_rng(settings.seed)
    dealt = {key: next(iter(sides)) for key, sides in given.items()}
    for virus in (False, True):
        free = sorted(key for key, side in dealt.items() if key[0] == virus and not side)
        if not free:
            continue
        order = rng.permutation(len(free))
        tests, validations = (
            min(max(round(share * len(free)), 1 if share and len(free) > 2 else 0), len(free) - 1)
            for share in (settings.test, settings.validation)
        )
        for i, at in enumerate(order):
            dealt[free[at]] = (
                "test" if i < tests else "validation" if i < tests + validations else "train"
            )
    return dealt


def near_identical(store: Store, most: float) -> np.ndarray:
    """bool [R]: records to remove: of training like validation or test, of validation like test."""
    by_record: dict[int, list[int]] = defaultdict(list)
    for segment, record in enumerate(store.record):
        by_record[int(record)].append(segment)

    def kmers(record: int) -> np.ndarray:
        return np.concatenate(
            [dna_kmers(store.segment(i), 4) for i in by_record[record]] or [np.zeros(0, np.uint64)]
        )

    side = store.labels.split
    drop = np.zeros(len(side), dtype=bool)
    held = np.zeros(0, np.uint64)
    for name in ("test", "validation", "train"):
        mine = np.flatnonzero(side == name)
        found = [kmers(int(r)) for r in mine]
        for r, own in zip(mine, found, strict=True):
            drop[r] = share_seen(own, held) > most
        if name != "train":
            held = kmer_set(
                [held, *(own for r, own in zip(mine, found, strict=True) if not drop[r])]
            )
    return drop


def read_translations(paths: Iterable[Path]) -> dict[str, list[str]]:
    """Record name (with and without version) -> protein sequences of its CDS features."""
    from Bio import SeqIO

    found: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        records = 0
        try:
            with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as handle:
                for record in SeqIO.parse(handle, "genbank"):
                    records += 1
                    coding = [f.qualifiers for f in record.features if f.type == "CDS"]
                    proteins = [p for q in coding for p in q.get("translation", [])]
                    for name in {record.id, record.name, record.id.split(".")[0]}:
                        found[name] += proteins
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: not readable as GenBank ({getattr(error, 'strerror', None) or error})"
            ) from error
        if not records:  # Biopython looks for the first LOCUS line, over whatever else there is
            raise InputError(
                f"{path}: no GenBank record in it; --genbank takes annotation in GenBank's flat"
                " file format"
            )
    return found


def write_sides(
    records: list[tuple[Record, Line]],
    store: Store,
    drop: np.ndarray,
    translations: dict[str, list[str]] | None,
    settings: PrepareSettings,
) -> dict[str, int]:
    """FASTA of each side and frames.tsv; returns counts of chunks and frames."""
    counts = {
        "chunks": 0,
        "chunks_with_other_letters": 0,
        "frames": 0,
        "frames_outside_annotation": 0,
        "records_without_annotation": 0,
    }
    files = {side: (settings.output / f"{side}.fna").open("wb") for side in SPLITS}
    try:
        with (settings.output / "frames.tsv").open("w") as table:
            table.write("frame_id\tlabel\tgroup\tsplit\n")
            for (record, line), side, gone in zip(records, store.labels.split, drop, strict=True):
                if gone:
                    continue
                files[side].write(b">" + record.name.encode() + b"\n" + record.sequence + b"\n")
                label = "virus" if line.virus else "others"
                for frame in frame_ids(record, translations, settings, counts):
                    table.write(f"{frame}\t{label}\t{line.group}\t{side}\n")
    finally:
        for file in files.values():
            file.close()
    return counts


def frame_ids(
    record: Record,
    translations: dict[str, list[str]] | None,
    settings: PrepareSettings,
    counts: dict[str, int],
) -> Iterator[str]:
    """Ids of the frames of `record` to train on."""
    proteins = None
    if translations is not None:
        proteins = translations.get(record.name) or translations.get(record.name.split(".")[0])
        if proteins is None:
            counts["records_without_annotation"] += 1
            return
    spans = chunk_spans(len(record.sequence), settings.chunk_length)
    plain = np.array(
        [not record.sequence[a:b].translate(None, b"ACGT") for a, b in spans], dtype=bool
    )
    counts["chunks"] += len(spans)
    counts["chunks_with_other_letters"] += int((~plain).sum())
    which = np.flatnonzero(plain)
    found = open_frames(
        record.sequence, spans[which, 0], spans[which, 1], settings.frame_policy, len(spans)
    )
    joined = "*".join(proteins) if proteins is not None else ""
    for chunk, frame, protein in zip(found.chunk, found.frame, found.proteins, strict=True):
        if proteins is not None and protein.decode("ascii") not in joined:
            counts["frames_outside_annotation"] += 1
            continue
        counts["frames"] += 1
        yield f"{record.name}_chunk_{which[chunk] + 1}{FRAME_NAMES[frame]}"


def count_side(store: Store, side: str) -> dict[str, dict[str, int]]:
    """Records, groups and bases of each class."""
    mine = store.labels.split == side
    out = {}
    for virus, name in ((1, "virus"), (0, "others")):
        rows = mine & (store.labels.virus == virus)
        out[name] = {
            "records": int(rows.sum()),
            "groups": len(set(store.labels.group[rows])),
            "bases": int(store.length[rows[store.record]].sum()),
        }
    return out


def removed(store: Store, drop: np.ndarray) -> dict[str, dict[str, int]]:
    """How many records of each class were removed from a side."""
    lab = store.labels
    return {
        side: {
            "virus": int((drop & (lab.split == side) & (lab.virus == 1)).sum()),
            "others": int((drop & (lab.split == side) & (lab.virus == 0)).sum()),
        }
        for side in ("train", "validation")
    }
