"""Which processes and devices a command line gets, with and without a launcher."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch.distributed as dist
from command import OF_A_LAUNCHER

from virnucpro.embedding import group
from virnucpro.errors import UsageError, VirNucProError
from virnucpro.launch import World, check_network, cores, launcher_variables, read_world
from virnucpro.run.processes import choose_processes

ALONE = World(launched=False)
TWO = World(launched=True, rank=1, local_rank=1, size=2, local_size=2)
TORCHRUN = {
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


def test_without_a_launcher_there_is_one_process():
    assert read_world({"PATH": "/bin"}) == ALONE


def test_accelerate_launch_of_one_process_counts_as_launched():
    world = read_world({"ACCELERATE_MIXED_PRECISION": "no", "WORLD_SIZE": "2"})
    assert world.launched and world.is_main and world.size == 1


def test_torchrun_says_who_we_are():
    world = read_world(TORCHRUN | {"TORCHELASTIC_RESTART_COUNT": "1"})
    assert (world.rank, world.local_rank, world.size, world.local_size, world.restarts) == (
        3,
        1,
        4,
        2,
        1,
    )
    assert not world.is_main


@pytest.mark.parametrize(
    "left",
    [
        {"WORLD_SIZE": "2"},
        {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"},
        {"LOCAL_RANK": "none"},
        {"RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
    ],
)
def test_some_of_a_launchers_variables_are_no_launcher(left):
    world = read_world(left)
    assert replace(world, remark=None) == ALONE
    assert "which is a single process" in world.remark and next(iter(left)) in world.remark


@pytest.mark.parametrize("left", [{"PMI_SIZE": "2", "PMI_RANK": "x"}, {"OMPI_COMM_WORLD_SIZE": ""}])
def test_variables_of_other_launchers_mean_nothing(left, monkeypatch):
    assert read_world(left) == ALONE
    for name in OF_A_LAUNCHER:
        monkeypatch.delenv(name, raising=False)
    for name, value in {**left, "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with launcher_variables():  # accelerate would take them for its own
        assert not {*left, "LOCAL_RANK"} & set(os.environ)
    assert os.environ == before


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RANK", "x"),
        ("RANK", "4"),
        ("RANK", "-1"),
        ("LOCAL_RANK", "2"),
        ("WORLD_SIZE", "0"),
        ("WORLD_SIZE", "4.0"),
        ("LOCAL_WORLD_SIZE", "8"),
        ("MASTER_PORT", "http"),
        ("MASTER_PORT", "65536"),
        ("TORCHELASTIC_RESTART_COUNT", "once"),
        ("ACCELERATE_USE_CPU", "perhaps"),
        ("ACCELERATE_MIXED_PRECISION", "half"),
        ("ACCELERATE_USE_FSDP", ""),
    ],
)
def test_a_broken_set_is_named(variable, value):
    with pytest.raises(UsageError, match=f"^{variable}={value}: "):
        read_world(TORCHRUN | {variable: value})


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("MASTER_ADDR", "nowhere.invalid", "no such host"),
        ("GLOO_SOCKET_IFNAME", "lo,nic9", "GLOO_SOCKET_IFNAME=nic9: no such network interface"),
    ],
)
def test_processes_that_cannot_meet_do_not_wait_for_each_other(variable, value, said):
    with pytest.raises(UsageError, match=said):
        check_network(TWO, TORCHRUN | {variable: value})
    check_network(ALONE, {variable: value})
    check_network(replace(TWO, self_launched=True), TORCHRUN | {variable: value})


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (dist.DistStoreError("1/2 clients joined"), "process 1 of 2 could not join the others"),
        (
            ValueError("what is this"),
            r"\(what is this\); if one of ACCELERATE_DYNAMO_MODE is wrong",
        ),
    ],
)
def test_whatever_accelerate_makes_of_its_variables_is_one_line(error, said, monkeypatch):
    def refuse(**_: object) -> None:
        raise error

    for name in os.environ:
        if name.startswith(("ACCELERATE_", "GLOO_", "NCCL_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ACCELERATE_DYNAMO_MODE", "strange")
    monkeypatch.setattr(group, "Accelerator", refuse)
    with pytest.raises(VirNucProError, match=said):
        group.make_accelerator(replace(TWO, self_launched=True), cpu=True)


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


def test_cores_are_bounded_by_slurm_and_by_the_container(tmp_path):
    quota = tmp_path / "cpu.max"
    there = cores({}, str(quota))
    assert cores({"SLURM_CPUS_PER_TASK": "1"}, str(quota)) == 1
    assert cores({"SLURM_CPUS_PER_TASK": "1000000"}, str(quota)) == there
    assert cores({"SLURM_CPUS_PER_TASK": "9" * 5000}, str(quota)) == there
    quota.write_text("50000 100000\n")
    assert cores({}, str(quota)) == 1
    quota.write_text("max 100000\n")
    assert cores({}, str(quota)) == there
