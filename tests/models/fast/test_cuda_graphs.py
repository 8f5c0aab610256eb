"""Graphs: which batches are launched and which replayed, what becomes of old graphs, and that a
failed recording costs nothing else.
"""

from __future__ import annotations

import pytest
import torch

from virnucpro.models.fast.cuda_graphs import (
    GRAPHS,
    ROWS,
    Graphs,
    Recorder,
    even_tables,
    split_tables,
)

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


class Recorded:
    """Stands for a graph: `replay` does what was recorded, and says so."""

    def __init__(self, launches, beside, done: list):
        self.launches, self.beside, self.done = launches, beside, done

    def replay(self):
        self.done[-1] = f"replay {self.done[-1]}"
        self.launches()


@pytest.fixture
def done() -> list[str]:
    return []


@pytest.fixture
def run(done):
    """Run a key's batch; `done` says for each batch how it was done."""
    recorded = []

    def record(launches, beside):
        done[-1] = f"record, {done[-1]}"
        recorded.append(Recorded(launches, beside, done))
        return recorded[-1]

    graphs = Graphs(record)

    def run_key(key: str):
        done.append(key)
        ran = []
        graphs.run(key, lambda: ran.append(key))
        assert len(ran) == 1 or "replay" in done[-1]

    run_key.graphs, run_key.recorded = graphs, recorded
    return run_key


def test_first_is_launched_second_recorded_others_replayed(run, done):
    for key in "aabaab":
        run(key)
    assert done == ["a", "replay record, a", "b", "replay a", "replay a", "replay record, b"]
    assert run.recorded[0].beside is None
    assert run.recorded[1].beside is run.recorded[0]


def test_the_oldest_graph_goes_and_its_key_starts_over(run, done):
    keys = [str(number) for number in range(GRAPHS + 1)]
    for key in keys:
        run(key)
        run(key)
    for _ in range(3):
        run("0")
    assert done[-3:] == ["0", "replay record, 0", "replay 0"]


def test_after_forgetting_nothing_old_is_replayed(run, done):
    run("a")
    run("a")
    run.graphs.forget()
    run("a")
    run("a")
    assert done[2:] == ["a", "replay record, a"]
    assert run.recorded[1].beside is None  # the memory that the graphs shared went with them


@pytest.mark.parametrize("fails", ["record", "replay"])
def test_where_graphs_fail_all_is_launched(fails, caplog):
    class Failing:
        def replay(self):
            raise RuntimeError("CUDA error: out of memory")

    def record(launches, beside):
        tries.append(fails)
        if fails == "record":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return Failing()

    tries, ran, graphs = [], [], Graphs(record)
    caplog.set_level("DEBUG")
    for key in "aaabb":
        graphs.run(key, lambda key=key: ran.append(key))
    assert "".join(ran) == "aaabb"
    assert len(tries) == 1
    assert "out of memory" in caplog.text


def test_tables_keep_their_sequences_and_have_few_shapes():
    tables = (
        (1, torch.tensor([[0, 5], [5, 64]], dtype=torch.int32)),
        (0, torch.ones(ROWS, 2, dtype=torch.int32)),
        (3, torch.full((ROWS + 1, 2), 7, dtype=torch.int32)),
    )
    together, shape = even_tables(tables)
    assert shape == ((1, ROWS), (0, ROWS), (3, 2 * ROWS))
    longer = torch.cat([together, torch.full((9, 2), 99, dtype=torch.int32)])
    for (kind, table), (found_kind, found) in zip(tables, split_tables(longer, shape), strict=True):
        assert found_kind == kind
        assert torch.equal(found[: len(table)], table)
        assert not found[len(table) :].any()
        assert found.is_contiguous() and found.dtype == torch.int32


@cuda
def test_a_recording_that_fails_leaves_the_gpu_as_it_was_on_cuda(caplog):
    device = torch.device("cuda")
    x = torch.zeros(8, device=device)

    def launches():
        x.add_(1)
        if torch.cuda.is_current_stream_capturing():
            torch.cuda.current_stream().synchronize()  # what no recording may hold

    graphs = Graphs(Recorder(device))
    caplog.set_level("DEBUG")
    for number in range(1, 5):
        graphs.run("key", launches)
        assert x.tolist() == [number] * 8
    assert "no CUDA graphs here" in caplog.text
    before = torch.cuda.memory_reserved()
    large = torch.empty(1 << 28, dtype=torch.uint8, device=device)
    del large
    torch.cuda.empty_cache()  # an allocator that believed in the recording still would refuse
    assert torch.cuda.memory_reserved() <= before

    recorded = []
    others = Graphs(lambda *what: recorded.append(Recorder(device)(*what)) or recorded[-1])
    for _ in range(4):
        others.run("key", lambda: x.add_(1))
    assert x.tolist() == [8] * 8
    assert len(recorded) == 1
