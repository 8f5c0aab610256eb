"""`doctor` on this machine as it is, and on what can be put wrong here."""

from __future__ import annotations

from pathlib import Path

import pytest

from virnucpro.tools import doctor, machine
from virnucpro.tools.doctor import check_all, worst
from virnucpro.tools.machine import OK, PROBLEM, WARNING, Check


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch) -> Path:
    """Caches below tmp_path, no launcher."""
    monkeypatch.setenv("VIRNUCPRO_HOME", str(tmp_path / "models"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    for name in doctor.LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_sound_machine_has_no_problem(tmp_path: Path):
    checks = check_all(tmp_path)
    assert [check for check in checks if check.verdict == PROBLEM and check.name != "models"] == []
    assert {check.name for check in checks} == {
        "python",
        "packages",
        "processor",
        "gpu",
        "nccl",
        "disk",
        "caches",
        "launcher",
        "models",
    }
    for check in checks:
        assert check.found and "\n" not in check.found + check.fix
        assert check.fix or check.verdict == OK
    # Looking leaves nothing behind.
    assert list(tmp_path.iterdir()) == []


def test_the_full_model_is_offered_where_it_is_not():
    assert (
        Check("models", WARNING, "500: not installed", "virnucpro models download 500")
        in doctor.models()
    )


def test_a_cache_that_cannot_be_made_is_a_problem(tmp_path: Path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VIRNUCPRO_HOME", str(tmp_path / "file" / "models"))
    models = next(check for check in doctor.caches() if check.found.startswith("models"))
    assert models.verdict == PROBLEM and "VIRNUCPRO_HOME" in models.fix


def test_variables_left_by_a_launcher_are_noticed(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    assert any(
        check.verdict == WARNING and check.fix == "unset RANK" for check in doctor.launcher()
    )


def test_a_global_configuration_that_shards_models_is_noticed(tmp_path: Path, monkeypatch):
    file = tmp_path / "default_config.yaml"
    file.write_text(
        "distributed_type: DEEPSPEED\nnum_processes: 2\ndeepspeed_config: {zero_stage: 3}\n"
    )
    monkeypatch.setattr("accelerate.commands.config.config_args.default_config_file", str(file))
    (check,) = doctor.launcher()
    assert (
        check.verdict == WARNING
        and "deepspeed_config" in check.found
        and "--config_file" in check.fix
    )


def test_a_look_that_fails_is_a_line_and_the_others_go_on(tmp_path: Path, monkeypatch):
    def broken() -> list[Check]:
        raise OSError("no such device")

    monkeypatch.setattr(doctor, "processor", broken)
    checks = check_all(tmp_path)
    assert (
        Check(
            "processor",
            PROBLEM,
            "could not be looked at (OSError: no such device)",
            "install VirNucPro anew",
        )
        in checks
    )
    assert worst(checks) == PROBLEM and len(checks) > 8


@pytest.mark.parametrize(
    ("built", "capability", "runs"),
    [
        (["sm_80", "sm_90"], (8, 6), True),
        (["sm_80", "sm_90"], (7, 5), False),
        (["sm_80", "sm_90"], (10, 0), False),
        (["sm_80", "compute_90"], (10, 0), True),
    ],
)
def test_a_build_without_kernels_for_a_gpu_is_told_from_one_with(
    monkeypatch, built, capability, runs
):
    import torch

    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
    assert machine._has_kernels(torch, capability) is runs
