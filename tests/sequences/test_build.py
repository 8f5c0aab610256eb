from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from virnucpro.sequences.build import NameBook


def unique(names: list[str]) -> list[str]:
    book = NameBook()
    for name in names:
        book.add(name)
    return list(book.resolve(names))


def test_later_ones_are_numbered_in_input_order():
    assert unique(["a", "b", "a", "a", "b"]) == ["a", "b", "a__2", "a__3", "b__2"]


def test_a_name_that_looks_numbered_keeps_its_name():
    assert unique(["a", "a", "a__2"]) == ["a", "a__3", "a__2"]
    assert unique(["a__2", "a", "a", "a__2"]) == ["a__2", "a", "a__3", "a__2__2"]


@given(st.lists(st.sampled_from(["a", "a__2", "a__3", "a__2__2", "b", "b__2", "c"]), max_size=30))
def test_names_are_unique_and_the_first_of_each_stays(names):
    new = unique(names)
    assert len(set(new)) == len(names)
    firsts = {name: i for i, name in reversed(list(enumerate(names)))}
    assert all(new[i] == name for name, i in firsts.items())
    assert all(b == a or b.startswith(a + "__") for a, b in zip(names, new, strict=True))
