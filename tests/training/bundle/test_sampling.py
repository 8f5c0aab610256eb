import numpy as np
import pytest

from virnucpro.training.bundle.sampling import (
    WindowRules,
    WindowSampler,
    join_windows,
    segment_weights,
)
from virnucpro.training.store import StoreBuilder, decode

RNG = np.random.default_rng(5)


@pytest.fixture(scope="module")
def store():
    builder = StoreBuilder()

    def add(name, n, virus, category, group, cluster, kind="genome"):
        builder.add(
            decode(RNG.integers(0, 4, n).astype(np.uint8)),
            name,
            virus,
            category,
            group,
            cluster,
            "train",
            kind,
        )

    for i in range(50):
        add(f"copy{i}", 1000, True, "viral", "crowded", "one")  # fifty copies of one genome
    add("single", 1000, True, "viral", "rare", "two")
    add("bacterium", 50_000, False, "bacteria", "big", "")
    add("plasmid", 2000, False, "plasmids", "small", "")
    add("leaf", 3000, False, "plants", "p", "")
    add("chloroplast", 3000, False, "plants", "q", "", "organelle")
    return builder.build()


def share(store, rules, field, value):
    return segment_weights(store, rules)[getattr(store.labels, field)[store.record] == value].sum()


def test_half_of_the_windows_are_viral_and_cells_are_even(store):
    rules = WindowRules()
    assert share(store, rules, "category", "viral") == pytest.approx(0.5)
    assert [
        share(store, rules, "category", c) for c in ("bacteria", "plasmids", "plants")
    ] == pytest.approx([1 / 6] * 3)


def test_copies_of_a_genome_count_as_one(store):
    rules = WindowRules()
    assert share(store, rules, "group", "crowded") == pytest.approx(
        share(store, rules, "group", "rare")
    )


def test_kinds_and_categories_follow_their_shares(store):
    rules = WindowRules(
        category_share={"viral": 0.2, "plants": 0.8}, kind_share={"genome": 0.75, "organelle": 0.25}
    )
    assert share(store, rules, "category", "bacteria") == 0
    assert share(store, rules, "kind", "organelle") == pytest.approx(0.8 * 0.25)


def test_windows_are_stretches_of_their_records(store):
    rules = WindowRules(length=500, shortest=150, mutated_share=0.0)
    w = WindowSampler(store, rules).draw(400, np.random.default_rng(1))
    assert (
        set((w.end - w.start).tolist()) <= set(range(150, 501))
        and (w.end - w.start == 500).mean() > 0.5
    )
    for a, b, record in zip(w.start, w.end, w.record, strict=True):
        whole = decode(store.segment(int(np.flatnonzero(store.record == record)[0])))
        assert decode(w.codes[a:b]) in whole
    both = join_windows([w, w])
    assert np.array_equal(
        both.codes[both.start[400] : both.end[400]], w.codes[w.start[0] : w.end[0]]
    )


def test_an_exponent_of_nothing_makes_groups_even():
    builder = StoreBuilder()
    for name, n, group in (("long", 160_000, "a"), ("short", 10_000, "b")):
        builder.add(
            decode(RNG.integers(0, 4, n).astype(np.uint8)),
            name,
            True,
            "viral",
            group,
            "",
            "train",
            "genome",
        )
    made = builder.build()
    assert share(made, WindowRules(), "group", "a") == pytest.approx(0.8)  # square roots, 4 : 1
    assert share(made, WindowRules(group_exponent=0.0), "group", "a") == pytest.approx(0.5)
