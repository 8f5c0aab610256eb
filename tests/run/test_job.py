"""What a process of a run does with the note of the main one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from virnucpro.errors import StoreError
from virnucpro.run.job import join
from virnucpro.settings import PredictSettings


def test_machines_that_would_compute_in_different_precisions_do_not_run_together(tmp_path):
    settings = PredictSettings(inputs=(), output_dir=tmp_path, precision="fp32")
    board = SimpleNamespace(read=lambda _: {"error": None, "precision": "bf16"})
    with pytest.raises(StoreError, match="in fp32, the first one in bf16; give --precision fp32"):
        join(SimpleNamespace(board=board, settings=settings))
