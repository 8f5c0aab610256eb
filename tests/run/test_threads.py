"""CPU threads of a process: what was asked for, or what the system grants."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from virnucpro.launch import World
from virnucpro.run import processes
from virnucpro.run.processes import use_threads


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch) -> Iterator[None]:
    """torch's threads are as before afterwards."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(processes, "cores", lambda: 8)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("threads", "world", "variable", "count", "reason"),
    [
        (3, World(False), "1", 3, "--threads 3"),
        (None, World(False), "2", 2, "OMP_NUM_THREADS"),
        (None, World(False), None, 5, "the cores this process may use"),
        (None, World(True, local_size=4), "1", 2, "the cores shared out"),
        (1, World(True, local_size=4), "1", 1, "--threads 1"),
    ],
)
def test_threads_and_why(threads, world, variable, count, reason, monkeypatch):
    torch.set_num_threads(2 if variable == "2" else 5)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    choice = use_threads(threads, cpu=True, world=world)
    assert (choice.value, choice.reason, torch.get_num_threads()) == (str(count), reason, count)
