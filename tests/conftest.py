"""Shared by all tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# a search of the shipped proteins costs seconds: tests of the search bring their own few
os.environ["VIRNUCPRO_REFERENCE"] = "none"

sys.path.insert(0, str(Path(__file__).parent / "helpers"))  # tests import the helpers by name


@pytest.fixture
def threads():
    """Sets the number of CPU threads, and puts the old number back."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
