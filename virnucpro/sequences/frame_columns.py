"""Records -> Arrow batches of frames and of records, a block of bases at a time.

Knows the columns of both tables (their only definition). Does not know of files, caches or
fingerprints.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from virnucpro.models.encoders import ENCODERS
from virnucpro.sequences.chunks import all_spans, all_windows, chunks_and_windows, n_chunks
from virnucpro.sequences.frames import Frames, open_frames
from virnucpro.sequences.reader import Record
from virnucpro.sequences.tokens import Tokenizers
from virnucpro.settings import parse_shard

# bases translated at once; bounds the memory of a block at about 300 MB, all frames open
BLOCK_BASES = 1 << 21
BLOCK_RECORDS = 1 << 15
_G_BUT_NOT_C = np.uint8(ord("G") ^ ord("C"))

OF_FRAMES = pa.schema(
    [
        ("record", pa.int64()),  # row of the table of records
        ("chunk", pa.int32()),  # from 1; beyond the record's n_chunks: a window of --stride
        ("frame", pa.int8()),  # 0..5 = F1 F2 F3 R1 R2 R3
        ("start", pa.int64()),  # 1-based, inclusive, forward strand of the record: the codons read
        ("end", pa.int64()),
        ("aa_length", pa.int32()),
        ("nucleotides", pa.string()),
        ("protein", pa.string()),
        # halves of xxh3_128 of the string: equal strings are embedded once
        ("protein_key_hi", pa.uint64()),
        ("protein_key_lo", pa.uint64()),
        ("nucleotide_key_hi", pa.uint64()),
        ("nucleotide_key_lo", pa.uint64()),
        ("dropped_codon", pa.bool_()),
    ]
)


def frame_schema(encoders: Iterable[str]) -> pa.Schema:
    """The columns of the table of frames, with two for each of the encoders."""
    schema = OF_FRAMES
    for entry in map(ENCODERS.__getitem__, encoders):
        ids = pa.list_(pa.type_for_alias(entry.id_type))
        schema = schema.append(pa.field(f"{entry.name}_ids", ids))  # with the special tokens
        schema = schema.append(pa.field(f"{entry.name}_length", pa.int32()))
    return schema


RECORD_SCHEMA = pa.schema(
    [
        ("input", pa.int32()),  # index of the input file
        ("name", pa.string()),  # unique over the run
        ("original_name", pa.string()),
        ("length", pa.int64()),
        ("gc", pa.float64()),  # of the letters A, C, G, T; NaN where there is none
        # of the whole length, also where the record was skipped or has a problem
        ("n_chunks", pa.int32()),
        ("n_frames", pa.int32()),
        ("n_ambiguous", pa.int64()),  # letters outside ACGT
        ("notes", pa.string()),
        ("problem", pa.string()),
        ("skipped", pa.bool_()),  # shorter than the minimal length
    ]
)


@dataclass(frozen=True, slots=True)
class FrameRules:
    """What decides which frames a sequence has; part of the cache's and the run's identity."""

    chunk_length: int
    frame_policy: str = "open"
    min_length: int = 0
    stride: int = 0  # bases between the windows of long sequences, for their regions; 0: no windows
    shard: str = ""  # i/n: the records of this shard alone

    def identity(self) -> dict[str, Any]:
        """What decides a table's content; without a shard as before there were any."""
        return {key: value for key, value in asdict(self).items() if value or key != "shard"}

    def takes(self, sequence: bytes) -> bool:
        """Whether a record is of this shard: its sequence alone decides, not its name or place."""
        if not self.shard:
            return True
        number, of = parse_shard(self.shard)
        return xxhash.xxh3_64_intdigest(sequence) % of == number - 1


# of a shard: which record of all inputs each one is, counted from 0
SHARD_SCHEMA = RECORD_SCHEMA.append(pa.field("place", pa.int64()))


