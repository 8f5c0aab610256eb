"""Whether a sequence's ends repeat each other, as those of whole viral genomes often do."""

from __future__ import annotations

SHORTEST, LONGEST = 20, 5000  # bases of a repeat
MOST_OF_ONE = 0.75  # a repeat with a larger share of one letter says nothing
_COMPLEMENT = bytes.maketrans(b"ACGTU", b"TGCAA")


def topology(sequence: bytes) -> str | None:
    """`direct_repeat_N` or `inverted_repeat_N` with the repeat's bases, else None."""
    n = direct_repeat(sequence)
    if n:
        return f"direct_repeat_{n}"
    n = inverted_repeat(sequence)
    return f"inverted_repeat_{n}" if n else None


def direct_repeat(sequence: bytes) -> int:
    """Bases of the longest beginning that the sequence also ends with; 0 without one."""
    longest = min(len(sequence) // 2, LONGEST)
    if longest < SHORTEST:
        return 0
    place = len(sequence) - longest
    head = sequence[:SHORTEST]
    while (place := sequence.find(head, place)) >= 0:
        n = len(sequence) - place
        if sequence[place:] == sequence[:n]:
            return n if _informative(sequence[:n]) else 0
        place += 1
    return 0


def inverted_repeat(sequence: bytes) -> int:
    """Bases of the longest beginning whose reverse complement the sequence ends with."""
    longest = min(len(sequence) // 2, LONGEST)
    if longest < SHORTEST:
        return 0
    tail = sequence[-longest:].translate(_COMPLEMENT)[::-1]
    n = next((i for i in range(longest) if sequence[i] != tail[i]), longest)
    return n if n >= SHORTEST and _informative(sequence[:n]) else 0


def _informative(repeat: bytes) -> bool:
    return max(repeat.count(letter) for letter in b"ACGTN") <= MOST_OF_ONE * len(repeat)
