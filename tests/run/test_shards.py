"""Shards of a run and their union: what `merge` writes is what one run writes, to the last byte."""

from __future__ import annotations

import gzip
import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from command import GOLDEN, GOLDEN_MODEL

from virnucpro import cli
from virnucpro.errors import StoreError, UsageError
from virnucpro.run.shards import read_shards
from virnucpro.sequences.frame_columns import FrameRules
from virnucpro.settings import parse_shard

RECORDS = [">" + part for part in (GOLDEN / "input.fa").read_text().split(">")[1:]]
N = 7


def run_here(*arguments: object, cache: Path) -> int:
    return cli.run([*map(str, arguments), "--cache-dir", str(cache / "frames"), "-q"])


def predict(place: Path, output: str, *more: object) -> int:
    names = ("a.fa", "b.fa", "cut.fa.gz", "reads_1.fastq", "reads_2.fastq")
    files = [place / name for name in names]
    options = ["--gpus", "none", *GOLDEN_MODEL, "--stride", 100, "--prevalence", 0.1]
    return run_here("predict", *files, "-o", place / output, *options, *more, cache=place)


def reads(mate: int) -> list[str]:
    """Reads of 200 bases, from the front or the back of some records."""
    sequences = ["".join(record.splitlines()[1:]) for record in RECORDS[:6]]
    ends = [sequence[:200] if mate == 1 else sequence[-200:] for sequence in sequences]
    return [f"@r{i} {mate}:N:0\n{end}\n+\n{'I' * len(end)}\n" for i, end in enumerate(ends)]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Inputs with equal names, a bad record, a file cut short, and mates; one run, seven shards."""
    place = tmp_path_factory.mktemp("shards")
    bad = ">protein\nMKVLAAGIVGLCAKAYEELPQ\n"
    (place / "a.fa").write_text("".join(RECORDS[:8]) + bad + RECORDS[1])
    (place / "b.fa").write_text("".join(RECORDS[5:]) + RECORDS[0])
    noise = "".join(random.Random(1).choices("ACGT", k=9000))
    (place / "cut.fa.gz").write_bytes(
        gzip.compress(f">c1\n{noise[:900]}\n>c2\n{noise}".encode())[:900]
    )
    for mate in (1, 2):
        (place / f"reads_{mate}.fastq").write_text("".join(reads(mate)))
    assert predict(place, "whole") == 2
    for number in range(1, N + 1):
        predict(place, f"shard{number}", "--shard", f"{number}/{N}")
    return place


def shards_of(place: Path) -> list[Path]:
    return [place / f"shard{number}" for number in range(1, N + 1)]


def merge(*arguments: object) -> int:
    return cli.run(["merge", *map(str, arguments), "-q"])


def without_facts(report: Path) -> str:
    """The report but for what differs between any two runs: when, how long, and the command."""
    text = re.sub(r"<p class=\"sub\">.*?</p>", "", report.read_text())
    rows = re.compile(r"<tr>\s*<t[dh][^>]*>(Seconds: [^<]*|Command|Finished)</t[dh]>.*?</tr>", re.S)
    return re.sub(r"\n\s*\n+", "\n", rows.sub("", text))


def test_seven_shards_joined_equal_one_run(place):
    whole, joined = place / "whole", place / "joined"
    # the order in which they are named says nothing
    assert merge(*reversed(shards_of(place)), "-o", joined) == 2
    names = [
        path.relative_to(whole)
        for path in sorted(whole.rglob("*"))
        if path.is_file() and path.name not in ("run.json", "run.log", "report.html", "lock")
    ]
    assert len(names) >= 14
    for name in names:
        assert (joined / name).read_bytes() == (whole / name).read_bytes(), name
    assert without_facts(joined / "report.html") == without_facts(whole / "report.html")
    kept = [json.loads((folder / "run.json").read_text()) for folder in (joined, whole)]
    for key in ("identity", "call", "counts", "failures", "model", "exit_code", "prevalence"):
        assert kept[0][key] == kept[1][key], key
    assert "__2" in (joined / "contigs.tsv").read_text()  # names are unique over all shards


def test_the_joined_run_is_a_finished_one(place):
    if not (place / "joined").exists():
        merge(*shards_of(place), "-o", place / "joined")
    before = (place / "joined" / "run.json").read_bytes()
    assert predict(place, "joined") == 0
    assert (place / "joined" / "run.json").read_bytes() == before
    assert run_here("summarize", place / "joined", "--relaxed", cache=place) == 2


def test_a_shard_again_is_finished_and_cannot_be_summarized(place, capsys):
    shard = place / "shard2"
    before = (shard / "run.json").read_bytes()
    assert predict(place, "shard2", "--shard", f"2/{N}") == 0
    assert (shard / "run.json").read_bytes() == before
    assert predict(place, "shard2", "--shard", f"3/{N}") == 1
    assert "--shard was 2/7, now 3/7" in capsys.readouterr().err
    assert run_here("summarize", shard, cache=place) == 1
    assert "is shard 2/7 of a run" in capsys.readouterr().err


def test_shards_that_do_not_make_a_run_are_refused(place, tmp_path, capsys):
    shards = shards_of(place)
    with pytest.raises(StoreError, match=r"2/7, 4/7: not among the shards given"):
        read_shards([s for i, s in enumerate(shards) if i not in (1, 3)])
    with pytest.raises(StoreError, match="shard 1/7 is given twice"):
        read_shards([*shards, shards[0]])
    with pytest.raises(StoreError, match="a whole run, not a shard"):
        read_shards([place / "whole"])
    assert predict(place, "other", "--shard", f"1/{N}", "--min-length", 400) in (0, 2)
    with pytest.raises(StoreError, match="not of the same run"):
        read_shards([place / "other", *shards[1:]])
    assert merge(*shards, "-o", shards[0]) == 64
    assert merge(*shards, "-o", place / "whole") == 1
    assert "holds a run" in capsys.readouterr().err


def test_a_damaged_shard_is_named(place, tmp_path):
    path = place / "other" / "shard_frames.arrow"
    predict(place, "other", "--shard", f"1/{N}", "--min-length", 400)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"shard_frames.arrow: cannot be read .*again"):
        read_shards([place / "other"])


def test_a_shard_whose_record_lacks_an_encoder_is_refused(place, tmp_path, capsys):
    shards = shards_of(place)
    changed = shutil.copytree(shards[-1], tmp_path / "changed")
    record = json.loads((changed / "run.json").read_text())
    (changed / "run.json").write_text(json.dumps({**record, "embedding": {}}))
    assert merge(*shards[:-1], changed, "-o", tmp_path / "joined") == 1
    assert "are not of the same run (other encoders)" in capsys.readouterr().err


def test_the_sequence_alone_decides_on_the_shard():
    sequences = [bytes(np.random.default_rng(i).choice(list(b"ACGT"), 50)) for i in range(200)]
    taken = [[FrameRules(500, shard=f"{i}/3").takes(s) for s in sequences] for i in (1, 2, 3)]
    assert (np.sum(taken, axis=0) == 1).all()
    assert min(np.sum(taken, axis=1)) > 40


@pytest.mark.parametrize(
    "word",
    [
        "",
        "1",
        "0/3",
        "4/3",
        "a/b",
        "1/3/2",
        "-1/3",
        "1/1000000",
        "1/" + "9" * 5000,
        "\u0661/\u0662",
    ],
)
def test_what_is_no_shard_is_a_usage_error(word):
    with pytest.raises(UsageError, match="--shard"):
        parse_shard(word)
