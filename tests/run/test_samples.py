"""Many samples in one run: the sheet, a directory each, the bits of a run of each alone."""

from __future__ import annotations

import csv
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from command import GOLDEN, GOLDEN_MODEL, virnucpro
from kills import Faults

from virnucpro import api, cli
from virnucpro.errors import UsageError
from virnucpro.models.encoders import DNABERT_S, ENCODERS
from virnucpro.reporting import outputs
from virnucpro.run import samples
from virnucpro.run.samples import check_places, read_samplesheet, samples_of
from virnucpro.settings import PredictSettings

RECORDS = [">" + part for part in (GOLDEN / "input.fa").read_text().split(">")[1:]]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def run_here(*arguments: object, cache: Path) -> int:
    return cli.run(
        [*map(str, arguments), "--gpus", "none", "--cache-dir", str(cache / "frames"), "-q"]
    )


def rows_of(directory: Path) -> dict[str, dict[str, str]]:
    with open(directory / "summary.tsv") as file:
        return {row["sample"]: row for row in csv.DictReader(file, delimiter="\t")}


@pytest.fixture
def sheet(tmp_path) -> Path:
    write(tmp_path / "a.fa", "".join(RECORDS[:2]))
    write(tmp_path / "b1.fa", "".join(RECORDS[2:4]))
    write(tmp_path / "b2.fa", "".join(RECORDS[4:5]))
    write(tmp_path / "bad.fa", "not a sequence file\n")
    lines = [
        "sample\tfile\tfile2",
        "a\ta.fa\t",
        "bad\tbad.fa\t",
        "gone\tgone.fa\t",
        "b\tb1.fa\tb2.fa",
    ]
    return write(tmp_path / "samples.tsv", "\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("sample\tfile\nx\ta.fa\n\ny\tb.fa\n", [("x", ("a.fa",)), ("y", ("b.fa",))]),
        ("\ufeffsample,fasta\r\nx,a.fa\r\n", [("x", ("a.fa",))]),
        (
            "sample,fastq_1,fastq_2,strandedness\nx,1.fq,2.fq,auto\nx,3.fq,,auto\n",
            [("x", ("1.fq", "2.fq", "3.fq"))],
        ),
    ],
)
def test_sheets_of_tabs_and_of_commas(tmp_path, text, found):
    assert read_samplesheet(write(tmp_path / "s", text)) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no sample"),
        ("x\ta.fa\n", "does not name the columns"),
        ("sample\tfile\n", "names no sample"),
        ("sample\tfile\nx\t\n", "line 2: has no file"),
        ("sample\tfile\n\ta.fa\n", "line 2: has no sample name"),
        ("sample\tfile\nx\ta.fa\tb.fa\n", "line 2: has 3 cells, the header 2"),
        ("sample\tfile\n../x\ta.fa\n", "cannot name a directory"),
        ("sample\tfile\nsummary.tsv\ta.fa\n", "cannot name a directory"),
    ],
)
def test_what_a_sheet_cannot_say_is_one_line(tmp_path, text, said):
    sheet = write(tmp_path / "s.tsv", text)
    with pytest.raises(UsageError, match=said):
        samples_of([], sheet, False, tmp_path / "out")


def test_samples_that_the_disk_takes_for_one_are_refused(tmp_path, monkeypatch):
    sheet = write(tmp_path / "s.tsv", "sample\tfile\nX\ta.fa\nx\tb.fa\ny\tc.fa\n")
    found = samples_of([], sheet, False, tmp_path / "out")
    check_places(found, sheet, tmp_path / "out", False)
    monkeypatch.setattr(outputs, "_file_number", lambda status: (1, 1))
    with pytest.raises(UsageError, match=r"out/X and x: are one directory.*rename one"):
        check_places(found, sheet, tmp_path / "out", True)


def test_a_sheet_beside_other_inputs_is_refused(tmp_path):
    for given, per_input in ((["a.fa"], False), ([], True)):
        with pytest.raises(UsageError, match="names the inputs"):
            samples_of(given, tmp_path / "s.tsv", per_input, tmp_path)


