"""How many tokens a batch has."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from virnucpro.embedding.work import batch_tokens
from virnucpro.errors import UsageError
from virnucpro.models.encoders import DNABERT_S, ESM2


class Frames(SimpleNamespace):
    def __len__(self) -> int:
        return 50


def frames(length: int) -> Frames:
    lengths = pa.table(
        {name: np.full(50, length, dtype=np.int32) for name in ("esm2_length", "dnabert_s_length")}
    )
    return Frames(
        check=lambda: None,
        encoders=(DNABERT_S, ESM2),
        frames=lengths,
    )


@pytest.mark.parametrize(
    "length, tokens", [(100, 65_536), (64, 65_536), (40, 32_768), (20, 16_384)]
)
def test_a_batch_is_no_longer_than_its_sequences_can_fill(length, tokens):
    assert batch_tokens(frames(length), DNABERT_S, None, 65_536) == tokens


def test_the_longest_frame_has_room_and_what_is_asked_for_is_taken():
    assert batch_tokens(frames(900), ESM2, None, 512) == 900
    assert batch_tokens(frames(20), ESM2, 65_536, 512) == 65_536
    with pytest.raises(UsageError, match="give 900 or more"):
        batch_tokens(frames(900), ESM2, 512, 512)
