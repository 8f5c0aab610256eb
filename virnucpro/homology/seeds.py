"""Where stretches and reference proteins share a spaced seed: the seed finds the place, an ungapped
extension decides whether it is worth a gapped alignment.

The stretches are indexed and the reference is read through once a batch, so the reference needs no
index of its own. What becomes of a pair of a stretch and a protein depends on the two alone: not on
the batch, nor on how the reference is divided among threads.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from virnucpro.homology.compiled import compiled, inlined
from virnucpro.homology.stretches import AMINO_ACIDS

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
WINDOW = 64  # residues that are compared at once, of which the last do not count
PARTS = tuple(np.uint64(((1 << 28) - 1) << first) for first in (0, 10, 20))
ALIKE = 21  # residues that are the same and those that are alike, together, in one of the parts
LEAST = 46  # score of the best run of them that is looked at with gaps
GROUP = 16
GROUPS = ("ILMV", "FYW", "KR", "DENQ", "ST", "A", "G", "H", "C", "P")
CODE = np.zeros(20, np.uint8)  # residues of one group differ in the last four bits only
for _number, _group in enumerate(GROUPS):
    for _place, _letter in enumerate(_group):
        CODE[AMINO_ACIDS.index(_letter)] = GROUP * _number + _place
UNKNOWN, UNKNOWN_TARGET = 14 * GROUP, 15 * GROUP
BLOCK = 2048  # places of the target that are looked up at once
PAIRS = 4096  # pairs that are compared at once
FEW = 4


@compiled
def index_seeds(seeds, shape):
    """(places, heads, occupied): places int32 of all seeds of `seeds` (uint8 [R], residues that
    are no part of a seed being 20 and more), by seed; int32 [N_SEEDS + 1] where each seed's places
    begin; and bits, uint32 [N_SEEDS / 32 + 1], whether a seed has any.
    """
    heads = np.zeros(N_SEEDS + 2, np.int32)
    for p in range(len(seeds) - SPAN):
        seed = seed_at(seeds, p, shape)
        if seed >= 0:
            heads[seed + 2] += 1
    for i in range(2, N_SEEDS + 2):
        heads[i] += heads[i - 1]
    places = np.zeros(heads[N_SEEDS + 1] + FEW, np.int32)
    for p in range(len(seeds) - SPAN):
        seed = seed_at(seeds, p, shape)
        if seed >= 0:
            places[heads[seed + 1]] = p
            heads[seed + 1] += 1
    occupied = np.zeros(N_SEEDS // 32 + 1, np.uint32)
    for i in range(N_SEEDS):
        occupied[i >> 5] |= np.uint32(heads[i + 1] > heads[i]) << np.uint32(i & 31)
    return places, heads[: N_SEEDS + 1], occupied


@inlined
def seed_at(seeds, p, shape):
    """The seed's number, or -1 where a residue is masked or unknown."""
    seed = 0
    for j in range(SEED_RESIDUES):
        r = seeds[p + shape[j]]
        if r >= 20:
            return -1
        seed = seed * 20 + r
    return seed


def comparable(residues: np.ndarray, unknown: int) -> np.ndarray:
    """uint8 [R + WINDOW]: every residue's CODE; `unknown` for X and the gaps, so that arrays with
    different ones are the same in no such place; and room for a last window.
    """
    table = bytes(CODE) + bytes([unknown]) * (256 - len(CODE))
    codes = residues.tobytes().translate(table) + bytes([unknown]) * WINDOW
    return np.frombuffer(codes, np.uint8)


@intrinsic
def _compare(typing, a, i, b, j):
    """(same, alike), uint64: bit k is whether CODEs a[i + k] and b[j + k] are the same, and whether
    they are of one group; of arrays uint8 and places uint64.
    """
    del typing

    def generate(context, builder, signature, arguments):
        codes = ir.VectorType(ir.IntType(8), WINDOW)
        vectors = []
        for array in (0, 2):
            struct = context.make_array(signature.args[array])(context, builder, arguments[array])
            at = builder.gep(struct.data, [arguments[array + 1]])
            vectors.append(builder.load(builder.bitcast(at, codes.as_pointer()), align=1))
        differ = builder.xor(*vectors)
        masks = [
            builder.bitcast(builder.icmp_unsigned("<", differ, codes([n] * WINDOW)), ir.IntType(64))
            for n in (1, GROUP)
        ]
        return context.make_tuple(builder, signature.return_type, masks)

    return types.UniTuple(types.uint64, 2)(a, i, b, j), generate


@intrinsic
def _ones(typing, x):
    """How many bits of an uint64 are set."""
    del typing

    def generate(context, builder, signature, arguments):
        del context, signature
        return builder.ctpop(arguments[0])

    return types.uint64(x), generate


