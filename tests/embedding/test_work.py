"""How many tokens a batch has."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from virnucpro.embedding.work import batch_tokens
from virnucpro.errors import UsageError


def frames(length: int) -> SimpleNamespace:
    lengths = pa.table(
        {name: np.full(50, length, dtype=np.int32) for name in ("esm2_length", "dnabert_s_length")}
    )
    return SimpleNamespace(
        check=lambda: None, frames=SimpleNamespace(data=SimpleNamespace(table=lengths))
    )


@pytest.mark.parametrize(
    "length, tokens", [(100, 65_536), (64, 65_536), (40, 32_768), (20, 16_384)]
)
def test_a_batch_is_no_longer_than_its_sequences_can_fill(length, tokens):
    assert batch_tokens(frames(length), "dnabert_s", None, 65_536) == tokens


def test_the_longest_frame_has_room_and_what_is_asked_for_is_taken():
    assert batch_tokens(frames(900), "esm2", None, 512) == 900
    assert batch_tokens(frames(20), "esm2", 65_536, 512) == 65_536
    with pytest.raises(UsageError, match="give 900 or more"):
        batch_tokens(frames(900), "esm2", 512, 512)
