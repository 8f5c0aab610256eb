"""Which reads are the two mates of a pair: those of FASTQ whose names agree, in the same order.

Two FASTQ files given one after the other are mates where all their names agree, `/1` and `/2` at
the end aside; so are the reads of one file that alternate like this. A sequencer's mates always do.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

FIRST, SECOND = 1, 2
PAIR, SECOND_MATE = "pair", "second_mate"  # notes on the first mate of a pair, and on the second
NOTES = {FIRST: PAIR, SECOND: SECOND_MATE}


@dataclass(frozen=True, slots=True)
class InputReads:
    """What tells whether an input's records may be mates. whole: it was read to its end."""

    n_records: int
    is_fastq: bool
    sha256: str | None
    whole: bool


def fragment(name: str) -> str:
    """The name that both mates have."""
    return name[:-2] if name.endswith(("/1", "/2")) else name


def mate_names(names: Sequence[str], mates: NDArray[np.int8]) -> list[str]:
    """The names, those of mates with the number of the mate at their end."""
    if not mates.any():
        return list(names)
    return [
        f"{fragment(name)}/{mate}" if mate else name
        for name, mate in zip(names, mates.tolist(), strict=True)
    ]


class Fragments:
    """The names of all records, nine bytes each, to tell which are mates."""

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._marks = array("b")  # 1 or 2 where the name says which mate it is, else 0

    def add(self, name: str) -> None:
        """Add the next name."""
        shared = fragment(name)
        self._hashes.append(xxhash.xxh3_64_intdigest(shared.encode("utf-8", "surrogatepass")))
        self._marks.append(0 if shared == name else int(name[-1]))

    def mates(self, inputs: Sequence[InputReads]) -> NDArray[np.int8] | None:
        """int8 [records]: FIRST or SECOND of the mates of a pair, 0 of all other records; None
        where there is no pair. The names were added input after input.
        """
        numbers = np.zeros(len(self._hashes), np.int8)
        bounds = np.cumsum([0, *(file.n_records for file in inputs)])
        number = 0
        while number < len(inputs):
            own = range(bounds[number], bounds[number + 1])
            pair = inputs[number : number + 2]
            n = min(file.n_records for file in pair)
            if (
                len(pair) == 2
                and _may_be_mates(*pair)
                and self._agree(own[:n], range(own.stop, own.stop + n))
            ):
                numbers[own.start : own.start + n] = FIRST
                numbers[own.stop : own.stop + n] = SECOND
                number += 2
                continue
            if inputs[number].is_fastq and self._agree(own[::2], own[1::2]):
                numbers[own.start : own.stop : 2] = FIRST
                numbers[own.start + 1 : own.stop : 2] = SECOND
            number += 1
        return numbers if numbers.any() else None

    def _agree(self, first: range, second: range) -> bool:
        """Whether the reads `first` and `second` are of the same fragments, each there once. Where
        names say which mate a read is, they must be different ones.
        """
        if len(first) == 0 or len(first) != len(second):
            return False
        hashes, marks = np.asarray(self._hashes), np.asarray(self._marks)
        one, other = (slice(rows.start, rows.stop, rows.step) for rows in (first, second))
        same_mate = (marks[one] == marks[other]) & (marks[one] > 0)
        return (
            np.array_equal(hashes[one], hashes[other])
            and not same_mate.any()
            and len(np.unique(hashes[one])) == len(first)
        )


def _may_be_mates(one: InputReads, other: InputReads) -> bool:
    as_many = one.n_records == other.n_records or not (one.whole and other.whole)
    return one.is_fastq and other.is_fastq and one.sha256 != other.sha256 and as_many
