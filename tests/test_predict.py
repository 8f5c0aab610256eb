"""`predict` in real processes: the same bits however it is launched, and a plain answer to every
bad input.

Every start of a process costs seconds: one reference run serves all comparisons, and what needs no
process of its own runs in this one, through the command line's entry point.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command import GOLDEN, GOLDEN_MODEL, environment, error_line, torchrun, virnucpro

from virnucpro import cli

ROOT = Path(__file__).parents[1]
CPU = {"ACCELERATE_USE_CPU": "true"}
RECORDS = [">" + part for part in (GOLDEN / "input.fa").read_text().split(">")[1:]]
BATCH = ["--batch-size", "1280"]  # gives the encoders 2 and 1 batches: fewer than three processes


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("predict")


@pytest.fixture(scope="module")
def files(home) -> list[Path]:
    """Two inputs without a name in common."""
    (home / "a.fa").write_text("".join(RECORDS[:3]))
    (home / "b.fasta.gz").write_bytes(gzip.compress("".join(RECORDS[4:8]).encode()))
    return [home / "a.fa", home / "b.fasta.gz"]


@pytest.fixture(scope="module")
def alone(home, files) -> Path:
    """One process: what all the others have to equal."""
    assert run_here("predict", *files, "-o", home / "alone", *GOLDEN_MODEL, *BATCH, cache=home) == 0
    return home / "alone"


def run_here(*arguments: object, cache: Path) -> int:
    """The command line in this process; its exit code."""
    return cli.run(
        [*map(str, arguments), "--gpus", "none", "--cache-dir", str(cache / "frames"), "-q"]
    )


def features(directory: Path) -> dict:
    return torch.load(directory / "merged_features.pt", weights_only=True)


def assert_same(directory: Path, alone: Path) -> None:
    """Bit for bit the same features, and the same tables."""
    assert (directory / "merged_features.pt").read_bytes() == (
        alone / "merged_features.pt"
    ).read_bytes()
    tables = [
        path.relative_to(alone)
        for kind in ("tsv", "txt", "csv", "fna", "bed")
        for path in alone.rglob(f"*.{kind}")
    ]
    assert len(tables) >= 8
    for table in tables:
        assert (directory / table).read_bytes() == (alone / table).read_bytes(), table


def facts(directory: Path) -> dict:
    return json.loads((directory / "run.json").read_text())


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# --- however it is launched
# ----------------------------------------------------------------------------------------


def test_processes_of_our_own(home, files, alone):
    run = virnucpro(
        home, "predict", *files, "-o", "own", *GOLDEN_MODEL, *BATCH, "--num-processes", "2"
    )
    assert run.returncode == 0, run.stderr.decode()
    assert facts(home / "own")["processes"] == 2
    assert_same(home / "own", alone)


def test_torchrun_with_more_processes_than_batches(home, files, alone):
    run = virnucpro(
        home,
        "predict",
        *files,
        "-o",
        "three",
        *GOLDEN_MODEL,
        *BATCH,
        launcher=torchrun(3),
        extra=CPU,
    )
    assert run.returncode == 0, run.stderr.decode()
    assert facts(home / "three")["processes"] == 3
    assert all(encoder["unique"] > 0 for encoder in facts(home / "three")["embedding"].values())
    assert "of 1 batches" not in run.stderr.decode()
    assert_same(home / "three", alone)


def test_accelerate_launch_and_the_files_in_another_order(home, files, alone):
    config = ROOT / "accelerate_configs" / "cpu.yaml"
    launcher = ["-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", str(config)]
    run = virnucpro(
        home, "predict", *reversed(files), "-o", "turned", *GOLDEN_MODEL, *BATCH, launcher=launcher
    )
    assert run.returncode == 0, run.stderr.decode()
    expected, found = features(alone), features(home / "turned")
    assert found["ids"] != expected["ids"] and sorted(found["ids"]) == sorted(expected["ids"])
    place = {name: row for row, name in enumerate(expected["ids"])}
    assert torch.equal(found["data"], expected["data"][[place[name] for name in found["ids"]]])


def test_two_nodes(home, files, alone):
    """Two launchers on the loopback device, as on two machines with a common file system and a
    cache each.
    """
    port = free_port()
    nodes = []
    for rank in range(2):
        launcher = [
            "-m",
            "torch.distributed.run",
            "--nnodes",
            "2",
            "--node-rank",
            str(rank),
            "--nproc-per-node",
            "1",
            "--master-addr",
            "127.0.0.1",
            "--master-port",
            str(port),
        ]
        child = environment(home, CPU | {"HF_DATASETS_CACHE": str(home / f"cache of node {rank}")})
        arguments = ["predict", *map(str, files), "-o", "nodes", *GOLDEN_MODEL, *BATCH]
        nodes.append(
            subprocess.Popen(
                [sys.executable, *launcher, "-m", "virnucpro", *arguments],
                cwd=home,
                env=child,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        )
    try:
        ends = [(node.communicate(timeout=180)[1].decode(), node.returncode) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [code for _, code in ends] == [0, 0], ends
    assert facts(home / "nodes")["processes"] == 2
    assert_same(home / "nodes", alone)


def test_a_finished_run_says_so(home, files, alone):
    before = {path: path.stat().st_mtime_ns for path in alone.iterdir() if path.name != "run.log"}
    run = virnucpro(
        home, "predict", *files, "-o", alone, *GOLDEN_MODEL, *BATCH, "--num-processes", "2"
    )
    assert run.returncode == 0
    assert "has finished already; --force starts it again" in run.stderr.decode()
    assert str(alone / "report.html") in run.stdout.decode()  # the result is shown again
    assert {path: path.stat().st_mtime_ns for path in before} == before


# --- what users get wrong
# ------------------------------------------------------------------------------------------


def test_bad_files_fail_alone_and_everything_else_is_answered(home, tmp_path):
    good, repeated = RECORDS[0], RECORDS[0].replace("exact500", "twice")
    contents: dict[str, bytes] = {
        "good.fa": good.encode(),
        "empty.fa": b"",
        "header.fa": b">only_a_header\n",
        "protein.fa": b">p1\nMKVLWAALLVTFLAGCQAKVEQ\n",
        "binary.fa": bytes(range(256)) * 8,
        "cut.fa.gz": gzip.compress("".join(RECORDS[4:7]).encode() * 40, mtime=0)[:-400],
        "one.fa": b">one_base\nA\n",
        "n.fa": b">all_n\n" + b"N" * 600 + b"\n",
        "closed.fa": b">closed\n" + b"TAATTAATTAA" * 30 + b"\n",
        "repeated.fa": (repeated + repeated).encode(),
        "mixed.fa": b">bad_letters\nACGT!!ACGT\n" + RECORDS[1].encode(),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    inputs = [*(tmp_path / name for name in contents), tmp_path / "missing.fa"]
    assert run_here("predict", *inputs, "-o", tmp_path / "out", *GOLDEN_MODEL, cache=tmp_path) == 2
    failed = [
        line.split("|") for line in (tmp_path / "out" / "failed_files.txt").read_text().splitlines()
    ]
    assert [(Path(path).name, stage) for path, stage, _ in failed] == [
        ("protein.fa", "read"),
        ("binary.fa", "read"),
        ("cut.fa.gz", "read"),
        ("mixed.fa", "read"),
        ("missing.fa", "read"),
    ]
    reasons = {Path(path).name: reason for path, _, reason in failed}
    assert "record p1" in reasons["protein.fa"] and "record bad_letters" in reasons["mixed.fa"]
    assert "binary" in reasons["binary.fa"] and "cut short" in reasons["cut.fa.gz"]
    with open(tmp_path / "out" / "contigs.tsv", newline="") as file:
        rows = {
            (row["source"], row["seq_name"]): row for row in csv.DictReader(file, delimiter="\t")
        }
    assert rows["good.fa", "exact500"]["virus_score"] != "NA"
    assert rows["mixed.fa", "len499"]["virus_score"] != "NA"
    assert (
        rows["repeated.fa", "twice"]["virus_score"]
        == rows["repeated.fa", "twice__2"]["virus_score"]
    )
    assert "renamed_from=twice" in rows["repeated.fa", "twice__2"]["note"]
    assert sum(source == "cut.fa.gz" for source, _ in rows) >= 1  # the records before the cut
    for source, name in (
        ("header.fa", "only_a_header"),
        ("one.fa", "one_base"),
        ("n.fa", "all_n"),
        ("closed.fa", "closed"),
        ("protein.fa", "p1"),
        ("mixed.fa", "bad_letters"),
    ):
        assert (rows[source, name]["call"], rows[source, name]["virus_score"]) == (
            "not_scored",
            "NA",
        ), name
    assert facts(tmp_path / "out")["exit_code"] == 2


def test_every_record_that_can_be_told_is_accounted_for(tmp_path, capfd):
    """Damaged files, and files with names that break tables, in a directory named as a whole."""
    good = RECORDS[0].split("\n", 1)[1].replace("\n", "").encode()
    long = b"l" * 252 + b".fa"
    contents = {
        b"garbage.fa.gz": gzip.compress(b">g1\n" + good + b"\n>g2\n" + good) + b"garbage",
        b"glued.fa": b">a\nACGT>b\n" + good + b"\n>c\nACGT\n",
        b"latin1.fa": b">Esp\xe8ce x\n" + good,
        b"nul.fa": b">n1\n" + good + b"\n>n2\nAC\0\0GT\n>n3\n" + good,
        b"tab\there\n|\xe8.fa": b">t\n" + good,
        long: b">long\n" + good,
    }
    directory = tmp_path / "in"
    directory.mkdir()
    for name, content in contents.items():
        (directory / os.fsdecode(name)).write_bytes(content)
    garbage = directory / "bell\x1b]0;title\x07.fa.gz"
    (directory / "garbage.fa.gz").rename(garbage)
    (directory / "gone.fna").symlink_to("nowhere")
    os.mkfifo(directory / "pipe|.fa")
    options = [*GOLDEN_MODEL, "--gpus", "none", "--cache-dir", str(tmp_path / "cache")]
    assert cli.run(["predict", str(directory), "-o", str(tmp_path / "out"), *options]) == 2
    said = capfd.readouterr().err
    assert r"bell\x1b]0;title\x07.fa.gz: other data follow the end of the gzip data" in said
    for log in (said, (tmp_path / "out" / "run.log").read_text()):
        assert "\x1b]" not in log and "\t" not in log and r"\x1b]0;title" in log
    lines = (tmp_path / "out" / "failed_files.txt").read_text().splitlines()
    failed = {line.split("|")[0].rpartition("/")[2]: line.split("|") for line in lines}
    assert sorted(failed) == ["glued.fa", "gone.fna", "nul.fa", r"pipe\x7c.fa"]
    assert all(len(parts) == 3 for parts in failed.values())
    assert "record a" in failed["glued.fa"][2] and "newline is missing" in failed["glued.fa"][2]
    assert "record n2" in failed["nul.fa"][2] and "No such file" in failed["gone.fna"][2]
    rows = [line.split("\t") for line in (tmp_path / "out" / "contigs.tsv").read_text().split("\n")]
    header, rows = rows[0], rows[1:-1]
    assert {len(row) for row in rows} == {len(header)}
    answered = {row[0]: row[header.index("virus_score")] != "NA" for row in rows}
    assert answered == {
        **dict.fromkeys(["g1", "g2", "b", "c", r"Esp\xe8ce", "n1", "n3", "t", "long"], True),
        **dict.fromkeys(["a", "n2"], False),
    }
    notes = {row[0]: row[header.index("note")] for row in rows}
    assert "name_escaped" in notes[r"Esp\xe8ce"]
    assert {row[1] for row in rows} >= {r"tab\x09here\x0a|\xe8.fa", "l" * 252 + ".fa"}
    assert (tmp_path / "out" / f"{'l' * 230}_merged" / "prediction_results.txt").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b">header\n", b">one\nA\n", b">n\n" + b"N" * 600 + b"\n", b">c\n" + b"TAATTAATTAA" * 30],
)
def test_an_input_without_an_open_frame_is_answered(home, tmp_path, content):
    (tmp_path / "x.fa").write_bytes(content)
    assert (
        run_here("predict", tmp_path / "x.fa", "-o", tmp_path / "out", *GOLDEN_MODEL, cache=home)
        == 0
    )
    assert tuple(features(tmp_path / "out")["data"].shape) == (0, 80)
    lines = (tmp_path / "out" / "contigs.tsv").read_text().splitlines()
    assert len(lines) == 1 + content.count(b">")
    table = tmp_path / "out" / "x_merged" / "prediction_results.txt"
    assert table.read_text().splitlines() == ["Sequence_ID\tPrediction\tscore1\tscore2"]


class Malicious:
    """Prints when it is unpickled by a careless loader."""

    def __reduce__(self):
        return print, ("it ran",)


def bad_inputs(place: Path) -> dict[str, tuple[list, int, str]]:
    """By name: the command line after `predict`, the exit code, and a part of the line."""
    good, config = place / "good.fa", GOLDEN / "esm2"
    good.write_text(RECORDS[0])
    (place / "nothing").mkdir()
    (place / "binary.fa").write_bytes(bytes(range(256)))
    (place / "protein.fa").write_text(">p\nMKVLWAALLVTFLAGCQAKVEQ\n")
    (place / "cut.fa.gz").write_bytes(gzip.compress(b">x\nACGT\n")[:12])
    torch.save({"hidden_layer.weight": Malicious()}, place / "evil.pth")
    (place / "file").write_text("")
    (place / "no_weights").mkdir()
    for name in ("config.json", "vocab.txt"):
        (place / "no_weights" / name).write_bytes((config / name).read_bytes())
    model = dict(zip(GOLDEN_MODEL[::2], GOLDEN_MODEL[1::2], strict=True))

    def with_model(**changed: object) -> list:
        return [
            good,
            *sum(
                ({**model, **{f"--{k.replace('_', '-')}": v for k, v in changed.items()}}).items(),
                (),
            ),
        ]

    return {
        "no file": (
            [place / "missing.fa", *GOLDEN_MODEL],
            1,
            "missing.fa: cannot be opened: No such file",
        ),
        "empty directory": ([place / "nothing", *GOLDEN_MODEL], 64, "nothing: no sequence file"),
        "protein": (
            [place / "protein.fa", *GOLDEN_MODEL],
            1,
            "looks like protein; give nucleotides",
        ),
        "binary": ([place / "binary.fa", *GOLDEN_MODEL], 1, "binary.fa: is a binary file"),
        "cut before the first record": (
            [place / "cut.fa.gz", *GOLDEN_MODEL],
            1,
            "cut.fa.gz: the compressed data are cut short",
        ),
        "output below a file": (
            [good, *GOLDEN_MODEL, "-o", place / "file" / "out"],
            1,
            "cannot be written",
        ),
        "output in no place": (
            [good, *GOLDEN_MODEL, "-o", "/proc/out"],
            1,
            "/proc/out: cannot be written",
        ),
        "checkpoints below a file": (
            [good, *GOLDEN_MODEL, "--checkpoint-dir", place / "file" / "kept"],
            1,
            "choose another --checkpoint-dir",
        ),
        "batch too small": (
            [good, *GOLDEN_MODEL, "--batch-size", "16"],
            64,
            "--batch-size 16: the longest frame has",
        ),
        "no such model": ([good, "--model", "nonesuch"], 1, "--model nonesuch"),
        "no such directory": (with_model(esm_model=place / "nowhere"), 1, "nowhere"),
        "no weights": (with_model(esm_model=place / "no_weights"), 1, "no weights"),
        "malicious classifier": (
            with_model(classifier=place / "evil.pth"),
            1,
            "evil.pth: refused, it would run",
        ),
        "no such device": ([good, *GOLDEN_MODEL, "--gpus", "7"], 64, "--gpus 7"),
        "unknown option": ([good, "--unheard-of"], 64, "--unheard-of"),
    }


@pytest.mark.parametrize(
    "case",
    [
        "no file",
        "empty directory",
        "protein",
        "binary",
        "cut before the first record",
        "output below a file",
        "output in no place",
        "checkpoints below a file",
        "batch too small",
        "no such model",
        "no such directory",
        "no weights",
        "malicious classifier",
        "no such device",
        "unknown option",
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(tmp_path, monkeypatch, capfd, case):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIRNUCPRO_HOME", str(tmp_path / "models"))
    arguments, code, said = bad_inputs(tmp_path)[case]
    place = [] if "--gpus" in arguments else ["--gpus", "none"]
    found = cli.run(
        ["predict", *map(str, arguments), *place, "--cache-dir", str(tmp_path / "frames")]
    )
    out, err = capfd.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("virnucpro: error:")]
    assert (found, len(lines), out) == (code, 1, ""), err
    assert said in lines[0] and "Traceback" not in err
    assert not list(tmp_path.rglob("merged_features.pt"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-"], "under a launcher"),
        (["x.fa", "--num-processes", "3"], "the launcher started 1 here"),
    ],
)
def test_under_a_launcher_some_wishes_are_refused(home, options, said):
    run = virnucpro(
        home,
        "predict",
        *options,
        *GOLDEN_MODEL,
        extra=CPU | {"ACCELERATE_MIXED_PRECISION": "no"},
        stdin=b">x\nACGT\n",
    )
    assert run.returncode == 64 and said in error_line(run)


def test_standard_input_in_processes_of_our_own(home, files, alone):
    run = virnucpro(
        home,
        "predict",
        "-",
        "-o",
        "piped",
        *GOLDEN_MODEL,
        *BATCH,
        "--num-processes",
        "2",
        stdin=files[0].read_bytes(),
    )
    assert run.returncode == 0, run.stderr.decode()
    assert facts(home / "piped")["processes"] == 2
    found, expected = features(home / "piped"), features(alone)
    rows = len(found["ids"])
    assert (
        rows
        and found["ids"] == expected["ids"][:rows]
        and torch.equal(found["data"], expected["data"][:rows])
    )
    assert (home / "piped" / "stdin_merged" / "prediction_results.txt").exists()
    assert not (home / "piped" / ".virnucpro-stdin").exists()


@pytest.mark.parametrize("force", [True, False])
def test_an_input_is_never_overwritten(tmp_path, capfd, force):
    fasta = tmp_path / "virus.fna"
    fasta.write_text(">a\nACGT\n")
    more = ["--force"] * force
    assert run_here("predict", fasta, "-o", tmp_path, *more, *GOLDEN_MODEL, cache=tmp_path) == 64
    assert "virus.fna: is to be read, and the run would write" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["virus.fna"]
    assert fasta.read_text() == ">a\nACGT\n"
