"""Names -> unique names over a whole run, without keeping the names.

Knows that later ones of equal names get `__2`, `__3` ... in input order (SPEC 4). Eight bytes a
name stay in memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

import numpy as np
import xxhash


class NameBook:
    """First `add` every name, then `resolve` them in the same order."""

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._sorted: np.ndarray | None = None
        self._repeated: frozenset[int] = frozenset()
        self._seen: dict[str, int] = {}  # repeated names only: the last number given
        self._given: set[str] = set()

    def add(self, name: str) -> None:
        self._hashes.append(xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass")))

    @property
    def any_repeated(self) -> bool:
        """Whether any two names added are equal; call when all have been added."""
        if self._sorted is None:
            self._sorted = (
                np.sort(np.frombuffer(self._hashes, dtype=np.uint64))
                if self._hashes
                else np.zeros(0, np.uint64)
            )
            again = self._sorted[1:][self._sorted[1:] == self._sorted[:-1]]
            self._repeated = frozenset(again.tolist())
        return bool(self._repeated)

    def resolve(self, names: Iterable[str]) -> Iterator[str]:
        """The names, the later ones of equal ones with a number that makes a name no record has."""
        if not self.any_repeated:
            yield from names
            return
        for name in names:
            if (
                xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass"))
                not in self._repeated
            ):
                yield name
                continue
            number = self._seen.get(name, 0) + 1
            new = name
            while number > 1 and self._taken(new := f"{name}__{number}"):
                number += 1
            self._seen[name] = number
            self._given.add(new)
            yield new

    def _taken(self, name: str) -> bool:
        value = np.uint64(xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass")))
        place = int(np.searchsorted(self._sorted, value))
        return name in self._given or (place < len(self._sorted) and self._sorted[place] == value)
