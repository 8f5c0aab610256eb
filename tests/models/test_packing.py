from __future__ import annotations

import numpy as np
import pytest
import torch

from virnucpro.models.packing import LengthGroup, pack, pool

SEQUENCES = [np.array([0, 7, 8, 2]), np.array([0, 9, 2]), np.array([0, 5, 6, 2])]


def test_sequences_lie_by_length_and_the_tail_is_cut_into_pieces():
    batch = pack(SEQUENCES, 20, pad_id=1, max_length=4, max_rows=5)
    assert batch.tokens.tolist() == [0, 9, 2, 0, 7, 8, 2, 0, 5, 6, 2] + [1] * 9
    assert batch.positions.tolist() == [0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert batch.cu_seqlens.tolist() == [0, 3, 7, 11, 15, 19] + [20] * 6
    assert batch.groups == (LengthGroup(0, 1, 3), LengthGroup(3, 2, 4))
    assert (batch.rows, batch.lengths, batch.order.tolist()) == (3, (3, 4, 4), [1, 0, 2])


def test_bounds_have_one_length_whatever_is_packed():
    full = pack([np.zeros(1, np.int64)] * 5, 5, pad_id=1, max_length=4, max_rows=5)
    tail = pack([np.zeros(1, np.int64)], 5, pad_id=1, max_length=4, max_rows=5)
    assert full.cu_seqlens.shape == tail.cu_seqlens.shape
    assert full.cu_seqlens[-1] == tail.cu_seqlens[-1] == 5


@pytest.mark.parametrize("limits", [{"tokens": 10}, {"max_length": 3}, {"max_rows": 2}])
def test_what_does_not_fit_is_refused(limits):
    with pytest.raises(ValueError, match="do not fit"):
        pack(SEQUENCES, **({"tokens": 20, "pad_id": 1} | limits))


def test_pool_is_the_mean_without_skipped_tokens_in_the_callers_order():
    batch = pack(SEQUENCES, 20, pad_id=1)
    hidden = torch.randn(
        20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).float()
    hidden[11:] = torch.nan  # the tail never counts
    rows = {0: hidden[3:7], 1: hidden[:3], 2: hidden[7:11]}
    torch.testing.assert_close(
        pool(hidden, batch, skip=1), torch.stack([rows[i][1:-1].mean(0) for i in range(3)])
    )
    torch.testing.assert_close(
        pool(hidden, batch, skip=0), torch.stack([rows[i].mean(0) for i in range(3)])
    )
