"""The driver's answer on GPU memory, as nvidia-smi prints it."""

from __future__ import annotations

from virnucpro.embedding.group import parse

ANSWER = "GPU-aa, 1024, 8192\nGPU-bb, 0, 143771\nGPU-cc, [N/A], [N/A]\n"


def test_memory_comes_in_the_order_of_the_devices():
    assert parse(ANSWER, ["GPU-bb", "GPU-aa"]) == [(0, 143771 << 20), (1024 << 20, 8192 << 20)]


def test_a_device_the_driver_does_not_tell_of_gives_nothing():
    assert parse(ANSWER, ["GPU-aa", "GPU-cc"]) == []
    assert parse("", ["GPU-aa"]) == []
