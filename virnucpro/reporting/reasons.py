"""Why sequences have no call, in words, and what a user can do about it.

What the terminal and the report say; the counts of each reason are among those of `run.json`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from virnucpro.calling.columns import Call, Note, SequenceColumns
from virnucpro.models.encoders import ENCODERS, limits

# Of a sequence without a score: the first of its notes that says why.
REASONS = {
    Note.below_min_length: "shorter than --min-length",
    Note.invalid_characters: "with letters that are not nucleotide codes",
    Note.frame_too_long: f"with a frame longer than {limits(ENCODERS.values())}",
    Note.failed: "without an embedding or a finite score, see failed_files.txt",
    Note.no_open_frame: "without a frame to score in any chunk",
}
EMPTY = "empty"
SHORTER_MODEL, SHORTER_LENGTH = "300", 300


def count_reasons(sequences: SequenceColumns) -> dict[str, int]:
    """`not_scored_{note}` -> number of sequences without a score for that reason, each once."""
    left = sequences.notes[sequences.call == Call.not_scored].astype(np.int64)
    found = {}
    for note in REASONS:
        has = (left & note.value) > 0
        found[f"not_scored_{note.name}"] = int(has.sum())
        left = left[~has]
    return {**found, f"not_scored_{EMPTY}": len(left)}


def reasons(number: Mapping[str, int]) -> list[tuple[str, int]]:
    """(phrase, number of sequences) of the counts of a run, those that occur."""
    phrases = {**{note.name: phrase for note, phrase in REASONS.items()}, EMPTY: "empty"}
    found = [(phrase, number.get(f"not_scored_{name}", 0)) for name, phrase in phrases.items()]
    return [(phrase, n) for phrase, n in found if n]


def sequences_of(n: int) -> str:
    """`n` sequences, in words."""
    return f"{n:,} sequence{'' if n == 1 else 's'}"


def short_sequences(n: int, chunk_length: int) -> str:
    """That `n` sequences are too short to be called, why, and what to do."""
    are, get = ("is", "gets") if n == 1 else ("are", "get")
    other = (
        f"the model {SHORTER_MODEL} calls from {SHORTER_LENGTH // 2} bases on; "
        if chunk_length > SHORTER_LENGTH
        else ""
    )
    return (
        f"{sequences_of(n)} {are} shorter than {-(-chunk_length // 2)} bases, half of what the"
        f" model reads at once, and {get} no call (too_short). Assemble reads or merge read pairs;"
        f" {other}--allow-short calls all"
    )
