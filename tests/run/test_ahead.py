"""The process beside that reads large inputs: it builds what the run builds, counts as the run, and
is gone with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from command import GOLDEN, GOLDEN_MODEL, environment, virnucpro

from virnucpro import cli
from virnucpro.launch import World, cores
from virnucpro.models.bundle import resolve_bundle
from virnucpro.run.ahead import BUILDER_VARIABLE, LARGE, reading_ahead
from virnucpro.run.job import read_table
from virnucpro.sequences.inputs import find_inputs
from virnucpro.settings import ModelSettings, PredictSettings

MODEL = ModelSettings(
    esm_model=str(GOLDEN / "esm2"),
    dna_model=str(GOLDEN / "dnabert_s"),
    classifier=str(GOLDEN / "500_model.pth"),
)
ALONE = World(launched=False)
SECONDS = 30.0

pytestmark = pytest.mark.skipif(cores() < 2, reason="with one core nothing is read beside")


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """As large as it takes, and without an open frame: nothing to embed."""
    path = tmp_path_factory.mktemp("large") / "large.fa"
    path.write_text(">closed\n" + "TTAA" * (LARGE // 4) + "\n")
    return path


@pytest.fixture
def settings(large, tmp_path) -> PredictSettings:
    return PredictSettings(
        find_inputs([large]), tmp_path / "out", MODEL, cache_dir=tmp_path / "cache"
    )


def children() -> list[psutil.Process]:
    return [
        p
        for p in psutil.Process().children()
        if p.status() != psutil.STATUS_ZOMBIE and "read_beside" in " ".join(p.cmdline())
    ]


def wait_for(what: Callable[[], object]) -> None:
    patience = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < patience
        time.sleep(0.005)


def manifest_below(cache: Path) -> dict:
    return json.loads(next(cache.glob("*/*/*/manifest.json")).read_text())


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_says_built_where_its_process_beside_built(large, tmp_path, processes):
    run = virnucpro(
        tmp_path,
        "predict",
        large,
        "-o",
        "out",
        *GOLDEN_MODEL,
        "--cache-dir",
        "cache",
        "--num-processes",
        processes,
    )
    assert run.returncode == 0, run.stderr.decode()
    lines = [line for line in run.stderr.decode().splitlines() if line.startswith("frames:")]
    assert len(lines) == 1 and "built" in lines[0]
    assert manifest_below(tmp_path / "cache")["builder"], "the main process built"


def test_a_second_run_says_reused_and_one_whose_process_was_killed_reads_itself(settings):
    bundle, _ = resolve_bundle(MODEL)
    lines = []
    for kill in (True, False):
        with reading_ahead(settings, ALONE):
            (process,) = children()
            if kill:
                process.kill()
            read_table(settings, bundle, lines.append)
            # nor is it defunct while the run goes on
            wait_for(lambda pid=process.pid: not psutil.pid_exists(pid))
        assert BUILDER_VARIABLE not in os.environ and not children()
    assert ["built" in lines[0], "reused" in lines[1], len(lines)] == [True, True, 2]
    assert manifest_below(settings.cache_dir)["builder"] is None


def test_what_is_half_built_goes_with_the_run(settings):
    building = lambda: list(settings.cache_dir.rglob("*.building"))  # noqa: E731
    with reading_ahead(settings, ALONE):
        assert len(children()) == 1
        wait_for(building)
    assert not children() and not building()


def test_a_killed_run_leaves_no_process(large, tmp_path):
    command = [
        sys.executable,
        "-m",
        "virnucpro",
        "predict",
        large,
        "-o",
        "out",
        *GOLDEN_MODEL,
        "--cache-dir",
        "cache",
        "--gpus",
        "none",
    ]
    main = subprocess.Popen(
        command, cwd=tmp_path, env=environment(tmp_path), stderr=subprocess.DEVNULL
    )
    running = psutil.Process(main.pid)
    wait_for(running.children)
    beside = running.children()
    main.kill()
    main.wait()
    gone, left = psutil.wait_procs(beside, SECONDS)
    assert gone and not left


def test_a_slip_of_the_pen_is_said_alone(large, tmp_path, capfd):
    assert (
        cli.run(
            [
                "predict",
                str(large),
                "-o",
                str(tmp_path / "out"),
                "--cache-dir",
                str(tmp_path / "cache"),
                "--gpus",
                "77",
            ]
        )
        == 64
    )
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1) and err.startswith("virnucpro: error: --gpus 77")
    assert not children() and not list(tmp_path.rglob("*.building"))


@pytest.mark.parametrize(
    "why", ["small", "a pipe", "not the main process", "begun by the launching process"]
)
def test_what_is_not_read_beside(settings, large, tmp_path, monkeypatch, why):
    world, inputs = ALONE, [large]
    if why == "small":
        inputs = [GOLDEN / "input.fa"]
    elif why == "a pipe":
        os.mkfifo(tmp_path / "pipe")
        inputs = [large, tmp_path / "pipe"]
    elif why == "not the main process":
        world = World(launched=True, rank=1, size=2)
    else:
        world = World(launched=True, size=2, self_launched=True)
        monkeypatch.setenv(BUILDER_VARIABLE, "ours")
    with reading_ahead(
        PredictSettings(find_inputs(inputs), tmp_path / "out", MODEL, cache_dir=tmp_path / "cache"),
        world,
    ):
        assert not children()
        assert os.environ.get(BUILDER_VARIABLE) == ("ours" if why.startswith("begun") else None)
