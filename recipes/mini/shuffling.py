"""A sequence -> a random one with the same dinucleotides, which has its composition and nothing
else of it.
"""

from __future__ import annotations

import numpy as np


def shuffled(codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A shuffle with the same dinucleotides and the same ends, uint8 [n] of codes 0..3.

    Altschul and Erickson: a random Eulerian path through the bases.
    """
    last = int(codes[-1])
    edges = [list(rng.permutation(codes[1:][codes[:-1] == b])) for b in range(4)]
    while True:  # draw last edges until they form a tree that leads to the final base
        final = {b: int(rng.choice(edges[b])) for b in range(4) if edges[b] and b != last}
        if all(_leads(b, final, last) for b in final):
            break
    for b, to in final.items():
        edges[b].remove(to)
        edges[b].append(to)
    out, at, used = [int(codes[0])], int(codes[0]), [0] * 4
    while used[at] < len(edges[at]):
        nxt = int(edges[at][used[at]])
        used[at] += 1
        out.append(nxt)
        at = nxt
    return np.array(out, dtype=np.uint8)


def _leads(b: int, final: dict[int, int], goal: int) -> bool:
    for _ in range(5):
        if b == goal:
            return True
        b = final.get(b, goal)
    return b == goal
