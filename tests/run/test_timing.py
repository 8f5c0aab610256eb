"""The loop's time, by part."""

from __future__ import annotations

import time

import pytest
import torch

from virnucpro.run.timing import PENDING, LoopSeconds, Meter


def test_each_part_gets_its_own_time():
    meter = Meter(torch.device("cpu"))
    for _ in range(PENDING):
        for pause in (0.003, 0.001, 0.002):
            meter.mark()
            time.sleep(pause)
    meter.mark()
    found, steps = meter.seconds(), PENDING
    assert (
        found.encoder >= 0.003 * steps
        and found.gather >= 0.001 * steps
        and found.between >= 0.002 * steps
    )
    assert found.encoder > found.between > found.gather


def test_nothing_marked_is_no_time():
    assert Meter(torch.device("cpu")).seconds() == LoopSeconds()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_the_gpus_time_counts():
    meter, a = Meter(torch.device("cuda")), torch.randn(4096, 4096, device="cuda")
    for _ in range(PENDING):
        meter.mark()
        for _ in range(10):
            a @ a
        meter.mark()
        meter.mark()
    found = meter.seconds()
    assert found.encoder > 10 * found.gather