@intrinsic
def _fetch(typing, a, i):
    """Asks for the memory of a[i], uint64 i, so that it is there when it is read."""
    del typing

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        fetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        at = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        builder.call(fetch, [at, *(ir.Constant(number, n) for n in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(a, i), generate


@compiled
def scan(query, target, index, rows, used, matrix):
    """The pairs of a query place and one of the target's places rows[0] to rows[1] that share a
    seed of the index and a good ungapped run: int32 [pairs, 3], place in query, place in target,
    score.

    `query` is (residues, seeds, bias, codes), `target` (residues, seeds, codes), `used` (this
    shape, the masks of the shapes before, this one's mask). Every step is taken for a block of
    places before the next, so that reads of memory do not wait for each other.
    """
    places, heads, occupied = index
    keys, some = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.int32)
    first, last = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32)
    pairs = np.empty((PAIRS + FEW, 2), np.int32)
    out, n, waiting = np.empty((PAIRS, 3), np.int32), 0, 0
    for start in range(rows[0], rows[1], BLOCK):
        size = min(BLOCK, rows[1] - start)
        _keys(target[1], start, size, used[0], keys)
        size = _occupied(keys, size, occupied, some)
        for t in range(size):
            seed = keys[some[t]]
            first[t], last[t] = heads[seed], heads[seed + np.uint32(1)]
            _fetch(places, np.uint64(first[t]))
        for t in range(size):
            p, h, end = start + some[t], first[t], last[t]
            while h < end:
                # most seeds have few places: those are copied without asking how many
                for x in range(FEW):
                    pairs[waiting + x, 0] = places[h + x]
                    pairs[waiting + x, 1] = p
                waiting += min(FEW, end - h)
                h += FEW
                if waiting >= PAIRS:
                    out, n = _extend(query, target, pairs, waiting, used, matrix, out, n)
                    waiting = 0
    out, n = _extend(query, target, pairs, waiting, used, matrix, out, n)
    return out[:n]


@compiled
def _keys(seeds, start, size, shape, keys):
    """The seeds of the places from `start` on; N_SEEDS where a residue is masked or unknown."""
    a, b, c, d = shape[1], shape[2], shape[3], shape[4]
    at = seeds[start:]
    for i in range(size):
        v, w, x, y, z = at[i], at[i + a], at[i + b], at[i + c], at[i + d]
        key = (((np.uint32(v) * 20 + w) * 20 + x) * 20 + y) * 20 + z
        keys[i] = N_SEEDS if max(v, w, x, y, z) >= 20 else key


@compiled
def _occupied(keys, size, occupied, some):
    """How many of the keys the index has, and which, into `some`."""
    n = 0
    for i in range(size):
        key = keys[i]
        some[n] = i
        n += (occupied[key >> np.uint32(5)] >> (key & np.uint32(31))) & np.uint32(1)
    return n


@compiled
def _extend(query, target, pairs, size, used, matrix, out, n):
    """Scores the first `size` pairs without gaps; what is good enough goes to `out` from row n on.
    Gives `out`, or a longer copy of it, and the rows of it that are used.
    """
    size = _alike(query[3], target[2], pairs, size)
    if n + size > len(out):
        longer = np.empty((2 * (n + size), 3), np.int32)
        longer[:n] = out[:n]
        out = longer
    scores = np.empty(BEFORE + AFTER, np.int32)
    for x in range(size):
        q, p = pairs[x, 0], pairs[x, 1]
        score = _ungapped(query, target, q, p, matrix, scores)
        if score >= LEAST and not _seen(query[1], q, target[1], p, used[1], used[2]):
            out[n, 0] = q
            out[n, 1] = p
            out[n, 2] = score
            n += 1
    return out, n


@compiled
def _alike(codes, codes_t, pairs, size):
    """Moves the pairs that are alike enough to the front, and gives their number."""
    n = 0
    for i in range(size):
        q, p = pairs[i, 0], pairs[i, 1]
        same, alike = _compare(codes, np.uint64(q - BEFORE), codes_t, np.uint64(p - BEFORE))
        left = _ones(same & PARTS[0]) + _ones(alike & PARTS[0])
        middle = _ones(same & PARTS[1]) + _ones(alike & PARTS[1])
        right = _ones(same & PARTS[2]) + _ones(alike & PARTS[2])
        pairs[n, 0] = q
        pairs[n, 1] = p
        n += max(left, middle, right) >= ALIKE
    return n


@compiled
def _ungapped(query, target, q, p, matrix, scores):
    """The best run of scores around a pair of places; `scores` is room for them."""
    residues, bias, residues_t = query[0], query[2], target[0]
    i, j = np.uint64(q - BEFORE), np.uint64(p - BEFORE)
    for k in range(np.uint64(BEFORE + AFTER)):
        scores[k] = matrix[residues[i + k], residues_t[j + k]] + bias[i + k]
    run, best = np.int32(0), np.int32(0)
    for k in range(BEFORE + AFTER):
        run = np.int32(run + scores[k])
        run = run if run > 0 else np.int32(0)
        best = run if run > best else best
    return best


@compiled
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
