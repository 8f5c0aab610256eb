"""Which processes and devices a command line gets, with and without a launcher."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from virnucpro.errors import UsageError
from virnucpro.launch import World, choose_processes, read_world

ALONE = World(launched=False)
TWO = World(launched=True, rank=1, local_rank=1, size=2, local_size=2)


def test_without_a_launcher_there_is_one_process():
    assert read_world({"PATH": "/bin"}) == ALONE


def test_accelerate_launch_of_one_process_counts_as_launched():
    world = read_world({"ACCELERATE_MIXED_PRECISION": "no"})
    assert world.launched and world.is_main and world.size == 1


def test_torchrun_says_who_we_are():
    world = read_world(
        {
            "RANK": "3",
            "LOCAL_RANK": "1",
            "WORLD_SIZE": "4",
            "LOCAL_WORLD_SIZE": "2",
            "TORCHELASTIC_RESTART_COUNT": "1",
        }
    )
    assert (world.rank, world.local_rank, world.size, world.local_size, world.restarts) == (
        3,
        1,
        4,
        2,
        1,
    )
    assert not world.is_main


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"])
def test_a_configuration_for_training_is_refused(variable):
    with pytest.raises(UsageError, match=r"multi_gpu\.yaml"):
        read_world({variable: "true", "ACCELERATE_MIXED_PRECISION": "no"})


@pytest.mark.parametrize(
    ("gpus", "processes", "visible", "count", "cpu", "named"),
    [
        (None, None, [], 1, True, None),
        (None, None, ["0"], 1, False, "0"),
        (None, None, ["0", "1", "2"], 3, False, "0,1,2"),
        ("all", None, ["0", "1"], 2, False, "0,1"),
        ("none", None, ["0", "1"], 1, True, None),
        ("none", 3, ["0", "1"], 3, True, None),
        (None, 3, [], 3, True, None),
        (None, 3, ["0", "1"], 3, True, None),
        ("1", None, ["0", "1"], 1, False, "1"),
        # numbers count within what is visible
        ("2,3", None, ["4", "5", "6", "7"], 2, False, "6,7"),
        ("0,1", None, ["GPU-aa", "GPU-bb"], 2, False, "GPU-aa,GPU-bb"),
    ],
)
def test_choice_of_processes(gpus, processes, visible, count, cpu, named):
    chosen = choose_processes(gpus, processes, ALONE, visible)
    assert (chosen.count, chosen.cpu, chosen.visible) == (count, cpu, named)


@pytest.mark.parametrize(
    ("gpus", "processes", "visible", "message"),
    [
        ("2", None, ["0", "1"], "no device 2; there are 2"),
        ("0", None, [], "no GPU is visible"),
        ("0,0", None, ["0", "1"], "twice"),
        ("one", None, ["0"], "give all, none"),
        ("0", 2, ["0", "1"], "counts processes without GPUs"),
        ("none", 0, [], "1 or more"),
    ],
)
def test_impossible_wishes(gpus, processes, visible, message):
    with pytest.raises(UsageError, match=message):
        choose_processes(gpus, processes, ALONE, visible)


@pytest.mark.parametrize(("gpus", "processes"), [("0", None), ("0,1,2", None), ("none", 3)])
def test_a_count_that_contradicts_the_launcher_is_refused(gpus, processes):
    with pytest.raises(UsageError, match="the launcher started 2"):
        choose_processes(gpus, processes, TWO, ["0", "1", "2", "3"])


@pytest.mark.parametrize(
    ("gpus", "processes"), [("0,1", None), (None, None), ("all", None), ("none", 2)]
)
def test_a_launcher_keeps_its_processes(gpus, processes):
    chosen = choose_processes(gpus, processes, TWO, ["0", "1"])
    assert chosen.count == 1 and chosen.visible is None and not chosen.spawn
    assert chosen.choice.reason == "as launched"


@pytest.mark.parametrize(
    ("gpus", "processes", "reason"),
    [
        (None, 2, "--num-processes 2"),
        ("none", 2, "--num-processes 2"),
        ("0,1", None, "--gpus 0,1"),
        (None, None, "all that is visible"),
    ],
)
def test_in_processes_of_our_own_the_reason_is_what_was_asked_for(gpus, processes, reason):
    ours = replace(TWO, self_launched=True)
    assert choose_processes(gpus, processes, ours, ["0", "1"]).choice.reason == reason


DIES_ON_LEAVING = """
import os
if os.environ.get("RANK"):
    import virnucpro.launch, virnucpro.results
    leave, write = virnucpro.launch.leave_status, virnucpro.results.write_results
    def leave_and_die(code, world):
        leave(code, world)
        if world.rank == 1:
            os.abort()
    def write_late(*args, **more):
        import time
        time.sleep(20)  # the launcher ends this process long before
        return write(*args, **more)
    virnucpro.launch.leave_status, virnucpro.results.write_results = leave_and_die, write_late
"""


def test_a_process_that_dies_on_leaving_is_no_success(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(DIES_ON_LEAVING)
    fasta = tmp_path / "one.fa"
    fasta.write_text(">a\n" + "ATGGCTAAACGT" * 30 + "\n")
    command = [
        sys.executable,
        "-m",
        "virnucpro",
        "predict",
        str(fasta),
        "-m",
        "mini",
        "-o",
        str(tmp_path / "out"),
        "--cache-dir",
        str(tmp_path / "cache"),
        "--gpus",
        "none",
        "--num-processes",
        "2",
    ]
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=120
    )
    assert (
        run.returncode == 1
        and "process 1 of 2 died: killed by SIGABRT" in run.stderr
        and "Traceback" not in run.stderr
    )
    assert not (tmp_path / "out" / "run.json").exists()
