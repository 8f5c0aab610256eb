"""`--effort`: the same chunks are looked at however a run is started, stopped or divided."""

from __future__ import annotations

import random
from pathlib import Path

import pandas as pd
import pytest
import torch
from command import GOLDEN, GOLDEN_MODEL, torchrun, virnucpro

from virnucpro import cli, pipeline
from virnucpro.errors import StoreError
from virnucpro.run import rounds

POINT = ["--min-score", "0.2"]  # far from the means of the tiny model, whose scores vary widely
SMALL = ["--batch-size", "512", "--threads", "1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A few long sequences, and one of random letters in which many chunks have no open frame."""
    place, draw = tmp_path_factory.mktemp("rounds"), random.Random(3)
    parts = [part.split("\n", 1)[1] for part in (GOLDEN / "input.fa").read_text().split(">")[1:]]
    parts = ["".join(part.split()) for part in parts]
    with (place / "long.fa").open("w") as file:
        for number in range(9):
            letters = "".join(draw.choices(parts, k=30))[: draw.randrange(900, 14000)]
            file.write(f">s{number}\n{letters}\n")
        file.write(f">noise\n{''.join(draw.choices('ACGT', k=9000))}\n>short\n{parts[0][:400]}\n")
    return place


def predict(place: Path, out: str, *more: str) -> int:
    arguments = [place / "long.fa", "-o", place / out, *GOLDEN_MODEL, "--gpus", "none", "-q"]
    options = [*POINT, *SMALL, "--cache-dir", place / "cache", *more]
    return cli.run(["predict", *map(str, [*arguments, *options])])


@pytest.fixture(scope="module")
def whole(place) -> Path:
    """A run of one process, undisturbed."""
    assert predict(place, "balanced", "--effort", "balanced") == 0
    return place / "balanced"


def contents(directory: Path) -> dict[str, bytes]:
    left = ("run.json", "run.log", "report.html", "lock")
    files = [p for p in sorted(directory.rglob("*")) if p.is_file() and p.name not in left]
    return {str(p.relative_to(directory)): p.read_bytes() for p in files}


def test_only_what_is_needed_is_embedded(place, whole):
    assert predict(place, "full") == 0
    few, all_ = (pd.read_csv(place / d / "chunks.tsv", sep="\t") for d in ("balanced", "full"))
    left_out = few.status == "not_needed"
    assert 11 < left_out.sum() < len(few) - 40 and not (all_.status == "not_needed").any()
    seen = few[~left_out]
    pd.testing.assert_frame_equal(seen, all_.loc[seen.index])
    rows = torch.load(whole / "merged_features.pt", weights_only=True)
    everything = torch.load(place / "full" / "merged_features.pt", weights_only=True)
    at = [everything["ids"].index(name) for name in rows["ids"]]
    assert len(at) == seen.n_open_frames.sum()
    assert torch.equal(rows["data"], everything["data"][at])
    contigs = pd.read_csv(whole / "contigs.tsv", sep="\t")
    counted = seen.groupby("seq_name", sort=False).size()
    assert contigs.set_index("seq_name").chunks_looked_at.equals(counted.rename("chunks_looked_at"))
    same = pd.read_csv(place / "full" / "contigs.tsv", sep="\t")
    assert (same.chunks_looked_at == same.n_chunks).all()
    assert (contigs.scored_fraction == same.scored_fraction).all()


def test_a_run_that_was_stopped_in_a_round_ends_alike(place, whole, monkeypatch):
    def stop(job, run, number, *more):
        if number == 2:
            raise StoreError("stopped")
        return rounds.next_job(job, run, number, *more)

    monkeypatch.setattr(pipeline, "next_job", stop)
    assert predict(place, "stopped", "--effort", "balanced") == 1
    monkeypatch.undo()
    assert predict(place, "stopped", "--effort", "balanced") == 0
    assert contents(place / "stopped") == contents(whole)


def test_two_processes_look_at_the_same_chunks(place, whole):
    options = ["--effort", "balanced", *POINT, *SMALL, "--cache-dir", place / "cache"]
    inputs = [place / "long.fa", "-o", place / "two", *GOLDEN_MODEL]
    result = virnucpro(
        place,
        *("predict", *inputs, *options),
        launcher=torchrun(2),
        extra={"ACCELERATE_USE_CPU": "true"},
    )
    assert result.returncode == 0, result.stderr.decode()
    assert contents(place / "two") == contents(whole)


def test_shards_and_summarize_know_what_was_not_needed(place, whole, capsys):
    for number in (1, 2):
        shard = ["--shard", f"{number}/2", "--effort", "balanced"]
        assert predict(place, f"shard{number}", *shard) == 0
    shards = [str(place / f"shard{number}") for number in (2, 1)]
    assert cli.run(["merge", *shards, "-o", str(place / "joined"), "-q"]) == 0
    assert contents(place / "joined") == contents(whole)
    again = ["--cache-dir", str(place / "cache"), *POINT, "-o", str(place / "again")]
    assert cli.run(["summarize", str(whole), *again]) == 0
    assert contents(place / "again") == contents(whole)
    capsys.readouterr()
    other = ["--cache-dir", str(place / "cache"), "--min-score", "0.6", "-o", str(place / "other")]
    assert cli.run(["summarize", str(whole), *other]) == 0
    assert "chunks were left out" in capsys.readouterr().err


def test_another_effort_is_another_run(place, whole, capsys):
    assert predict(place, "balanced", "--effort", "quick") == 1
    assert "--effort was balanced, now quick" in capsys.readouterr().err
    assert predict(place, "x", "--effort", "quick", "--stride", "100") == 64
    assert "--stride searches all of a sequence" in capsys.readouterr().err
