"""Columns as text: Arrow columns to the lines of a tab-separated table, a few hundred thousand rows
at a time.

Scores have 4 decimals, missing is NA, booleans are True and False, 32-bit floats are the shortest
digits that read back equal (as numpy and the original program print them). Values are never quoted.
Knows no tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from gzip import GzipFile
from typing import IO, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Stream: TypeAlias = IO[bytes] | GzipFile
MISSING = "NA"
TEXT = pa.large_string()
FOUR_DECIMALS = pa.array([f"{i / 10000:.4f}" for i in range(10001)], TEXT)


def constant(text: str) -> pa.Scalar:
    """A text for every row."""
    return pa.scalar(text, TEXT)


def join(*parts: pa.Array | pa.Scalar, separator: str = "") -> pa.Array:
    """The parts of each row after each other; all are large strings, none missing."""
    return pc.binary_join_element_wise(*parts, constant(separator))


def score(values: NDArray[np.floating]) -> pa.Array:
    """Numbers of 0 to 1 as large strings with 4 decimals, NaN as NA."""
    missing = np.isnan(values)
    index = np.rint(np.where(missing, 0.0, values).astype(np.float64) * 10000).astype(np.int32)
    return pc.fill_null(FOUR_DECIMALS.take(pa.array(index, mask=missing)), MISSING)


def shortest(values: NDArray[np.float32]) -> pa.Array:
    """Numbers of 0 to 1 as numpy prints a float32: 0.024008522, 1.0, 8.077037e-05."""
    plain = pa.array(values, pa.float32()).cast(TEXT)
    whole = np.isin(values, (0.0, 1.0))
    # where Arrow and numpy disagree on the notation
    small = (values <= np.float32(1e-4)) & (values > 0)
    if whole.any():
        plain = pc.replace_with_mask(
            plain, pa.array(whole), join(plain.filter(pa.array(whole)), constant(".0"))
        )
    if small.any():
        replaced = pa.array(values[small].astype("U").tolist(), TEXT)
        plain = pc.replace_with_mask(plain, pa.array(small), replaced)
    return pc.fill_null(plain, MISSING)


def as_text(column: pa.Array) -> pa.Array:
    """Any column of a table as large strings; floats are scores."""
    if pa.types.is_floating(column.type):
        return score(column.to_numpy(zero_copy_only=False))
    if pa.types.is_boolean(column.type):
        words = pc.if_else(column, constant("True"), constant("False"))
        return pc.fill_null(words, MISSING)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return pc.fill_null(column.cast(TEXT), MISSING)


def write_lines(stream: Stream, columns: Sequence[pa.Array]) -> None:
    """The rows of equally long large-string columns, tab-separated, a line each."""
    if not len(columns[0]):
        return
    # ends every row's text with its line feed
    last = join(columns[-1], constant(""), separator="\n")
    lines = join(*columns[:-1], last, separator="\t")
    offsets = np.frombuffer(lines.buffers()[1], np.int64)[
        lines.offset : lines.offset + len(lines) + 1
    ]
    stream.write(memoryview(lines.buffers()[2])[int(offsets[0]) : int(offsets[-1])])


def write_table(stream: Stream, names: Sequence[str], batches: Iterable[pa.RecordBatch]) -> None:
    """A header line, then the rows of all batches."""
    stream.write(("\t".join(names) + "\n").encode())
    for batch in batches:
        write_lines(stream, [as_text(column) for column in batch.columns])
