"""Which reads are mates: equal names in the same order, in two FASTQ files or one after another."""

from __future__ import annotations

import pytest

from virnucpro.sequences.mates import Fragments, InputReads, mate_names


def mates(*files: list[str], fastq: bool = True, whole: bool = True, same: bool = False):
    fragments = Fragments()
    for name in (name for file in files for name in file):
        fragments.add(name)
    contents = ["x" if same else str(i) for i in range(len(files))]
    found = fragments.mates(
        [
            InputReads(len(file), fastq, content, whole)
            for file, content in zip(files, contents, strict=True)
        ]
    )
    return None if found is None else found.tolist()


@pytest.mark.parametrize(
    "files",
    [
        (["a", "b", "c"], ["a", "b", "c"]),
        (["a/1", "b/1", "c/1"], ["a/2", "b/2", "c/2"]),
    ],
)
def test_two_files_with_the_same_names_in_the_same_order(files):
    assert mates(*files) == [1, 1, 1, 2, 2, 2]
    assert mates(["z"], *files, ["y"]) == [0, 1, 1, 1, 2, 2, 2, 0]
    assert mates(*files, fastq=False) is None
    assert mates(*files, same=True) is None  # the same file given twice


def test_mates_that_alternate_in_one_file():
    assert mates(["a/1", "a/2", "b/1", "b/2"]) == [1, 2, 1, 2]
    assert mates(["a", "a", "b", "b"]) == [1, 2, 1, 2]
    assert mates(["a/1", "a/2", "b/1"]) is None


@pytest.mark.parametrize(
    "files",
    [
        (["a", "b"], ["b", "a"]),
        (["a", "b"], ["a", "b", "c"]),
        (["a/1", "b/1"], ["a/1", "b/1"]),  # the first mates, once more
        (["a", "b", "a"], ["a", "b", "a"]),  # names that do not tell the fragments
        (["a", "b"],),
        ([], []),
    ],
)
def test_what_is_no_pair(files):
    assert mates(*files) is None


def test_of_a_file_cut_short_the_reads_before_that_are_mates():
    assert mates(["a", "b", "c"], ["a", "b"], whole=False) == [1, 1, 0, 2, 2]


def test_mates_are_called_by_their_number():
    fragments = Fragments()
    names = ["a", "b/1", "a", "b/2"]
    for name in names:
        fragments.add(name)
    found = fragments.mates([InputReads(2, True, "x", True), InputReads(2, True, "y", True)])
    assert mate_names(names, found) == ["a/1", "b/1", "a/2", "b/2"]
