from __future__ import annotations

import pytest
import torch


@pytest.fixture
def threads():
    """Sets the number of CPU threads, and puts the old number back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
