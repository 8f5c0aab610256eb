"""Files appear whole or not at all, and a place that cannot be written is one line."""

from __future__ import annotations

import os

import pytest

from virnucpro.errors import OutputError
from virnucpro.files import LEFTOVER
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
