"""The launch files of accelerate_configs/: accelerate reads them, and they start the processes
their comments promise.

GPUs are replaced by CPU processes (ACCELERATE_USE_CPU, gloo); everything else is the real launcher.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from command import GOLDEN, GOLDEN_MODEL, virnucpro

CONFIGS = Path(__file__).parents[1] / "accelerate_configs"

# What a launched process sees: its rank, the number of processes, and a sum over all ranks + 1.
PROBE = """
import json, sys, torch
from accelerate import Accelerator
accelerator = Accelerator()
total = accelerator.reduce(torch.tensor([accelerator.process_index + 1]))
seen = {"rank": accelerator.process_index, "processes": accelerator.num_processes, "sum": int(total),
        "device": accelerator.device.type, "mixed_precision": accelerator.mixed_precision}
sys.stdout.write("SEEN " + json.dumps(seen) + "\\n")
sys.stdout.flush()
accelerator.end_training()
"""


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    (tmp_path / "launch_probe.py").write_text(PROBE)
    return tmp_path


def start(arguments: list[str], cwd: Path, home: Path) -> subprocess.Popen:
    env = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("ACCELERATE_", "HF_", "XDG_"))
    }
    env |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HOME": str(home)}
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.accelerate_cli",
        "launch",
        *arguments,
        "-m",
        "launch_probe",
    ]
    return subprocess.Popen(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def seen_by(*processes: subprocess.Popen) -> list[dict]:
    """What the probes of finished launches printed, by rank."""
    seen = []
    try:
        for process in processes:
            output, _ = process.communicate(timeout=120)
            assert process.returncode == 0, output
            # Two ranks may write at once; a report never spans lines, but two may share one.
            seen += [json.loads(part.splitlines()[0]) for part in output.split("SEEN ")[1:]]
    finally:
        for process in processes:
            process.kill()
    return sorted(seen, key=lambda report: report["rank"])


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize(
    ("name", "kind", "use_cpu", "machines", "processes"),
    [
        ("cpu", "NO", True, 1, 1),
        ("single_gpu", "NO", False, 1, 1),
        ("multi_gpu", "MULTI_GPU", False, 1, 2),
        ("multi_node", "MULTI_GPU", False, 2, 8),
    ],
)
def test_accelerate_reads_each_file_as_meant(name, kind, use_cpu, machines, processes):
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert config.distributed_type.value == kind
    assert (config.use_cpu, config.num_machines, config.num_processes) == (
        use_cpu,
        machines,
        processes,
    )
    # Unset precision is VirNucPro's to choose, and nothing wraps or shards the encoders.
    assert config.mixed_precision == "no"
    assert not (config.deepspeed_config or config.fsdp_config or config.dynamo_config)


def test_cpu_file_starts_one_process_in_spite_of_a_global_config(probe: Path):
    home = probe / "home"
    global_config = home / ".cache/huggingface/accelerate/default_config.yaml"
    global_config.parent.mkdir(parents=True)
    global_config.write_text("distributed_type: 'NO'\nmixed_precision: bf16\nnum_processes: 3\n")
    reports = seen_by(start(["--config_file", str(CONFIGS / "cpu.yaml")], probe, home))
    assert reports == [
        {"rank": 0, "processes": 1, "sum": 1, "device": "cpu", "mixed_precision": "no"}
    ]


def test_multi_gpu_file_runs_predict(tmp_path: Path):
    launcher = [
        "-m",
        "accelerate.commands.accelerate_cli",
        "launch",
        "--config_file",
        str(CONFIGS / "multi_gpu.yaml"),
    ]
    run = virnucpro(
        tmp_path,
        "predict",
        GOLDEN / "input.fa",
        "-o",
        "out",
        *GOLDEN_MODEL,
        launcher=launcher,
        extra={"ACCELERATE_USE_CPU": "true"},
    )
    assert run.returncode == 0, run.stderr.decode()
    found = torch.load(tmp_path / "out" / "merged_features.pt", weights_only=True)
    expected = torch.load(GOLDEN / "expected" / "output_1_merged.pt", weights_only=True)
    rows = dict(zip(found["ids"], found["data"], strict=True))
    assert rows.keys() == set(expected["ids"])
    assert torch.allclose(
        torch.stack([rows[name] for name in expected["ids"]]), expected["data"], rtol=0, atol=2e-5
    )
    assert json.loads((tmp_path / "out" / "run.json").read_text())["processes"] == 2


def test_multi_node_file_joins_two_machines(probe: Path):
    port = str(free_port())
    machines = [
        start(
            [
                "--config_file",
                str(CONFIGS / "multi_node.yaml"),
                "--num_processes",
                "2",
                "--machine_rank",
                str(rank),
                "--main_process_ip",
                "127.0.0.1",
                "--main_process_port",
                port,
            ],
            probe,
            probe,
        )
        for rank in range(2)
    ]
    assert [(report["rank"], report["sum"]) for report in seen_by(*machines)] == [(0, 3), (1, 3)]


def test_slurm_script_gives_each_node_its_launch(tmp_path: Path):
    """The script under stand-ins for SLURM's commands: two nodes, and what each would have
    executed.
    """
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    commands = {
        "scontrol": "printf 'node-a\\nnode-b\\n'",
        "srun": 'shift; for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@" || exit 1; done',
    }
    accelerate = tmp_path / ".venv/bin/accelerate"
    accelerate.parent.mkdir(parents=True)
    for path, body in {
        **{bin_dir / name: body for name, body in commands.items()},
        accelerate: 'echo "$*"',
    }.items():
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    env = {
        "PATH": f"{bin_dir}:{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "12345",
        "SLURM_JOB_NODELIST": "node-[a-b]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_GPUS_ON_NODE": "4",
    }
    done = subprocess.run(
        ["bash", str(CONFIGS / "slurm_multi_node.sh"), "my input.fna", "/out"],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for rank, line in enumerate(done.stdout.splitlines()):
        assert (
            line
            == f"launch --config_file {tmp_path}/accelerate_configs/multi_node.yaml --num_machines"
            f" 2 --num_processes 8 --machine_rank {rank} --main_process_ip node-a"
            " --main_process_port 32345 -m virnucpro predict my input.fna --output-dir /out"
            " --cache-dir /out/.cache"
        )
    assert len(done.stdout.splitlines()) == 2


def test_slurm_array_gives_each_job_its_shard_and_then_joins_them(tmp_path: Path):
    program = tmp_path / ".venv/bin/virnucpro"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "$*"\n')
    program.chmod(0o755)

    def submit(**variables: str) -> str:
        env = {"PATH": os.environ["PATH"], "SLURM_SUBMIT_DIR": str(tmp_path), **variables}
        words = ["bash", str(CONFIGS / "slurm_array.sh"), "my input.fna", "/out", "3"]
        return subprocess.run(words, env=env, capture_output=True, text=True, check=True).stdout

    for number in "123":
        # --array=2 alone has a count of 1: the number of shards is what the command says
        found = submit(SLURM_ARRAY_TASK_ID=number, SLURM_ARRAY_TASK_COUNT="1")
        assert found == (
            f"predict my input.fna --shard {number}/3 --partial-ok --output-dir /out/shard_{number}"
            " --cache-dir /out/.cache\n"
        )
    assert submit() == "merge /out/shard_1 /out/shard_2 /out/shard_3 --output-dir /out/joined\n"
