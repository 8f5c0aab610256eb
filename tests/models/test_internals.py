"""torch's functions without a public name are there, and do what is said of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from virnucpro.models import internals

PACKAGE = Path(__file__).parents[2] / "virnucpro"


def test_this_torch_is_one_that_was_seen():
    version = ".".join(torch.__version__.split(".")[:2])
    if version not in internals.SEEN:
        pytest.skip(
            f"torch {version} was not seen: after the tests with several processes and those of a"
            " GPU, add it to SEEN"
        )


def test_the_store_is_the_groups():
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        internals.store_of_the_group().set("note", "here")
        internals.store_of_the_group().wait(["note"])
        assert internals.store_of_the_group().get("note") == b"here"
    finally:
        dist.destroy_process_group()


def test_steps_for_many_tensors_are_those_for_each():
    ones, twos = [torch.ones(2), torch.ones(3)], [torch.full((2,), 2.0), torch.full((3,), 2.0)]
    assert [t.tolist() for t in internals.foreach_lerp(ones, twos, 0.5)] == [[1.5] * 2, [1.5] * 3]
    internals.foreach_mul_(ones, 3.0)
    internals.foreach_add_(ones, twos, alpha=-1.0)
    internals.foreach_lerp_(ones, twos, 1.0)
    assert [t.tolist() for t in ones] == [[2.0] * 2, [2.0] * 3]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_recording_can_be_ended():
    assert callable(torch._C._cuda_endAllocateToPool)


def test_no_other_module_calls_them():
    private = re.compile(
        r"\b(torch|dist|datasets|typer|accelerate|transformers)(\.\w+)*\._[a-zA-Z]"
    )
    found = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in PACKAGE.rglob("*.py")
        if path.name != "internals.py"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if private.search(re.sub(r'"[^"]*"', "", line))
    ]
    assert found == []
