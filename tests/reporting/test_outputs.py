"""Files appear whole or not at all, and a place that cannot be written is one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from virnucpro.errors import OutputError, StoreError, UsageError
from virnucpro.files import LEFTOVER
from virnucpro.reporting import outputs as outputs_module
from virnucpro.reporting.outputs import Outputs


def leftovers(folder):
    return [path.name for path in folder.rglob(LEFTOVER + "*")]


def test_a_file_in_the_place_of_the_directory_is_one_line(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="--output-dir"):
        Outputs(tmp_path / "out").prepare()
    with pytest.raises(OutputError, match="--output-dir"):
        Outputs(tmp_path / "out" / "deeper").prepare()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="permission denied"):
        Outputs(tmp_path).prepare()


def test_prepare_clears_what_a_killed_run_left(tmp_path):
    outputs = Outputs(tmp_path / "a" / "b", ("x", "y"))
    outputs.prepare()
    for folder in (outputs.directory, outputs.merged_directory("x")):
        (folder / f"{LEFTOVER}abc").write_text("half")
    outputs.contigs.write_text("kept")
    outputs.prepare()
    assert not leftovers(tmp_path) and outputs.contigs.read_text() == "kept"
    assert outputs.merged_directory("y").is_dir()


def test_links_in_a_circle_are_one_line(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    Outputs(tmp_path / "out").refuse_inputs([tmp_path / "loop"])  # it fails when it is read
    Outputs(tmp_path / "out").refuse_inputs([tmp_path / "a\0b"])
    outputs = Outputs(tmp_path / "loop" / "out")
    outputs.refuse_inputs([tmp_path / "a.fa"])
    with pytest.raises(OutputError, match="loop/out: cannot be written"):
        outputs.prepare()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="it is a link to nowhere"):
        Outputs(tmp_path / "link").prepare()


def test_names_that_the_disk_takes_for_one_are_refused(tmp_path, monkeypatch):
    Outputs(tmp_path, ("A", "a")).prepare()
    number = outputs_module._file_number
    monkeypatch.setattr(outputs_module, "_file_number", lambda status: (*number(status)[:1], 1))
    with pytest.raises(UsageError, match="A_merged and a_merged: are one directory"):
        Outputs(tmp_path, ("A", "a")).prepare()


def test_tree_names_every_file_once(tmp_path):
    outputs = Outputs(tmp_path, ("x",))
    names = [name for name, _ in outputs.tree()]
    assert len(names) == len(set(names)) and "x_merged/prediction_results.txt" in names
    assert outputs.tree(existing_only=True) == []


@pytest.mark.parametrize("ours", [True, False])
def test_remove_takes_only_our_own(tmp_path, ours):
    outputs = Outputs(tmp_path, ("x",))
    outputs.prepare()
    other = Outputs(tmp_path, ("y",))
    other.prepare()
    for path in (
        outputs.contigs,
        tmp_path / "chunks.parquet",
        outputs.highest_scores("x"),
        tmp_path / "mine.txt",
    ):
        path.write_text("")
    other.prediction_results("y").write_text("")
    (other.merged_directory("y") / "output_1_merged.pt").write_text("")
    if ours:
        outputs.run_json.write_text("{}")
    outputs.remove()
    left = [
        "mine.txt",
        "output_1_merged.pt",
        *([] if ours else ["prediction_results.txt"]),
        "y_merged",
    ]
    assert sorted(path.name for path in tmp_path.rglob("*")) == left


def _precious(folder):
    folder.mkdir()
    (folder / "prediction_results.txt").write_text("precious")
    return folder


@pytest.mark.parametrize("force", [True, False])
def test_a_prepared_link_in_the_place_of_a_folder_is_not_followed(tmp_path, force):
    theirs, outputs = _precious(tmp_path / "theirs"), Outputs(tmp_path / "out", ("x",))
    outputs.directory.mkdir()
    outputs.merged_directory("x").symlink_to(theirs)
    outputs.virus_fasta.symlink_to(theirs / "prediction_results.txt")
    outputs.run_json.write_text("{}")
    if force:
        outputs.remove()
        assert not outputs.virus_fasta.is_symlink()
    with pytest.raises(OutputError, match=r"x_merged: cannot be written .*links are not followed"):
        outputs.prepare()
    assert (theirs / "prediction_results.txt").read_text() == "precious"


def test_unfinished_directories_are_cleared_too(tmp_path):
    outputs = Outputs(tmp_path, ("x",))
    (tmp_path / f"{LEFTOVER}dir").mkdir()
    (tmp_path / f"{LEFTOVER}dir" / "half").write_text("")
    outputs.prepare()
    assert not leftovers(tmp_path)


NAMES = [path.as_posix() for path in Outputs(Path(), ("virus",)).names()]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("by", ["its path", "a link", "another path"])
def test_an_input_in_the_place_of_an_output_is_refused(tmp_path, name, by):
    outputs, path = Outputs(tmp_path / "out", ("virus",)), tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text(">a\nACGT\n")
    if by == "a link":
        (tmp_path / "link").symlink_to(path)
        path = tmp_path / "link"
    elif by == "another path":
        (tmp_path / "out" / "virus_merged").mkdir(exist_ok=True)
        path = tmp_path / "out" / "virus_merged" / ".." / name
    with pytest.raises(UsageError, match=r"is to be read, and the run would write .*--output-dir"):
        outputs.refuse_inputs([path])


def test_an_input_that_would_be_removed_is_refused(tmp_path):
    outputs = Outputs(tmp_path, ("a",))
    for name in (".virnucpro/kept.fa", ".virnucpro/deep/kept.fa", ".virnucpro-stdin/stdin"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        with pytest.raises(UsageError, match="is to be read"):
            outputs.refuse_inputs([path])
    (tmp_path / "a.fa").write_text("")
    outputs.refuse_inputs([tmp_path / "a.fa", tmp_path / "not there"])


def test_files_of_somebody_else_are_not_replaced(tmp_path):
    outputs = Outputs(tmp_path, ("a",))
    (tmp_path / "notes.txt").write_text("")
    for early in (outputs.run_log, outputs.failed_files):
        early.write_text("")
    outputs.refuse_foreign_files()
    outputs.report.write_text("of another program")
    with pytest.raises(StoreError, match=r"report\.html: is there already .*--force"):
        outputs.refuse_foreign_files()
    outputs.run_json.write_text("{}")
    outputs.refuse_foreign_files()


def test_starting_over_keeps_the_log(tmp_path):
    outputs = Outputs(tmp_path)
    for path in (outputs.run_log, outputs.contigs, outputs.run_json):
        path.write_text("")
    outputs.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["run.log"]
