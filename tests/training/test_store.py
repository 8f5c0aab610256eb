import numpy as np
import pytest

from virnucpro.training.store import (
    Store,
    StoreBuilder,
    decode,
    decode_protein,
    encode,
    encode_protein,
    pack2,
    pack5,
    substitute,
    unpack2,
    unpack5,
)

RNG = np.random.default_rng(0)


def random_dna(n: int) -> bytes:
    return decode(RNG.integers(0, 4, n).astype(np.uint8))


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 1001])
def test_packing_gives_the_codes_back(n):
    bases, residues = (
        RNG.integers(0, 4, n).astype(np.uint8),
        RNG.integers(0, 20, n).astype(np.uint8),
    )
    assert np.array_equal(unpack2(pack2(bases), n), bases)
    assert np.array_equal(unpack5(pack5(residues), n), residues)


def test_ambiguous_letters_cut_a_record_and_offsets_say_where():
    first, second = random_dna(100), random_dna(80)
    builder = StoreBuilder()
    builder.add(
        first + b"NNRY" + second + b"N" + random_dna(10),
        "a",
        True,
        "viral",
        "g",
        "c",
        "train",
        "genome",
    )
    store = builder.build()
    assert store.offset.tolist() == [0, 104]  # the last ten bases are too few for a segment
    assert [decode(store.segment(i)) for i in range(2)] == [first, second]


def test_a_saved_store_is_the_same_store(tmp_path):
    builder = StoreBuilder()
    for i in range(5):
        builder.add(
            random_dna(70 + i),
            f"r{i}",
            i % 2 == 0,
            "viral" if i % 2 == 0 else "fungi",
            f"g{i % 3}",
            "",
            "test",
            "genome",
        )
    store = builder.build()
    store.save(tmp_path / "s.npz", bits=2)
    again = Store.load(tmp_path / "s.npz")
    assert (
        np.array_equal(again.codes, store.codes) and again.record.tolist() == store.record.tolist()
    )
    for field in store.labels.__dataclass_fields__:
        assert getattr(again.labels, field).tolist() == getattr(store.labels, field).tolist()


def test_selecting_and_joining_keep_sequences_with_their_labels():
    builder = StoreBuilder()
    sequences = [random_dna(60 + 7 * i) for i in range(6)]
    for i, sequence in enumerate(sequences):
        builder.add(
            sequence, f"r{i}", i < 3, "viral" if i < 3 else "plants", f"g{i}", "", "train", "genome"
        )
    store = builder.build()
    odd, even = (
        store.select_records(np.arange(6) % 2 == 1),
        store.select_records(np.arange(6) % 2 == 0),
    )
    joined = Store.concatenate([odd, even])
    found = {
        joined.labels.name[joined.record[i]]: decode(joined.segment(i)) for i in range(len(joined))
    }
    assert found == {f"r{i}": s for i, s in enumerate(sequences)}


def test_substitutions_are_other_bases_at_the_rate():
    codes = RNG.integers(0, 4, 200_000).astype(np.uint8)
    changed = substitute(codes, 0.05, np.random.default_rng(1))
    assert set(changed.tolist()) == {0, 1, 2, 3}
    assert (changed != codes).mean() == pytest.approx(0.05, abs=0.002)
    assert np.array_equal(substitute(codes, 0.0, RNG), codes)


def test_letters_and_codes():
    assert encode(b"ACGTN").tolist() == [0, 1, 2, 3, 4]
    assert decode_protein(encode_protein(b"MKVW")) == b"MKVW"
