"""Whatever happens to a run, the next start ends with the same bits, or says in one line why not.

The long campaign is benchmarks/faults.py.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from command import GOLDEN, GOLDEN_MODEL, torchrun
from kills import Faults, Tally, blow, differences, end, wait_for_shards

from virnucpro import cli

BATCH = ["--batch-size", "256"]  # some twenty steps an encoder
BLOWS = [
    ("kill worker", 2),
    ("terminate", 1),
    ("kill launcher", 2),
    ("kill all", 1),
    ("interrupt", 2),
]


@pytest.fixture(scope="module")
def faults(tmp_path_factory) -> Faults:
    return Faults(tmp_path_factory.mktemp("faults"), records=16)


@pytest.fixture(scope="module")
def reference(faults) -> Path:
    """The undisturbed run, with the caches of the runs that are killed."""
    assert run_here(faults, "reference") == 0
    return faults.directory / "reference"


@dataclass(frozen=True)
class Killed:
    """A run that was killed after some shards, and how a second one fared that wanted its directory
    at the same time.
    """

    directory: Path
    process: int
    second_code: int
    second_said: str


@pytest.fixture(scope="module")
def killed(faults, reference) -> Killed:
    out = faults.directory / "killed"
    running = faults.start(out, 1)
    assert wait_for_shards(running, out, 3), running.text()
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = run_here(faults, out)
    assert wait_for_shards(running, out, 6), running.text()
    running.popen.kill()
    running.popen.wait()
    return Killed(out, running.popen.pid, code, said.getvalue())


@pytest.fixture
def unfinished(killed, tmp_path) -> Path:
    """The killed run's directory, for one test alone."""
    return Path(shutil.copytree(killed.directory, tmp_path / "out"))


def run_here(faults: Faults, out: Path | str, *more: object, source: Path | None = None) -> int:
    """`predict` in this process; its exit code."""
    arguments = [
        source or faults.input,
        "-o",
        faults.directory / out,
        *GOLDEN_MODEL,
        *BATCH,
        "--gpus",
        "none",
        "--cache-dir",
        faults.directory / "cache",
        *more,
    ]
    return cli.run(["predict", *map(str, arguments)])


def complaint(capfd) -> str:
    """The one line in which a run said what is wrong."""
    err = capfd.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("virnucpro: error:")]
    assert len(lines) == 1 and "Traceback" not in err, err
    return lines[0]


def content(directory: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name not in ("run.log", "lock")
    }


