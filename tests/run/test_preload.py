"""Encoders that a thread loads: in order, given away once, and no reason to fail."""

from __future__ import annotations

import sys
import threading
import time

import pytest
import torch
from golden_run import GOLDEN

from virnucpro.models.dnabert_s import DnabertEncoder
from virnucpro.models.weights import without_values
from virnucpro.run import preload as preload
from virnucpro.run.preload import Preloader

CPU = torch.device("cpu")


def test_the_encoders_come_in_order_and_once():
    order: list[str] = []

    def load(name: str) -> DnabertEncoder:
        order.append(name)
        return DnabertEncoder.load(GOLDEN / "dnabert_s", CPU, "fp32")

    usual = sys.getswitchinterval()
    with Preloader(
        {name: lambda name=name: load(name) for name in ("first", "second")}, CPU
    ) as ahead:
        second = ahead.take("second")
        assert order == ["first", "second"] and isinstance(second, DnabertEncoder)
        assert ahead.take("second") is None and ahead.take("another") is None
        assert ahead.take("first") is not second
        patience = time.monotonic() + 10
        while sys.getswitchinterval() != usual:  # nothing is imported any more
            assert time.monotonic() < patience


def test_what_cannot_be_loaded_is_left_to_the_ordinary_way(tmp_path):
    with Preloader(
        {"esm2": lambda: DnabertEncoder.load(tmp_path, CPU, "fp32"), "none": lambda: None}, CPU
    ) as ahead:
        assert ahead.take("esm2") is None and ahead.take("none") is None


def test_leaving_waits_for_what_is_being_loaded_and_loads_no_more():
    begun, go_on, done = threading.Event(), threading.Event(), []

    def slow() -> None:
        begun.set()
        go_on.wait(10)
        done.append("slow")

    usual = sys.getswitchinterval()
    with Preloader({"slow": slow, "never": lambda: done.append("never")}, CPU):
        begun.wait(10)
        assert sys.getswitchinterval() < usual / 10  # else whoever computes meanwhile stands still
        threading.Timer(0.2, go_on.set).start()
    assert done == ["slow"] and sys.getswitchinterval() == usual


def test_who_never_enters_changes_nothing():
    usual, begun = sys.getswitchinterval(), threading.Event()
    Preloader({"never": begun.set}, CPU)
    assert sys.getswitchinterval() == usual and not begun.wait(0.1)


def test_a_blank_network_has_its_shapes_and_no_values():
    with without_values():
        made = [torch.nn.Embedding(5, 3), torch.nn.Linear(3, 2), torch.nn.LayerNorm(3)]
    assert [module.weight.shape for module in made] == [(5, 3), (2, 3), (3,)]
    assert all(p.is_meta and p.requires_grad for module in made for p in module.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_thread_uses_the_gpu_of_its_process_cuda():
    last = torch.device("cuda", torch.cuda.device_count() - 1)
    # Accelerate's device has no number in a single process
    for device in (last, torch.device("cuda")):
        with (
            torch.cuda.device(last),
            Preloader({"it": lambda: [torch.cuda.current_device()]}, device) as ahead,
        ):
            assert ahead.take("it") == [last.index]


@pytest.mark.parametrize("gib, fits", [(80, True), (24, True), (8, False)])
def test_weights_wait_where_they_would_take_the_room_to_compute(gib, fits, tmp_path, monkeypatch):
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.truncate(5 << 30)  # ESM-2 3B in 16 bits; takes no disk
    monkeypatch.setattr(
        preload.torch.cuda, "mem_get_info", lambda device: ((gib << 30) - (1 << 29), gib << 30)
    )
    assert preload.fits_beside(tmp_path, torch.device("cuda")) == fits
