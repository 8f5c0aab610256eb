"""The final matrix: the right row for every frame, in a file that torch and zip readers accept."""

from __future__ import annotations

import os
import zipfile

import numpy as np
import pytest
import torch

from virnucpro.embedding.matrix import check_room, read_matrix, write_matrix
from virnucpro.embedding.store import EncoderRows, FeatureRows, FeatureStore
from virnucpro.errors import StoreError


def store_of(directory, width: int, rows: int, seed: int) -> tuple[FeatureStore, np.ndarray]:
    """Rows stored in shuffled shards."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(rows, width)).astype(np.float32)
    store = FeatureStore(directory, width)
    store.load()
    for index in np.array_split(random.permutation(rows), 3):
        store.add(index, values[index])
        store.flush()
    return store, values


def test_every_frame_gets_the_rows_of_its_representatives(tmp_path):
    dna, dna_rows = store_of(tmp_path / "dna", 3, 10, 0)
    protein, protein_rows = store_of(tmp_path / "protein", 5, 10, 1)
    first, second = np.array([0, 1, 0, 3, 3]), np.array([9, 9, 9, 2, 0])
    ids = [f"frame{i}" for i in range(5)]
    write_matrix(
        tmp_path / "merged_features.pt",
        ids,
        FeatureRows([EncoderRows(dna, first), EncoderRows(protein, second)]),
        {"name": "tiny"},
    )
    content = torch.load(tmp_path / "merged_features.pt", weights_only=True)
    assert content["ids"] == ids and content["model"] == {"name": "tiny"}
    assert (
        content["data"].numpy() == np.concatenate([dna_rows[first], protein_rows[second]], axis=1)
    ).all()
    assert zipfile.ZipFile(tmp_path / "merged_features.pt").testzip() is None
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["merged_features.pt"]


def test_rows_joined_where_they_lie_are_the_rows_of_the_matrix(tmp_path):
    dna, dna_rows = store_of(tmp_path / "dna", 3, 10, 0)
    protein, protein_rows = store_of(tmp_path / "protein", 5, 10, 1)
    first, second = np.array([0, 1, 0, 3, 3]), np.array([9, 9, 9, 2, 0])
    joined = FeatureRows([EncoderRows(dna, first), EncoderRows(protein, second)])
    expected = np.concatenate([dna_rows[first], protein_rows[second]], axis=1)
    assert (
        joined.shape == expected.shape
        and (joined[0:5] == expected).all()
        and (joined[2:4] == expected[2:4]).all()
    )
    with pytest.raises(StoreError, match="2 rows are missing"):
        FeatureRows([EncoderRows(dna, np.array([0, 77, 11]))])
    assert FeatureRows([EncoderRows(dna, np.empty(0, dtype=np.int64))])[0:7].shape == (0, 3)


def test_a_shard_cut_short_under_the_reader_is_an_error_not_a_dead_process(tmp_path):
    store, _ = store_of(tmp_path / "dna", 3, 10, 0)
    joined = FeatureRows([EncoderRows(store, np.arange(10))])
    cut = store.files()[1]
    os.truncate(cut, 100)
    with pytest.raises(StoreError, match=f"{cut.name}: has 100 of "):
        joined[0:10]
    with pytest.raises(StoreError, match=f"{cut.name}: has 100 of "):
        write_matrix(tmp_path / "merged_features.pt", [str(i) for i in range(10)], joined, {})
    assert [path.name for path in tmp_path.iterdir()] == ["dna"]


def test_without_frames_the_matrix_has_its_width(tmp_path):
    store, _ = store_of(tmp_path / "dna", 3, 1, 0)
    write_matrix(
        tmp_path / "merged_features.pt",
        [],
        FeatureRows([EncoderRows(store, np.empty(0, dtype=np.int64))]),
        {},
    )
    ids, data = read_matrix(tmp_path / "merged_features.pt")
    assert ids == [] and data.shape == (0, 3)


def test_too_little_room_is_said_before_the_run(tmp_path):
    with pytest.raises(StoreError, match="GB wanted"):
        check_room(tmp_path, 1 << 60)


def test_a_file_that_is_no_matrix_is_refused(tmp_path):
    (tmp_path / "merged_features.pt").write_bytes(b"nothing")
    with pytest.raises(StoreError, match="not a readable feature file"):
        read_matrix(tmp_path / "merged_features.pt")