def record_row(input_index: int, record: Record, rules: FrameRules) -> dict:
    """The row of a record, without its frames."""
    length = len(record.sequence)
    clean = not record.problem and "ambiguous_bases" not in record.notes
    known = length if clean else length - len(record.sequence.translate(None, b"ACGT"))
    return {
        "input": input_index,
        "name": record.name,
        "original_name": record.name,
        "length": length,
        "gc": _n_gc(record.sequence) / known if known else float("nan"),
        "n_chunks": -(-length // rules.chunk_length),
        "n_frames": 0,
        "n_ambiguous": length - known,
        "notes": ";".join(record.notes),
        "problem": record.problem,
        "skipped": length < rules.min_length,
    }


def _n_gc(sequence: bytes) -> int:
    """How many of the letters are G or C; by pieces, as a record may fill half of the memory."""
    letters = np.frombuffer(sequence, dtype=np.uint8)
    pieces = (letters[i : i + BLOCK_BASES] for i in range(0, len(letters), BLOCK_BASES))
    # only G and C are C but for that bit
    return sum(int(np.count_nonzero(piece & ~_G_BUT_NOT_C == ord("C"))) for piece in pieces)


@dataclass(frozen=True, slots=True)
class Block:
    """Chunks of one or more records in one buffer; arrays of [n]. A place in `bases` plus `offset`
    is one in the record.
    """

    bases: bytes
    record: np.ndarray
    chunk: np.ndarray
    start: np.ndarray
    end: np.ndarray
    offset: np.ndarray
    n_chunks: np.ndarray  # of the record
    complete: int  # no later block has chunks of the rows before this one


def blocks(
    records: Iterable[tuple[int, bytes]], chunk_length: int, stride: int = 0
) -> Iterator[Block]:
    """(row, sequence) of records -> blocks of about BLOCK_BASES of chunks; a longer record is
    spread over several.
    """
    # windows hold bases many times
    room = BLOCK_BASES * stride // (stride + chunk_length) if stride else BLOCK_BASES
    rows: list[int] = []
    parts: list[bytes] = []
    size = 0
    for row, sequence in records:
        if len(sequence) > room:
            if rows:
                yield _block(rows, parts, chunk_length, stride)
            rows, parts, size = [], [], 0
            yield from _blocks_of_one(row, sequence, chunk_length, stride)
            continue
        rows.append(row)
        parts.append(sequence)
        size += len(sequence)
        if size >= room or len(rows) >= BLOCK_RECORDS:
            yield _block(rows, parts, chunk_length, stride)
            rows, parts, size = [], [], 0
    if rows:
        yield _block(rows, parts, chunk_length, stride)


def _block(rows: list[int], parts: list[bytes], chunk_length: int, stride: int) -> Block:
    lengths = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))
    spans = chunks_and_windows(lengths, chunk_length, stride)
    before = (np.cumsum(lengths) - lengths)[spans.sequence]
    record = np.array(rows, dtype=np.int64)[spans.sequence]
    return Block(
        b"".join(parts),
        record,
        spans.chunk,
        spans.start + before,
        spans.end + before,
        -before,
        n_chunks(lengths, chunk_length)[spans.sequence],
        rows[-1] + 1,
    )


def _blocks_of_one(row: int, sequence: bytes, chunk_length: int, stride: int) -> Iterator[Block]:
    length, step = np.array([len(sequence)]), max(BLOCK_BASES // chunk_length, 1)
    for spans in (
        all_spans(length, chunk_length),
        *([all_windows(length, chunk_length, stride)] if stride else []),
    ):
        for i in range(0, len(spans.chunk), step):
            chunk, start, end = (
                spans.chunk[i : i + step],
                spans.start[i : i + step],
                spans.end[i : i + step],
            )
            first = int(start[0])
            same = np.full(len(chunk), row, dtype=np.int64)
            yield Block(
                sequence[first : int(end[-1])],
                same,
                chunk,
                start - first,
                end - first,
                np.full(len(chunk), first),
                np.repeat(n_chunks(length, chunk_length), len(chunk)),
                row,
            )


def frame_batch(block: Block, policy: str, tokenizers: Tokenizers) -> pa.RecordBatch:
    """The frames of a block as rows of `frame_schema`."""
    frames = open_frames(block.bases, block.start, block.end, policy, block.n_chunks)
    protein_key = _keys(frames.proteins)
    nucleotide_key = _keys(frames.nucleotides)
    start, end = _in_record(frames, block)
    columns = [
        block.record[frames.chunk],
        block.chunk[frames.chunk].astype(np.int32),
        frames.frame,
        start,
        end,
        np.fromiter(map(len, frames.proteins), dtype=np.int32, count=len(frames.proteins)),
        _strings(frames.nucleotides),
        _strings(frames.proteins),
        protein_key[:, 0],
        protein_key[:, 1],
        nucleotide_key[:, 0],
        nucleotide_key[:, 1],
        frames.dropped_codon,
    ]
    for name, tokenizer in tokenizers.items():
        ids, lengths = tokenizer(getattr(frames, ENCODERS[name].sequences))
        columns += [_lists(ids, lengths), lengths]
    schema = frame_schema(tokenizers)
    arrays = [
        c if isinstance(c, pa.Array) else pa.array(c, type=field.type)
        for c, field in zip(columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _in_record(frames: Frames, block: Block) -> tuple[np.ndarray, np.ndarray]:
    offset = block.offset[frames.chunk]
    return frames.start + offset + 1, frames.end + offset


def _keys(strings: list[bytes]) -> np.ndarray:
    """uint64 [n, 2]: high and low half of xxh3_128 of each."""
    digests = b"".join(map(xxhash.xxh3_128_digest, strings))
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64).reshape(-1, 2)


def _offsets(lengths: np.ndarray) -> pa.Buffer:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.py_buffer(offsets)


def _strings(strings: list[bytes]) -> pa.StringArray:
    lengths = np.fromiter(map(len, strings), dtype=np.int32, count=len(strings))
    return pa.StringArray.from_buffers(
        len(strings), _offsets(lengths), pa.py_buffer(b"".join(strings))
    )


def _lists(flat: np.ndarray, lengths: np.ndarray) -> pa.ListArray:
    values = pa.array(flat)
    return pa.ListArray.from_buffers(
        pa.list_(values.type), len(lengths), [None, _offsets(lengths)], children=[values]
    )
