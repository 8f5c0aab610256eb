"""A BPE tokenizer of DNA as a finite automaton, run over thousands of sequences at once.

Knows how byte-pair merges behave on A, C, G, T; does not know of special tokens, other letters or
files (see `tokens`).

Why it is exact. Let last(i) be the last token of the encoding of a text's first i letters. A token
t that ends at i is last(i) if and only if the merges would leave the pair (last(i - |t|), t) as it
is; exactly one token is. So what a prefix contributes to the future is, for every place j from
which a token may still be running, which of the tokens that begin with text[j:i] may follow
last(j). There are few such states (1,000 for a vocabulary of 512, 20,000 for 4,096): the automaton
is built once, and encoding is one table look-up a letter, then a walk from the end, one look-up a
token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Beyond these the automaton would take longer to build, or more memory, than it saves; DNABERT-S'
# vocabulary has 4,096 words, 20,000 states.
MOST_STATES = 200_000
MOST_WORDS = 1 << 14
MOST_LETTERS = 10_000_000  # the sum of the squares of the words' lengths
MOST_PAIRS = 1_000_000_000  # of words that some merge joins, counted once a merge
ROWS = 4096  # sequences a pass: the states of 500 letters fit the cache
_NO_MERGE = 1 << 30
_CODE = bytes.maketrans(b"ACGT", bytes(range(4)))


class NotAnAutomaton(Exception):
    """These merges cannot be run as an automaton; the message says why."""


@dataclass(frozen=True)
class Automaton:
    """State 0 is the start.

    `step[4 * state + base]` is 4 times the next state, int64; `token`, `length`: [states].
    """

    step: np.ndarray
    token: np.ndarray  # int32, the last token of any text that leads here
    length: np.ndarray  # int64, its letters; 0 at the start

    def encode(self, sequences: list[bytes]) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each ROWS sequences (A, C, G, T only): (tokens [longest, rows] right-aligned
        downwards, counts [rows]).

        Row r of a pass holds its tokens in `tokens[-counts[r]:, r]`.
        """
        return [self._encode(sequences[i : i + ROWS]) for i in range(0, len(sequences), ROWS)]

    def _encode(self, sequences: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
        # the longest first, so that those still running are the first rows
        order = np.argsort(-lengths, kind="stable")
        letters = _letters(sequences, order, lengths)
        longest = len(letters)
        running = np.searchsorted(-lengths[order], -np.arange(1, longest + 1), side="right")
        states = np.zeros((longest + 1, len(sequences)), dtype=np.int32)  # times 4, after i letters
        current = np.zeros(len(sequences), dtype=np.int64)
        index = np.empty_like(current)
        for i in range(longest):
            n = running[i]
            np.add(current[:n], letters[i, :n], out=index[:n])
            np.take(self.step, index[:n], out=current[:n], mode="clip")
            states[i + 1, :n] = current[:n]
        place = np.empty_like(lengths)
        place[order] = np.arange(len(order))
        return self._walk_back(states, lengths, place)

    def _walk_back(self, states: np.ndarray, lengths: np.ndarray, column: np.ndarray):
        """Tokens from the end of each sequence to its start; at the start the walk stands still on
        state 0.
        """
        width = states.shape[1]
        flat = states.ravel()
        at = lengths * width + column
        left = int((lengths > 0).sum())
        found, counts = [], np.zeros(len(lengths), dtype=np.int64)
        stride = self.length * width
        while left:
            state = flat[at] >> 2
            found.append(self.token[state])
            counts += state != 0
            at -= stride[state]
            left = int((at >= width).sum())
        tokens = np.array(found[::-1], dtype=np.int32).reshape(len(found), len(lengths))
        return tokens, counts


def _letters(sequences: list[bytes], order: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """uint8 [longest, n]: letter i of each sequence, in `order`, 0 behind its end."""
    longest = int(lengths.max(initial=0))
    padded = b"".join([sequences[i].ljust(longest, b"A") for i in order])
    return (
        np.frombuffer(padded.translate(_CODE), dtype=np.uint8)
        .reshape(len(sequences), longest)
        .T.copy()
    )


def build(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Automaton:
    """The automaton of these merges. Errors: NotAnAutomaton."""
    if any(base not in vocabulary for base in "ACGT"):
        raise NotAnAutomaton("the vocabulary lacks one of A, C, G, T")
    rank = {pair: i for i, pair in enumerate(merges)}
    words = [word for word in vocabulary if set(word) <= set("ACGT")]
    if len(words) > MOST_WORDS or sum(len(word) ** 2 for word in words) > MOST_LETTERS:
        raise NotAnAutomaton("the vocabulary is too large")
    trees = _trees(vocabulary, rank)
    words = sorted(trees)
    compatible = _compatible(words, trees, rank)
    trie = _Trie(words)
    return _explore(words, compatible, trie, [vocabulary[word] for word in words])


def _trees(vocabulary: dict[str, int], rank: dict[tuple[str, str], int]) -> dict[str, tuple]:
    """token -> (left part, right part, rank of their merge) for the tokens that encode to
    themselves; letters: no parts.
    """
    trees = {}
    for word in vocabulary:
        if set(word) <= set("ACGT") and word:
            parts, last = list(word), ("", "", -1)
            while len(parts) > 1:
                best = min(
                    (rank.get((parts[i], parts[i + 1]), _NO_MERGE), i)
                    for i in range(len(parts) - 1)
                )
                if best[0] == _NO_MERGE:
                    break
                i = best[1]
                last = (parts[i], parts[i + 1], best[0])
                parts[i : i + 2] = [parts[i] + parts[i + 1]]
            if len(parts) == 1:
                trees[word] = last
    return trees


def _compatible(
    words: list[str], trees: dict[str, tuple], rank: dict[tuple[str, str], int]
) -> np.ndarray:
    """bool [words, words]: whether the merges leave the pair (a, b) as it is.

    They do not if some merge (x, y) joins a's right edge to b's left edge: x is a's last part from
    the merge that makes it until the merge that joins it to what is left of it, and so for y. Of
    equal ranks the leftmost goes first.
    """
    # part -> (word, until when it is that word's last part)
    right: dict[str, list[tuple[int, int]]] = {}
    left: dict[str, list[tuple[int, int]]] = {}
    for i, word in enumerate(words):
        for edges, side in ((right, 1), (left, 0)):
            part, until = word, _NO_MERGE
            while part:
                edges.setdefault(part, []).append((i, until))
                until = trees[part][2]
                part = trees[part][side]
    right_edges, left_edges = (
        {part: np.array(e).T for part, e in edges.items()} for edges in (right, left)
    )
    joined = (pair for pair in rank if pair[0] in right and pair[1] in left)
    if sum(len(right[x]) * len(left[y]) for x, y in joined) > MOST_PAIRS:
        raise NotAnAutomaton("too many words are joined by its merges")
    compatible = np.ones((len(words), len(words)), dtype=bool)
    for (x, y), when in rank.items():
        if x in right and y in left:
            (rows, rows_until), (columns, columns_until) = right_edges[x], left_edges[y]
            compatible[np.ix_(rows[when < rows_until], columns[when <= columns_until])] = False
    return compatible


class _Trie:
    """Of sorted words: `child[node][base]` or -1, `word[node]` or -1, and the words that go on from
    a node: begin..end.
    """

    def __init__(self, words: list[str]):
        self.child: list[list[int]] = [[-1] * 4]
        self.word, self.begin, self.end = [-1], [0], [len(words)]
        for i, word in enumerate(words):
            node = 0
            for letter in word:
                base = "ACGT".index(letter)
                if self.child[node][base] < 0:
                    self.child[node][base] = len(self.child)
                    self.child.append([-1] * 4)
                    self.word.append(-1)
                    self.begin.append(i)
                    self.end.append(i)
                node = self.child[node][base]
                self.end[node] = i + 1
            self.word[node] = i
            self.begin[node] = i + 1  # the word itself does not go on


def _explore(words: list[str], compatible: np.ndarray, trie: _Trie, ids: list[int]) -> Automaton:
    """All states that a text can lead to.

    A state: the places from which a token may be running, and the last token.
    """
    # the last: at the start anything may follow
    may_follow = [row.tobytes() for row in compatible] + [b"\1" * len(words)]
    futures: dict[tuple[int, bytes], int] = {}
    known: dict[tuple[int, int], int] = {}

    def future(node: int, last: int) -> int:
        """Equal numbers for equal futures: which of the words beyond `node` may follow `last`; 0 if
        none may.
        """
        number = known.get((node, last))
        if number is None:
            beyond = may_follow[last][trie.begin[node] : trie.end[node]]
            number = futures.setdefault((node, beyond), len(futures) + 1) if 1 in beyond else 0
            known[node, last] = number
        return number

    start = ((0, len(words)),)  # (node, last): a token that follows `last` has come to `node`
    numbers: dict[tuple[tuple[int, ...], int], int] = {((future(*start[0]),), -1): 0}
    states: list[tuple[tuple[int, int], ...]] = [start]
    tokens, step = [-1], []
    for state in states:  # grows while it is walked
        for base in range(4):
            ends = [
                (trie.child[node][base], last)
                for node, last in state
                if trie.child[node][base] >= 0
            ]
            found = [
                trie.word[node]
                for node, last in ends
                if trie.word[node] >= 0 and may_follow[last][trie.word[node]]
            ]
            if len(found) != 1:
                raise NotAnAutomaton(f"{len(found)} tokens could end at one place")
            token = found[0]
            going = [end for end in (*ends, (0, token)) if future(*end)]
            number = numbers.setdefault(
                (tuple([future(*end) for end in going]), token), len(states)
            )
            if number == len(states):
                if number >= MOST_STATES:
                    raise NotAnAutomaton(f"more than {MOST_STATES:,} states")
                states.append(tuple(going))
                tokens.append(token)
            step.append(4 * number)
    lengths = [len(words[token]) if token >= 0 else 0 for token in tokens]
    token_ids = [ids[token] if token >= 0 else -1 for token in tokens]
    return Automaton(
        np.array(step, dtype=np.int64),
        np.array(token_ids, dtype=np.int32),
        np.array(lengths, dtype=np.int64),
    )
