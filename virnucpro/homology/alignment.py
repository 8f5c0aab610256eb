"""Gapped alignments of candidates in a band, scores corrected for composition, and what a score is
worth.

BLOSUM62, a gap of n residues costs 11 + n. The query's residues carry a bias against its own
neighbourhood (Hauser et al. 2016, as in DIAMOND and MMseqs2): a residue that is common around its
place counts less, so that stretches of odd composition do not match each other by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scoring_matrices import ScoringMatrix

from virnucpro.homology.compiled import compiled, inlined
from virnucpro.homology.stretches import AMINO_ACIDS, APART, Proteins

GAP_OPEN, GAP_EXTEND = 11, 1
LAMBDA, K = 0.267, 0.041  # of BLOSUM62 with these gaps
NEAR, REACH = 12, 64  # diagonals and residues on each side that a candidate is first looked at
BAND = 40  # diagonals on each side of the candidate's that its alignment may use
LANES = 16
WINDOW = 20  # residues on each side that the bias is measured over


def _rows(name: str) -> Iterator[list[float]]:
    """The rows of a published matrix, in the order of AMINO_ACIDS."""
    matrix = ScoringMatrix.from_name(name).shuffle(AMINO_ACIDS[:20])
    return (list(matrix[i]) for i in range(20))


MATRIX = np.full((APART + 1, APART + 1), -1, np.int32)
MATRIX[APART], MATRIX[:, APART] = -200, -200
MATRIX[:20, :20] = [*_rows("BLOSUM62")]
# Times each amino acid stands in 100,000 residues, as in AMINO_ACIDS (Robinson and Robinson 1991).
BACKGROUND = np.array(
    [
        *(7805, 5129, 4487, 5364, 1925, 4264, 6295, 7377, 2199, 5142),
        *(9019, 5744, 2243, 3856, 5203, 7120, 5841, 1330, 3216, 6441),
    ]
)
BACKGROUND = BACKGROUND / BACKGROUND.sum()
FLAT_MATRIX = MATRIX.astype(np.float32).ravel()
EXPECTED = np.append(MATRIX[:20, :20] @ BACKGROUND, 0.0)  # of a residue against any


def bit_score(score: np.ndarray) -> np.ndarray:
    """Bits of raw scores [n]."""
    return (LAMBDA * score - math.log(K)) / math.log(2)


def e_value(bits: np.ndarray, residues: np.ndarray, reference_residues: int) -> np.ndarray:
    """Chance hits of at least `bits` expected of queries of so many residues."""
    return residues * float(reference_residues) * np.exp2(-bits)


def composition_bias(proteins: Proteins) -> np.ndarray:
    """int8 [R]: what is added to any score of each residue."""
    return _bias(proteins.residues, proteins.begin, proteins.end, MATRIX, EXPECTED)


@compiled
def _bias(residues, begin, end, matrix, expected):
    bias = np.zeros(len(residues), np.int8)
    sums = np.zeros(APART + 1, np.int64)
    for s in range(len(begin)):
        a, b = begin[s], end[s]
        sums[:] = 0
        left, right = a, a
        for p in range(a, b):
            while right < min(b, p + WINDOW + 1):
                sums[residues[right]] += 1
                right += 1
            while left < p - WINDOW:
                sums[residues[left]] -= 1
                left += 1
            r = residues[p]
            if r >= 20 or right - left < 2:
                continue
            total = 0
            for x in range(20):
                total += sums[x] * matrix[r, x]
            mean = (total - matrix[r, r]) / (right - left - 1)
            bias[p] = np.int8(np.floor(expected[r] - mean + 0.5))
    return bias


@compiled
def window_scores(query, target, places, matrix, out):
    """Scores float32 [n] of the best gapped alignments near pairs of places (int32 [n, 2], of the
    query and of the target): within REACH residues and NEAR diagonals of them.

    `query` is (residues, bias), `target` residues. LANES pairs go side by side, so that the
    compiler makes vector instructions of the innermost loops; float32 holds the scores exactly.
    """
    residues, bias = query
    rows, width = 2 * REACH, 2 * NEAR + 1
    a = np.zeros((rows, LANES), np.int32)
    more = np.zeros((rows, LANES), np.float32)
    b = np.zeros((rows + width, LANES), np.int32)
    best_row = np.zeros((width + 1, LANES), np.float32)
    gap_b = np.zeros((width + 1, LANES), np.float32)
    gap_a = np.zeros(LANES, np.float32)
    left = np.zeros(LANES, np.float32)
    best = np.zeros(LANES, np.float32)
    for first in range(0, len(places), LANES):
        lanes = min(LANES, len(places) - first)
        for lane in range(LANES):
            # beyond an end everything is APART, up to the window's end
            pair = first + min(lane, lanes - 1)
            _fill(residues, places[pair, 0] - REACH, REACH, a, lane)
            for i in range(rows):
                p = places[pair, 0] - REACH + i
                more[i, lane] = bias[p] if a[i, lane] < APART else 0
                a[i, lane] *= APART + 1
            _fill(target, places[pair, 1] - REACH - NEAR, REACH + NEAR, b, lane)
        best_row[:] = 0
        gap_b[:] = -1000
        best[:] = 0
        for i in range(rows):
            gap_a[:] = -1000
            left[:] = 0
            for k in range(width):
                for x in range(LANES):
                    up = best_row[k + 1, x] - np.float32(GAP_OPEN + GAP_EXTEND)
                    longer = gap_b[k + 1, x] - np.float32(GAP_EXTEND)
                    up = longer if longer > up else up
                    gap_b[k, x] = up
                    across = left[x] - np.float32(GAP_OPEN + GAP_EXTEND)
                    longer = gap_a[x] - np.float32(GAP_EXTEND)
                    across = longer if longer > across else across
                    gap_a[x] = across
                    score = best_row[k, x] + matrix[a[i, x] + b[i + k, x]] + more[i, x]
                    score = up if up > score else score
                    score = across if across > score else score
                    score = score if score > np.float32(0) else np.float32(0)
                    best_row[k, x] = score
                    left[x] = score
                    best[x] = score if score > best[x] else best[x]
        for lane in range(lanes):
            out[first + lane] = best[lane]


@inlined
def _fill(residues, start, middle, out, lane):
    """Residues from `start` on into a column of `out`; APART beyond the protein that holds the one
    in the middle.
    """
    n = len(out)
    for i in range(n):
        out[i, lane] = APART
    for i in range(middle, n):
        p = start + i
        if p >= len(residues) or residues[p] == APART:
            break
        out[i, lane] = residues[p]
    for i in range(middle - 1, -1, -1):
        p = start + i
        if p < 0 or residues[p] == APART:
            break
        out[i, lane] = residues[p]


@compiled
def align_all(query, target, pairs, matrix, out):
    """Local alignments of rows (begin and end in the query, begin and end in the target, diagonal)
    of `pairs`, int64 [n, 5].

    `out` int32 [n, 7]: score, first and end residue in the query's protein, first and end in the
    target's, identical residues, columns.
    """
    residues, bias = query
    longest = 0
    for i in range(len(pairs)):
        longest = max(longest, pairs[i, 1] - pairs[i, 0])
    came_from = np.zeros((longest + 1, 2 * BAND + 1), np.uint8)
    for i in range(len(pairs)):
        a, b = pairs[i, 0], pairs[i, 1]
        align(
            residues[a:b],
            bias[a:b],
            target[pairs[i, 2] : pairs[i, 3]],
            pairs[i, 4],
            matrix,
            came_from,
            out[i],
        )


@compiled
def align(a, bias, b, diagonal, matrix, came_from, out):  # noqa: C901 (one loop, compiled)
    """The best local alignment of a and b within BAND of the diagonal, into `out`.

    Cell (i, k) pairs a[i] with b[i + diagonal - BAND + k]. `came_from`: bits 0 and 1 where the
    best score comes from (0 nothing, 1 both, 2 only a, 3 only b), bit 2: a gap in b goes on, bit 3:
    a gap in a goes on.
    """
    width = 2 * BAND + 1
    low = -(1 << 20)
    best_row = np.zeros(width + 1, np.int32)  # of the row before, by k; its last is outside
    gap_b = np.full(width + 1, low, np.int32)  # a's residue stands against a gap
    best, best_i, best_k = 0, -1, -1
    start = max(0, -diagonal - BAND)
    end = min(len(a), len(b) - diagonal + BAND)
    for i in range(start, end):
        gap_a = low
        left = 0
        for k in range(width):
            j = i + diagonal - BAND + k
            if j < 0 or j >= len(b):
                best_row[k] = 0
                gap_b[k] = low
                left, gap_a = 0, low
                came_from[i, k] = 0
                continue
            flags = 0
            # before: best_row[k] is row i-1 at j-1, best_row[k + 1] row i-1 at j
            opened, longer = best_row[k + 1] - GAP_OPEN - GAP_EXTEND, gap_b[k + 1] - GAP_EXTEND
            if k == width - 1:
                opened, longer = low, low
            if longer > opened:
                flags |= 4
                opened = longer
            gap_b[k] = opened
            across, more = left - GAP_OPEN - GAP_EXTEND, gap_a - GAP_EXTEND
            if more > across:
                flags |= 8
                across = more
            gap_a = across
            score = best_row[k] + matrix[a[i], b[j]] + bias[i]
            source = 1
            if opened > score:
                score, source = opened, 2
            if across > score:
                score, source = across, 3
            if score <= 0:
                score, source = 0, 0
            came_from[i, k] = flags | source
            best_row[k] = score
            left = score
            if score > best:
                best, best_i, best_k = score, i, k
    _trace(a, b, diagonal, came_from, start, best_i, best_k, out)
    out[0] = best


@compiled
def _trace(a, b, diagonal, came_from, start, i, k, out):
    """Follows the alignment that ends at cell (i, k) back to where it begins."""
    same, columns, state = 0, 0, 0  # state 2: in a gap of b; 3: in a gap of a
    out[2], out[4] = i + 1, i + diagonal - BAND + k + 1
    first_i, first_j = out[2], out[4]
    while i >= start and k >= 0:
        cell = came_from[i, k]
        if state == 0:
            source = cell & 3
            if source == 0:
                break
            if source == 1:
                j = i + diagonal - BAND + k
                first_i, first_j = i, j
                same += a[i] == b[j]
                columns += 1
                i -= 1
                continue
            state = source
        columns += 1
        if state == 2:
            goes_on = cell & 4
            i, k = i - 1, k + 1
        else:
            goes_on = cell & 8
            k -= 1
        if not goes_on:
            state = 0
    out[1], out[3], out[5], out[6] = first_i, first_j, same, columns
