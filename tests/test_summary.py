"""`summarize` when it is stopped, started elsewhere, or finds a changed directory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command import GOLDEN

import virnucpro as package
from virnucpro.errors import StoreError, UsageError
from virnucpro.reporting import write

PARTS = {
    "esm_model": str(GOLDEN / "esm2"),
    "dna_model": str(GOLDEN / "dnabert_s"),
    "classifier": str(GOLDEN / "500_model.pth"),
    "precision": "fp32",
    "gpus": "none",
}
# the first four records
FEW = "".join((GOLDEN / "input.fa").read_text().partition(">long3777")[:1])


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("summary")


@pytest.fixture(scope="module")
def options(home) -> dict:
    return {**PARTS, "cache_dir": home / "cache"}


@pytest.fixture(scope="module")
def finished(home, options) -> Path:
    """A run of `few.fa`, which was given as a relative path."""
    (home / "few.fa").write_text(FEW)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        return home / package.predict("few.fa", output_dir="out", **options).directory


@pytest.fixture
def out(finished, tmp_path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


def texts(directory: Path) -> dict[str, bytes]:
    kinds = ("tsv", "bed", "fna", "txt", "csv")
    paths = [path for kind in kinds for path in directory.rglob(f"*.{kind}")]
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def test_a_relative_input_is_found_from_another_directory(out, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = texts(out)
    result = package.summarize(out, cache_dir=tmp_path / "another cache")
    assert result.exit_code == 0 and texts(out) == before
    assert json.loads((out / "run.json").read_text())["inputs"][0]["path"] == "few.fa"


@pytest.mark.parametrize("step", ["write_tables", "write_fastas", "write_record"])
def test_a_stopped_summarize_does_not_leave_a_finished_run(home, out, options, monkeypatch, step):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(write, step, stop)
        with pytest.raises(KeyboardInterrupt):
            package.summarize(out, min_score=0.9, cache_dir=options["cache_dir"])
    assert not (out / "run.json").exists()
    with pytest.raises(StoreError, match=r"`virnucpro summarize` was stopped here; run it again"):
        package.predict(home / "few.fa", output_dir=out, **options)
    package.summarize(out, min_score=0.9, cache_dir=options["cache_dir"])
    again = package.predict(home / "few.fa", output_dir=out, min_score=0.9, **options)
    assert again.answers is None and again.exit_code == 0  # finished
    assert not (out / ".virnucpro" / "before.json").exists()


def test_what_the_run_record_names_is_checked_before_it_is_believed(out, tmp_path, options):
    record = json.loads((out / "run.json").read_text())

    def summarize(**changed: object) -> None:
        (out / "run.json").write_text(json.dumps({**record, **changed}))
        package.summarize(out, cache_dir=options["cache_dir"])

    outside = [{**record["inputs"][0], "stem": "../escaped"}]
    with pytest.raises(StoreError, match="stem is not what a run writes"):
        summarize(inputs=outside)
    assert not (tmp_path / "escaped_merged").exists()
    with pytest.raises(StoreError, match="has changed since the run; name the one to use with"):
        summarize(model={**record["model"], "sha256": {"classifier": "0" * 64}})
    summarize(from_the_future={"kept": 1})
    assert json.loads((out / "run.json").read_text())["from_the_future"] == {"kept": 1}


def test_the_classifier_is_not_overwritten(out, options):
    shutil.copy(GOLDEN / "500_model.pth", out / "regions.bed")
    with pytest.raises(UsageError, match=r"regions\.bed: is to be read"):
        package.summarize(out, out / "regions.bed", cache_dir=options["cache_dir"])


def test_what_came_through_standard_input_can_be_called_again(home, options, tmp_path, monkeypatch):
    """A later run of something else leaves it alone; one that replaces the results, replaces it."""
    out = tmp_path / "out"

    def predict(text: str, **more: object) -> package.Result:
        with open(tmp_path / "piped", "w+") as piped:
            piped.write(text)
            piped.seek(0)
            monkeypatch.setattr("sys.stdin", piped)
            return package.predict("-", output_dir=out, **{**options, **more})

    first, kept = predict(FEW), out / ".virnucpro-input" / "0"
    before = texts(out)
    assert first.exit_code == 0 and kept.read_text() == FEW
    package.summarize(out, cache_dir=tmp_path / "another cache")
    assert texts(out) == before and (out / "virus.fna").stat().st_size > 0
    less = "".join(FEW.partition(">len501")[:1])
    with pytest.raises(StoreError, match="holds another run"):
        predict(less)
    assert predict(FEW).answers is None and kept.read_text() == FEW
    predict(less, force=True)
    assert kept.read_text() == less
    record = json.loads((out / "run.json").read_text())
    record["inputs"][0]["kept"] = "../../piped"
    (out / "run.json").write_text(json.dumps(record))
    with pytest.raises(StoreError, match="kept is not what a run writes"):
        package.summarize(out)
    shutil.rmtree(kept.parent)
    record["inputs"][0]["kept"] = "0"
    (out / "run.json").write_text(json.dumps(record))
    with pytest.raises(StoreError, match="stdin: the run's input is not there any more"):
        package.summarize(out)


def test_results_can_go_elsewhere(out, options, tmp_path):
    before, more = texts(out), {"min_score": 0.99, "cache_dir": options["cache_dir"]}
    other = tmp_path / "other"
    result = package.summarize(out, output_dir=other, **more)
    assert result.directory == other and texts(out) == before
    assert (other / "report.html").is_file() and texts(other) != before
    with pytest.raises(StoreError, match="is there already; replace it with --force"):
        package.summarize(out, output_dir=other, **more)
    package.summarize(out, output_dir=other, force=True, cache_dir=options["cache_dir"])
    assert texts(other) == before == texts(out)
    with pytest.raises(StoreError, match="no finished run"):
        package.summarize(tmp_path, output_dir=tmp_path / "new")
    assert not (tmp_path / "new").exists()