def test_each_sample_is_as_a_run_alone_and_a_bad_one_stops_none(sheet, tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setitem(
        ENCODERS,
        "dnabert_s",
        replace(DNABERT_S, load=lambda *given: loaded.append(given) or DNABERT_S.load(*given)),
    )
    monkeypatch.chdir(tmp_path)
    out, alone = tmp_path / "out", tmp_path / "alone"
    assert (
        run_here("predict", "--samplesheet", sheet, "-o", out, *GOLDEN_MODEL, cache=tmp_path) == 2
    )
    assert len(loaded) == 1  # the models are loaded once

    found = rows_of(out)
    assert list(found) == ["a", "bad", "gone", "b"]
    assert [row["status"] for row in found.values()] == ["done", "failed", "failed", "done"]
    assert "neither FASTA" in found["bad"]["reason"]
    assert "cannot be opened" in found["gone"]["reason"]
    assert json.loads((out / "bad" / "status.json").read_text())["exit_code"] == 1
    page = (out / "index.html").read_text()
    assert 'href="a/report.html"' in page and "neither FASTA" in page

    assert run_here("predict", "b1.fa", "b2.fa", "-o", alone, *GOLDEN_MODEL, cache=tmp_path) == 0
    for name in ("merged_features.pt", "contigs.tsv", "chunks.tsv", "frames.tsv", "virus.fna"):
        assert (out / "b" / name).read_bytes() == (alone / name).read_bytes(), name

    # again: nothing is computed, the bad sample is mended alone
    write(tmp_path / "bad.fa", RECORDS[5])
    before = (out / "a" / "run.json").stat().st_mtime_ns
    assert (
        run_here("predict", "--samplesheet", sheet, "-o", out, *GOLDEN_MODEL, cache=tmp_path) == 2
    )
    assert (out / "a" / "run.json").stat().st_mtime_ns == before
    assert [row["status"] for row in rows_of(out).values()] == ["done", "done", "failed", "done"]


def test_no_sample_overwrites_the_sheet_or_the_input_of_another(tmp_path, capsys):
    text = "".join(RECORDS[:1])
    write(tmp_path / "a.fa", text)
    out = tmp_path / "out"
    (out / "x").mkdir(parents=True)
    common = ("-o", out, *GOLDEN_MODEL)
    for name in ("virus.fna", "status.json"):  # of x, and what y is to read
        read = write(out / "x" / name, text)
        listed = write(tmp_path / "samples.tsv", f"sample\tfile\nx\ta.fa\ny\t{read}\n")
        assert (
            run_here("predict", "--samplesheet", listed, *common, "--force", cache=tmp_path) == 64
        )
        assert f"x/{name}: is to be read" in capsys.readouterr().err
        assert read.read_text() == text
        read.unlink()
    for name in ("summary.tsv", "index.html"):
        listed = write(out / name, content := f"sample\tfile\nx\t{tmp_path / 'a.fa'}\n")
        assert (
            run_here("predict", "--samplesheet", listed, *common, "--force", cache=tmp_path) == 64
        )
        assert "is to be read" in capsys.readouterr().err
        assert run_here("predict", "--per-input", tmp_path / "a.fa", *common, cache=tmp_path) == 1
        assert "is not of a run of samples" in capsys.readouterr().err
        assert listed.read_text() == content
        listed.unlink()
    assert [path.name for path in out.rglob("*")] == ["x"]


def test_the_directory_of_a_sample_that_is_a_link_is_not_followed(tmp_path):
    common = PredictSettings(inputs=(), output_dir=tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").symlink_to(tmp_path)
    (sample,) = samples_of(
        [str(write(tmp_path / "a.fa", RECORDS[0]))], None, True, tmp_path / "out"
    )
    with pytest.raises(UsageError, match="out/a: is a link"):
        sample.settings(common)


def test_an_input_each_is_a_sample(sheet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["predict", "a.fa", "b2.fa", "--per-input", "-o", "out", *GOLDEN_MODEL]
    assert run_here(*arguments, cache=tmp_path) == 0
    assert [row["sequences"] for row in rows_of(tmp_path / "out").values()] == ["2", "1"]


def test_an_error_of_the_program_in_one_sample_stops_no_other(sheet, tmp_path, monkeypatch):
    real = samples.find_inputs
    monkeypatch.setattr(
        samples, "find_inputs", lambda paths: 1 / 0 if "a.fa" in paths else real(paths)
    )
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    assert (
        run_here("predict", "--samplesheet", sheet, "-o", out, *GOLDEN_MODEL, cache=tmp_path) == 2
    )
    assert "ZeroDivisionError" in rows_of(out)["a"]["reason"]
    assert rows_of(out)["b"]["status"] == "done"


def test_two_processes_carry_out_samples_together(sheet, tmp_path):
    arguments = ["--samplesheet", sheet, "-o", "two", *GOLDEN_MODEL, "--num-processes", "2", "-q"]
    together = virnucpro(tmp_path, "predict", *arguments)
    assert together.returncode == 2, together.stderr
    alone = virnucpro(tmp_path, "predict", "a.fa", "-o", "one", *GOLDEN_MODEL, "-q")
    assert alone.returncode == 0, alone.stderr
    for name in ("merged_features.pt", "contigs.tsv"):
        of_both = [(tmp_path / folder / name).read_bytes() for folder in ("two/a", "one")]
        assert of_both[0] == of_both[1], name
    states = [row["status"] for row in rows_of(tmp_path / "two").values()]
    assert states == ["done", "failed", "failed", "done"]


def test_a_killed_run_of_samples_goes_on_to_the_same_bits(tmp_path):
    faults = Faults(tmp_path, 4)
    sheet = write(tmp_path / "s.tsv", f"sample\tfile\none\t{faults.input}\ntwo\t{faults.input}\n")
    given = ["predict", "--samplesheet", str(sheet), *GOLDEN_MODEL, "--batch-size", "256"]
    out, reference = tmp_path / "out", tmp_path / "reference"
    # one kill while the first sample is embedded, one while the second is
    for folder in ("one", "two"):
        run = faults.begin("out", [*given, "-o", str(out), "--gpus", "none", "-q"])
        patience = time.monotonic() + 120
        while not any(out.glob(f"{folder}/.virnucpro/*/*.safetensors")):
            assert run.popen.poll() is None and time.monotonic() < patience, run.text()
            time.sleep(0.005)
        run.popen.kill()
        run.popen.wait()
    assert (out / "one" / "run.json").exists() and not (out / "two" / "run.json").exists()
    first = (out / "one" / "run.json").stat().st_mtime_ns
    assert run_here(*given, "-o", out, cache=tmp_path) == 0
    assert (out / "one" / "run.json").stat().st_mtime_ns == first
    assert run_here(*given, "-o", reference, cache=tmp_path) == 0
    for name in ("merged_features.pt", "contigs.tsv", "chunks.tsv", "frames.tsv"):
        for sample in ("one", "two"):
            of_both = [(place / sample / name).read_bytes() for place in (out, reference)]
            assert of_both[0] == of_both[1], (sample, name)


@pytest.mark.parametrize("rank", [0, 1])
def test_no_sample_overwrites_an_input_under_a_launcher(tmp_path, monkeypatch, rank):
    """Every process refuses by itself, before it waits for another."""
    read = tmp_path / "out" / "x" / "virus.fna"
    read.parent.mkdir(parents=True)
    read.write_text(">a\nACGT\n")
    sheet = tmp_path / "s.tsv"
    sheet.write_text(f"sample\tfile\nx\t{GOLDEN / 'input.fa'}\ny\t{read}\n")
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    for name, value in (variables | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}).items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(UsageError, match="is to be read"):
        api.predict_samples(sheet, tmp_path / "out", force=True)
    assert read.read_text() == ">a\nACGT\n"
