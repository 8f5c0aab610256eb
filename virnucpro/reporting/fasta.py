"""`virus.fna` and `regions.fna`: one more pass over the inputs that picks out the called sequences.

Best first needs any order, so the picked sequences wait in a temporary file (in memory while they
are few). Letters are as the program read them: upper case, U as T.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from virnucpro.calling.answers import Answers, Source
from virnucpro.calling.consensus import best_first
from virnucpro.errors import InputError
from virnucpro.files import LEFTOVER, writing
from virnucpro.reporting.outputs import Outputs
from virnucpro.sequences.reader import RecordReader, UnreadableInput

WIDTH = 80  # letters a line
IN_MEMORY = 256 << 20  # bytes of sequence that wait in memory


def write_fastas(outputs: Outputs, answers: Answers) -> None:
    """Both FASTA files. Raises InputError when an input is no longer what was read before."""
    best, reads = best_first(answers.sequences, answers.records), answers.reads
    regions = answers.regions
    region_at: dict[int, list[int]] = {}
    for i, record in enumerate(reads.first[regions.record].tolist()):
        region_at.setdefault(record, []).append(i)
    called = np.zeros(len(answers.records), bool)
    called[best] = True
    called = called[reads.sequence]  # [records]
    wanted = np.union1d(np.flatnonzero(called), np.array(list(region_at), np.int64))
    rank = np.zeros(len(answers.records), np.int64)
    rank[best] = np.arange(len(best))
    best_records = np.flatnonzero(called)  # by the rank of its sequence, the first mate first
    best_records = best_records[np.argsort(rank[reads.sequence[best_records]], kind="stable")]
    # offset and length while waiting
    place = np.zeros((len(called), 2) if len(best) else (0, 2), np.int64)
    with (
        tempfile.SpooledTemporaryFile(
            IN_MEMORY, prefix=LEFTOVER, dir=str(outputs.directory)
        ) as waiting,
        writing(outputs.regions_fasta) as region_stream,
    ):
        for row, sequence in _pick(answers, wanted):
            if called[row]:
                place[row] = waiting.tell(), len(sequence)
                waiting.write(sequence)
            for i in region_at.get(row, ()):
                start, end = int(regions.start[i]), int(regions.end[i])
                name = f"{reads.names[row].as_py()}_region_{regions.region[i]} {start}-{end}"
                _write_record(region_stream, name, sequence[start - 1 : end])
        with writing(outputs.virus_fasta) as stream:
            for row in best_records.tolist():
                offset, length = place[row].tolist()
                waiting.seek(offset)
                _write_record(stream, reads.names[row].as_py(), waiting.read(length))


def _pick(answers: Answers, wanted: NDArray[np.int64]) -> Iterable[tuple[int, bytes]]:
    """(row, sequence) of the wanted rows in input order; inputs without one are not opened."""
    bounds = np.searchsorted(answers.reads.columns.input, np.arange(len(answers.inputs) + 1))
    for i, source in enumerate(answers.inputs):
        rows = wanted[(wanted >= bounds[i]) & (wanted < bounds[i + 1])]
        if len(rows):
            yield from _pick_from(source, rows, int(bounds[i]), answers)


def _pick_from(
    source: Source, rows: Sequence[int], first: int, answers: Answers
) -> Iterable[tuple[int, bytes]]:
    """Errors: InputError where the file is not, to the last byte, what was answered."""
    changed = InputError(
        f"{source.path}: changed while it was being analysed; run again with --force"
    )
    wanted = set(np.asarray(rows).tolist())
    last = max(wanted)
    try:
        with RecordReader(Path(source.path)) as reader:
            for i, record in enumerate(reader, start=first):
                if i in wanted:
                    if len(record.sequence) != answers.reads.columns.length[i]:
                        raise changed
                    yield i, record.sequence
                if i == last:
                    break
            else:
                raise changed
            if source.sha256 not in (None, reader.sha256()):
                raise changed
    except UnreadableInput as error:
        # of a file cut short the intact records were answered, and they have come before this
        raise changed from error


def _write_record(stream: IO[bytes], name: str, sequence: bytes) -> None:
    lines = [sequence[i : i + WIDTH] for i in range(0, len(sequence), WIDTH)]
    stream.write(b">" + name.encode() + b"\n" + b"\n".join(lines) + b"\n")
