"""Where stretches and reference proteins share a spaced seed: the seed finds the place, an ungapped
extension decides whether it is worth a gapped alignment.

The stretches are indexed and the reference is read through once a batch, so the reference needs no
index of its own. What becomes of a pair of a stretch and a protein depends on the two alone: not on
the batch, nor on how the reference is divided among threads.
"""

from __future__ import annotations

import numpy as np
from numba import njit

SEED_RESIDUES = 5
# Places of the five residues that have to be the same.
SHAPES = np.array(
    [
        [0, 3, 5, 6, 7],
        [0, 2, 3, 11, 12],
        [0, 7, 8, 10, 11],
        [0, 2, 4, 8, 9],
        [0, 1, 5, 6, 8],
        [0, 6, 10, 11, 12],
        [0, 3, 9, 10, 12],
        [0, 1, 2, 5, 7],
    ],
    np.int64,
)
MASKS = (1 << SHAPES).sum(axis=1)  # the same as bits
SPAN = 13  # no shape is wider
N_SEEDS = 20**SEED_RESIDUES
BEFORE, AFTER = 20, 28  # residues on both sides of a seed's first that are compared
WINDOW_BITS = np.uint64((1 << (BEFORE + AFTER)) - 1)
SAME = 10  # of them that have to be the same
LEAST = 46  # score of the best run of them that is looked at with gaps


@njit(cache=True, nogil=True)
def index_seeds(seeds, shape):
    """(places, heads): places int32 of all seeds of `seeds` (uint8 [R], residues that are no part
    of a seed being 20 and more), by seed, and int32 [N_SEEDS + 1] where each seed's places begin.
    """
    heads = np.zeros(N_SEEDS + 2, np.int32)
    for p in range(len(seeds) - SPAN):
        seed = seed_at(seeds, p, shape)
        if seed >= 0:
            heads[seed + 2] += 1
    for i in range(2, N_SEEDS + 2):
        heads[i] += heads[i - 1]
    places = np.empty(heads[N_SEEDS + 1], np.int32)
    for p in range(len(seeds) - SPAN):
        seed = seed_at(seeds, p, shape)
        if seed >= 0:
            places[heads[seed + 1]] = p
            heads[seed + 1] += 1
    return places, heads[: N_SEEDS + 1]


@njit(cache=True, nogil=True, inline="always")
def seed_at(seeds, p, shape):
    """The seed's number, or -1 where a residue is masked or unknown."""
    seed = 0
    for j in range(SEED_RESIDUES):
        r = seeds[p + shape[j]]
        if r >= 20:
            return -1
        seed = seed * 20 + r
    return seed


def bit_planes(residues: np.ndarray, other: int) -> np.ndarray:
    """uint64 [R / 64 + 2, 5]: bit b of residue i is bit i % 64 of word [i // 64, b]; codes of 20
    and more become `other` (20 to 31), so that planes with different `other` match in no such
    place.
    """
    codes = np.where(residues < 20, residues, np.uint8(other))
    codes = np.concatenate([codes, np.full(128 - len(codes) % 64, other, np.uint8)])
    planes = [np.packbits((codes >> b) & 1, bitorder="little").view("<u8") for b in range(5)]
    return np.ascontiguousarray(np.stack(planes, 1))


@njit(cache=True, nogil=True, inline="always")
def _word(planes, p, b):
    """The 64 bits of plane b from place p on."""
    w, shift = p >> np.uint64(6), p & np.uint64(63)
    high = (planes[w + np.uint64(1), b] << np.uint64(1)) << (np.uint64(63) - shift)
    return (planes[w, b] >> shift) | high


@njit(cache=True, nogil=True, inline="always")
def _ones(x):
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (x * np.uint64(0x0101010101010101)) >> np.uint64(56)


@njit(cache=True, nogil=True)
def scan(query, target, index, rows, used, matrix, out):
    """Extends what the index (places, heads) has for the seeds of target places rows[0] to rows[1].

    `query` is (residues, seeds, bias, planes), `target` (residues, seeds, planes), `used` (this
    shape, the masks of the shapes before, this one's mask). Writes rows (place in query, place
    in target, score) into `out` int32 [room, 3] and gives (rows written, target place to go on
    from): ends early where `out` is full.
    """
    residues, seeds, bias, planes = query
    residues_t, seeds_t, planes_t = target
    places, heads = index
    shape, earlier, mask = used
    n = 0
    for p in range(rows[0], rows[1]):
        seed = seed_at(seeds_t, p, shape)
        if seed < 0:
            continue
        first, last = heads[seed], heads[seed + 1]
        if first == last:
            continue
        if n + last - first > len(out):
            return n, p
        j = np.uint64(p - BEFORE)
        t0, t1, t2 = _word(planes_t, j, 0), _word(planes_t, j, 1), _word(planes_t, j, 2)
        t3, t4 = _word(planes_t, j, 3), _word(planes_t, j, 4)
        for h in range(first, last):
            q = places[h]
            i = np.uint64(q - BEFORE)
            differ = (_word(planes, i, 0) ^ t0) | (_word(planes, i, 1) ^ t1)
            differ |= (_word(planes, i, 2) ^ t2) | (_word(planes, i, 3) ^ t3)
            differ |= _word(planes, i, 4) ^ t4
            if _ones(~differ & WINDOW_BITS) < SAME:
                continue
            # the best run of the window's scores, without a branch that depends on them
            score, best = np.int32(0), np.int32(0)
            for k in range(np.uint64(BEFORE + AFTER)):
                more = matrix[residues[i + k], residues_t[j + k]] + bias[i + k]
                score = max(np.int32(score + more), np.int32(0))
                best = max(best, score)
            if best >= LEAST and not _seen(seeds, q, seeds_t, p, earlier, mask):
                out[n, 0] = q
                out[n, 1] = p
                out[n, 2] = best
                n += 1
    return n, rows[1]


@njit(cache=True, nogil=True)
def _seen(seeds, q, seeds_t, p, earlier, mask):
    """Whether the pair's seed is there at the residue before too, or an earlier shape here."""
    same = 0
    for j in range(-1, SPAN):
        x = seeds[q + j]
        if x == seeds_t[p + j] and x < 20:
            same |= 1 << (j + 1)
    if (same & mask) == mask:
        return True
    return np.any(((same >> 1) & earlier) == earlier)
