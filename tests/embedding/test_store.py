"""Shards: whole or absent, and damage is noticed."""

from __future__ import annotations

import numpy as np
import pytest

from virnucpro.embedding.store import FeatureStore
from virnucpro.errors import StoreError
from virnucpro.files import LEFTOVER


def rows_of(index: list[int], width: int = 4) -> np.ndarray:
    return np.array(
        [[row * 10 + column for column in range(width)] for row in index], dtype=np.float32
    )


def filled(directory, *indices: list[int]) -> FeatureStore:
    store = FeatureStore(directory, 4)
    store.load()
    for index in indices:
        store.add(np.array(index), rows_of(index))
        store.flush()
    return store


def test_what_was_stored_is_there_for_the_next_process(tmp_path):
    filled(tmp_path, [5, 2], [7])
    again = FeatureStore(tmp_path, 4)
    assert again.load().done.tolist() == [2, 5, 7]
    found = {
        int(i): row for index, rows in again.shards() for i, row in zip(index, rows, strict=True)
    }
    assert all((found[i] == rows_of([i])[0]).all() for i in (2, 5, 7))


def test_rows_that_were_not_flushed_are_not_promised(tmp_path):
    store = FeatureStore(tmp_path, 4)
    store.load()
    store.add(np.array([1]), rows_of([1]))
    assert FeatureStore(tmp_path, 4).load().done.tolist() == []


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "garbage"])
def test_a_damaged_shard_is_set_aside_and_the_others_count(tmp_path, damage):
    filled(tmp_path, [1, 2], [3, 4])
    shard = sorted(tmp_path.glob("*.safetensors"))[0]
    content = bytearray(shard.read_bytes())
    if damage == "flip":
        content[-3] ^= 1
    shard.write_bytes(
        {"flip": content, "cut": content[:-5], "empty": b"", "garbage": b"x" * 100}[damage]
    )
    state = FeatureStore(tmp_path, 4).load()
    assert state.done.tolist() == [3, 4]
    assert len(state.damaged) == 1 and shard.name in state.damaged[0]
    assert not shard.exists()


def test_a_write_that_was_cut_off_leaves_nothing_that_counts(tmp_path):
    filled(tmp_path, [1])
    (tmp_path / f"{LEFTOVER}abc").write_bytes(b"half")
    assert FeatureStore(tmp_path, 4).load().done.tolist() == [1]
    assert not list(tmp_path.glob(f"{LEFTOVER}*"))


def test_rows_of_another_width_do_not_count(tmp_path):
    filled(tmp_path, [1])
    assert FeatureStore(tmp_path, 5).load().done.tolist() == []


def test_damage_after_loading_is_an_error_not_a_wrong_row(tmp_path):
    store = filled(tmp_path, [1, 2])
    shard = next(tmp_path.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\xff")
    with pytest.raises(StoreError, match="damaged"):
        list(store.shards())


def test_half_precision_rows_stay_half(tmp_path):
    store = FeatureStore(tmp_path, 4, "float16")
    store.load()
    store.add(np.array([0]), np.full((1, 4), 1 / 3, dtype=np.float32))
    ((_, rows),) = store.shards()
    assert rows.dtype == np.float16
