"""The loop over planned batches in one process: what memory, bad numbers and repeats do to rows.
Several processes: test_predict.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from virnucpro.embedding.batches import NO_MEMORY, NOT_FINITE, PlannedBatches
from virnucpro.embedding.extract import FAILURE_REASONS, extract
from virnucpro.embedding.plan import make_plan
from virnucpro.embedding.store import FeatureStore

WIDTH = 3
SEQUENCES = [np.full(2 + row % 7, row, dtype=np.uint8) for row in range(40)]


class Means:
    """Embeds a sequence as its mean token, its length, and one.

    `capacity`: tokens that fit the memory.
    """

    name, width, pad_id, weights, in_16_bits_below = "means", WIDTH, 0, 1, 0

    def __init__(
        self, capacity: int = 10_000, infinite: tuple[int, ...] = (), hopeless: tuple[int, ...] = ()
    ):
        self.capacity, self.infinite, self.hopeless = capacity, infinite, hopeless

    def embed(self, batch):
        if len(batch.tokens) > self.capacity:
            raise torch.OutOfMemoryError("tried to allocate")
        rows = self._rows(batch)
        rows[torch.isin(rows[:, 0], torch.tensor([float(row) for row in self.infinite]))] = float(
            "inf"
        )
        return rows

    def recompute_fp32(self, batch):
        rows = self._rows(batch)
        rows[torch.isin(rows[:, 0], torch.tensor([float(row) for row in self.hopeless]))] = float(
            "nan"
        )
        return rows

    @staticmethod
    def _rows(batch):
        pieces = torch.split(batch.tokens[: sum(batch.lengths)].float(), list(batch.lengths))
        packed = torch.stack([torch.tensor([piece.mean(), len(piece), 1.0]) for piece in pieces])
        rows = torch.empty_like(packed)
        rows[batch.order] = packed
        return rows


@pytest.fixture
def embed(tmp_path):
    def run(encoder: Means, tokens: int = 64):
        lengths = np.array([len(ids) for ids in SEQUENCES])
        plan = make_plan(np.arange(len(SEQUENCES)), lengths, tokens)
        store = FeatureStore(tmp_path / "rows", WIDTH)
        store.load()
        batches = PlannedBatches(plan, lambda rows: [SEQUENCES[row] for row in rows], 0, 16)
        steps = []
        result = extract(Accelerator(cpu=True), encoder, batches, store, steps.append)
        found = {
            int(i): row
            for index, rows in store.shards()
            for i, row in zip(index, rows, strict=True)
        }
        return result, found, steps

    return run


def assert_right(found: dict, without: tuple[int, ...] = ()):
    assert sorted(found) == [row for row in range(len(SEQUENCES)) if row not in without]
    for row, values in found.items():
        assert values.tolist() == [row, len(SEQUENCES[row]), 1.0]


def test_every_row_arrives_once_under_its_index(embed):
    result, found, steps = embed(Means())
    assert_right(found)
    assert (result.rows, result.split, result.recomputed, result.in_16_bits, result.failed) == (
        40,
        0,
        0,
        0,
        {},
    )
    assert sum(step.rows for step in steps) == 40 and steps[-1].number == steps[-1].of


def test_sequences_too_short_for_8_bits_are_counted_and_said(embed, caplog):
    encoder = Means()
    encoder.in_16_bits_below = 4
    with caplog.at_level("INFO"):
        result, found, _ = embed(encoder)
    assert_right(found)
    assert (
        result.in_16_bits == sum(len(ids) < 4 for ids in SEQUENCES) == 12 and result.recomputed == 0
    )
    assert [line for line in caplog.messages if "16 bits" in line] == [
        "means: 12 sequences of fewer than 4 tokens are computed in 16 bits: too short for 8"
    ]


def test_several_batches_between_two_meetings(embed):
    result, found, steps = embed(Means(infinite=(3, 17)), tokens=10)
    assert_right(found)
    assert result.recomputed == 2
    assert (
        steps[0].batches == 3
        and steps[0].number == 1
        and len(steps) == steps[0].of
        and sum(step.rows for step in steps) == 40
    )


def test_a_batch_too_large_for_the_memory_is_split(embed):
    result, found, _ = embed(Means(capacity=32))
    assert_right(found)
    assert result.split > 0 and not result.failed


def test_a_sequence_that_never_fits_fails_alone(embed):
    result, found, _ = embed(Means(capacity=15))  # one sequence is packed into 16 tokens
    assert not found and set(result.failed) == set(range(40))
    assert set(result.failed.values()) == {FAILURE_REASONS[NO_MEMORY]}


def test_a_row_that_is_not_finite_is_computed_again(embed):
    result, found, _ = embed(Means(infinite=(3, 17)))
    assert_right(found)
    assert result.recomputed == 2 and not result.failed


def test_a_row_that_stays_so_fails_alone(embed):
    result, found, _ = embed(Means(infinite=(3, 17), hopeless=(17,)))
    assert_right(found, without=(17,))
    assert result.failed == {17: FAILURE_REASONS[NOT_FINITE]} and result.recomputed == 1