@contextlib.contextmanager
def files_no_larger_than(size: int):
    """The kernel refuses to write more into one file, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# --- killed
# ------------------------------------------------------------------------------------------


def test_a_run_that_was_killed_ends_like_an_undisturbed_one(faults, reference):
    """One blow after the other, to one process and to two."""
    tally, chance, out = Tally(), random.Random(1), faults.directory / "struck"
    for number, (kind, processes) in enumerate(BLOWS):
        for _ in range(5):  # a quick run may end before its blow: then there is a new one to strike
            blow(faults, out, processes, kind, True, 1.0, chance, tally, most=1)
            if sum(tally.kills.values()) > number:
                break
            shutil.rmtree(out, ignore_errors=True)
    end(faults, out, 2, reference, tally)
    assert not tally.wrong, "\n".join(tally.wrong)
    assert sum(tally.kills.values()) == len(BLOWS) and tally.resumed_rows > 0


def test_a_launchers_restart_goes_on_and_does_not_start_over(faults, reference):
    """torchrun --max-restarts 1, with --force: it counts at the first start only."""
    out = faults.directory / "restarted"
    arguments = [
        "-m",
        "virnucpro",
        "predict",
        str(faults.input),
        "-o",
        str(out),
        *GOLDEN_MODEL,
        *BATCH,
        "--force",
    ]
    child = faults.environment | {"ACCELERATE_USE_CPU": "true"}
    with open(faults.directory / "restarted.log", "wb") as log:
        popen = subprocess.Popen(
            [sys.executable, *torchrun(2), "--max-restarts", "1", *arguments],
            env=child,
            cwd=faults.directory,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    running = faults.watch(popen, faults.directory / "restarted.log", 2)
    assert wait_for_shards(running, out, 3), running.text()
    running.rank(1).kill()
    assert popen.wait(timeout=180) == 0, running.text()
    assert "embeddings are there already" in running.text()
    assert not differences(out, reference)


def test_two_runs_in_one_directory_at_once(killed):
    assert killed.second_code == 1 and "Traceback" not in killed.second_said
    (line,) = (
        line for line in killed.second_said.splitlines() if line.startswith("virnucpro: error:")
    )
    assert f"another run is writing here (process {killed.process} on" in line


# --- taken up again
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_shard_is_embedded_again(faults, reference, unfinished, capfd, damage):
    shard = sorted(unfinished.glob(".virnucpro/*/*.safetensors"))[1]
    data = bytearray(shard.read_bytes())
    data[-7] ^= 64
    shard.write_bytes(data if damage == "flipped" else data[:-7])
    assert run_here(faults, unfinished) == 0
    err = capfd.readouterr().err
    assert err.count("is damaged and set aside") == 1 and "embeddings are there already" in err
    assert not differences(unfinished, reference)


def test_a_vanished_cache_is_built_again(faults, reference, unfinished, tmp_path, capfd):
    assert run_here(faults, unfinished, "--cache-dir", tmp_path / "elsewhere") == 0
    err = capfd.readouterr().err
    assert "frames: built" in err and "embeddings are there already" in err
    assert not differences(unfinished, reference)


def test_another_batch_size_may_finish_a_run(faults, reference, unfinished, capfd):
    assert run_here(faults, unfinished, "--batch-size", "1024", "--resume") == 0
    assert "embeddings are there already" in capfd.readouterr().err
    assert not differences(unfinished, reference)


def test_force_starts_over(faults, reference, unfinished, capfd):
    assert run_here(faults, unfinished, "--force") == 0
    assert "embeddings are there already" not in capfd.readouterr().err
    assert not differences(unfinished, reference)


def test_a_retry_elsewhere_finds_what_the_checkpoint_directory_keeps(
    faults, reference, unfinished, tmp_path, capfd
):
    """Shards are named by their content, so the killed run's are what it would have left in a
    checkpoint directory.
    """
    kept = tmp_path / "kept"
    for shards in unfinished.glob(".virnucpro/*-*/"):
        shutil.copytree(shards, kept / f"{shards.name}-user-{os.geteuid()}")
    assert run_here(faults, tmp_path / "retry", "--checkpoint-dir", kept) == 0
    assert "embeddings are there already" in capfd.readouterr().err
    assert not differences(tmp_path / "retry", reference)
    assert not list(kept.glob("*/*"))


# --- refused
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("input", "input input.fa has other content"),
        ("model", "DNABERT-S has other content"),
        ("option", "--min-length was 0, now 10"),
        ("features", "--features was float32, now float16"),
    ],
)
def test_another_run_in_the_directory_is_refused(faults, unfinished, tmp_path, capfd, change, said):
    before = content(unfinished)
    more: list[object] = []
    source = faults.input
    if change == "input":
        source = tmp_path / "input.fa"
        source.write_text(faults.input.read_text().replace("A", "C", 1))
    elif change == "model":
        other = Path(shutil.copytree(GOLDEN / "dnabert_s", tmp_path / "dnabert_s"))
        (other / "config.json").write_text((other / "config.json").read_text() + "\n")
        more = ["--dna-model", other]
    else:
        more = ["--min-length", "10"] if change == "option" else ["--features", "float16"]
    assert run_here(faults, unfinished, *more, source=source) == 1
    line = complaint(capfd)
    assert f"holds another run ({said}); --force starts over" in line
    assert content(unfinished) == before


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (2_000, ".safetensors: cannot be written (file too large); free some space and run"),
        (6_000, "merged_features.pt: cannot be written"),
        (20_000, "report.html: cannot be written"),
    ],
)
def test_a_full_disk_is_said_and_mended(faults, reference, unfinished, capfd, size, said):
    with files_no_larger_than(size):
        assert run_here(faults, unfinished, "-q") == 1
    assert said in complaint(capfd)
    assert not (unfinished / "run.json").exists() and not list(unfinished.rglob("*.part"))
    assert run_here(faults, unfinished, "-q") == 0
    assert not differences(unfinished, reference)


def test_nothing_is_left_running(faults):
    """After all that: no process of these runs."""
    import psutil

    ours = [
        p
        for p in psutil.process_iter(["cmdline"])
        if str(faults.directory) in " ".join(p.info["cmdline"] or [])
    ]
    assert not ours
