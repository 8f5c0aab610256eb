"""Old rows enter the store only from files whose sample is embedded to the same again."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command import GOLDEN

from virnucpro.embedding.older import SAMPLE, find_older_work, import_older_rows, same_model
from virnucpro.embedding.store import FeatureStore
from virnucpro.embedding.work import make_work
from virnucpro.models.encoders import ESM2, read_tokenizers
from virnucpro.sequences.frame_columns import FrameRules
from virnucpro.sequences.inputs import find_inputs
from virnucpro.sequences.table_cache import TablePlaces, build_or_open

WIDTHS = {"dnabert_s": 48, "esm2": 32}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    tokenizers = read_tokenizers({"esm2": GOLDEN / "esm2", "dnabert_s": GOLDEN / "dnabert_s"})
    cache = tmp_path_factory.mktemp("frames")
    return build_or_open(
        find_inputs([GOLDEN / "input.fa"]),
        FrameRules(500),
        tokenizers,
        TablePlaces(cache, cache),
    )


@pytest.fixture(scope="module")
def proteins() -> np.ndarray:
    """What the model gives for every frame, float32 [frames, 32]."""
    merged = torch.load(GOLDEN / "expected" / "output_1_merged.pt", weights_only=True)
    return np.asarray(merged["data"], dtype=np.float32)[:, WIDTHS["dnabert_s"] :]


@pytest.fixture
def old(tmp_path) -> Path:
    folder = tmp_path / "old" / "input_protein"
    folder.mkdir(parents=True)
    shutil.copy(GOLDEN / "expected" / "output_1_ESM.pt", folder)
    shutil.copy(GOLDEN / "expected" / "frames_protein.faa", folder / "output_1.fa")
    return tmp_path / "old"


def work_with(table, old: Path, store: FeatureStore, embed):
    def agrees(rows: np.ndarray, taken: np.ndarray) -> bool:
        return same_model(taken, embed(rows), "fp32")

    older = find_older_work(old)
    return make_work(
        table,
        ESM2,
        store,
        4096,
        lambda *known: import_older_rows(older, "esm2", table, WIDTHS, *known, agrees),
    )


def test_rows_of_the_same_model_are_taken_and_nothing_is_left_to_do(table, old, tmp_path, proteins):
    asked: list[int] = []

    def embed(rows: np.ndarray) -> np.ndarray:
        asked.extend(rows.tolist())
        return proteins[rows]

    work = work_with(table, old, FeatureStore(tmp_path / "rows", 32), embed)
    assert work.taken_up == len(work.duplicates.unique) and len(work.plan) == 0
    assert len(asked) == SAMPLE
    for index, rows in work.store.shards():
        np.testing.assert_allclose(rows, proteins[index], rtol=0, atol=2e-5)
    again = work_with(table, old, FeatureStore(tmp_path / "rows", 32), embed)
    assert again.taken_up == 0 and len(again.plan) == 0 and len(asked) == SAMPLE


def test_rows_of_another_model_are_not(table, old, tmp_path, proteins, caplog):
    with caplog.at_level(logging.INFO, "virnucpro"):
        work = work_with(
            table,
            old,
            FeatureStore(tmp_path / "rows", 32),
            lambda rows: proteins[rows] + np.float32(0.01),
        )
    assert work.taken_up == 0 and len(work.plan.rows) == len(work.duplicates.unique)
    assert "another model's" in caplog.text
