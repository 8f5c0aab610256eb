"""The displays, fed by hand: what they show at a known moment, and that a quiet run shows
nothing.
"""

from __future__ import annotations

import io
import logging
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from virnucpro.models.encoders import DNABERT_S, ESM2
from virnucpro.reporting.progress import (
    Counters,
    Dashboard,
    Display,
    LineDisplay,
    clock,
    line,
    make_display,
)


def step(batches=2, rows=20, tokens=2000):
    return SimpleNamespace(number=1, of=10, batches=batches, rows=rows, tokens=tokens)


def terminal(width=100):
    return Console(
        file=io.StringIO(),
        force_terminal=True,
        width=width,
        height=40,
        color_system=None,
        legacy_windows=False,
    )


def shown(console, renderable):
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_each_process_has_its_share_of_batches_dealt_in_turn():
    counters = Counters()
    counters.start("x", batches=11, processes=4)
    for batches in (4, 4, 3):
        assert sum(counters.share(rank)[0] for rank in range(4)) == counters.done
        counters.add(step(batches))
    assert [counters.share(rank) for rank in range(4)] == [(3, 3), (3, 3), (3, 3), (2, 2)]


def test_rates_leave_out_the_first_step_and_give_what_is_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    counters = Counters()
    counters.start("x", batches=100, processes=2)
    assert counters.left() is None
    for wait in [30, *[2] * 10]:
        now[0] += wait
        counters.add(step())
    assert counters.rates() == pytest.approx((1.0, 10.0, 1000.0))
    assert counters.left() == pytest.approx(78)
    memory = [(3 << 30, 80 << 30)]
    text = line(counters, memory)
    for part in (
        "22 of 100 batches (22 %)",
        "10 frames/s",
        "1,000 tokens/s",
        "1:18 left",
        "memory 3.0/80 GiB",
    ):
        assert part in text


def test_dashboard_shows_stages_processes_memory_total_and_what_is_left():
    console = terminal()
    display = Dashboard(console, lambda: [(1 << 30, 80 << 30), (2 << 30, 80 << 30)])
    display.stage("reading")
    display.embedding(ESM2.task, 10, 2)
    for _ in range(3):
        time.sleep(0.01)
        display.step(step())
    text = shown(console, display.render())
    for part in (
        "✓ reading",
        "▸ embedding proteins with ESM-2",
        "GPU 0",
        "GPU 1",
        "3/5 batches",
        "2.0/80 GiB",
        "total",
        "60 %",
        "left",
    ):
        assert part in text, text
    assert max(map(len, shown(terminal(80), display.render()).splitlines())) <= 80


def test_many_processes_fit_a_screen():
    display = Dashboard(terminal())
    display.embedding(ESM2.task, 1000, 64)
    assert "and 48 more" in shown(terminal(), display.render())


def test_stages_of_several_rounds_have_a_line_each():
    display = Dashboard(terminal())
    for _ in range(5):
        display.embedding("ESM-2", 3, 1)
        display.stage("planning")
    text = shown(terminal(), display.render())
    assert text.count("ESM-2") == 1 and len(text.splitlines()) == 3


def test_log_lines_appear_above_the_dashboard(capsys):
    logger = logging.getLogger("virnucpro")
    import sys

    handler = logging.StreamHandler(sys.stderr)
    logger.addHandler(handler)
    console = terminal()
    try:
        with Dashboard(console) as display:
            display.stage("reading")
            logger.warning("a word in between")
        assert handler.stream is sys.stderr
    finally:
        logger.removeHandler(handler)
    assert "a word in between" in console.file.getvalue()


def test_lines_come_while_nothing_moves(caplog):
    with caplog.at_level(logging.INFO, "virnucpro.progress"), LineDisplay(every=0.05) as display:
        logging.getLogger("virnucpro").propagate = True
        display.stage("reading")
        time.sleep(0.2)
        display.embedding(DNABERT_S.task, 10, 1)
        display.step(step(1))
        time.sleep(0.2)
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0] == "reading" and "reading: 0:00 so far" in messages
    assert any(
        message.startswith("embedding nucleotides with DNABERT-S: 1 of 10 batches")
        for message in messages
    )


def test_which_display():
    file = Console(file=io.StringIO())
    assert type(make_display(quiet=True, console=terminal())) is Display
    assert type(make_display(console=terminal())) is Dashboard
    assert type(make_display(verbose=True, console=terminal())) is LineDisplay
    assert type(make_display(console=file)) is LineDisplay


def test_quiet_is_quiet(capfd):
    with make_display(quiet=True) as display:
        display.stage("reading")
        display.embedding(ESM2.task, 3, 1)
        display.step(step())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (754, "12:34"), (3723, "1:02:03")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text
