"""Files appear whole or not at all, and a place that cannot be written is one line."""

from __future__ import annotations

import errno
import os
import resource

import pytest

from virnucpro.errors import InputError
from virnucpro.reporting.outputs import LEFTOVER, OutputError, Outputs, writing


def leftovers(folder):
    return [path.name for path in folder.rglob(LEFTOVER + "*")]


def test_a_file_is_the_old_one_until_it_is_the_whole_new_one(tmp_path):
    path = tmp_path / "contigs.tsv"
    path.write_text("old")
    with writing(path) as stream:
        stream.write(b"new" * 100_000)
        assert path.read_text() == "old"
    assert path.read_text() == "new" * 100_000
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_an_error_leaves_the_old_file_and_no_trace(tmp_path):
    path = tmp_path / "contigs.tsv"
    path.write_text("old")
    for error in (
        InputError("x"),
        KeyboardInterrupt(),
        OSError(errno.ENOENT, "gone", "/elsewhere/input.fa"),
    ):
        with pytest.raises(type(error)), writing(path) as stream:
            stream.write(b"half")
            raise error
    assert path.read_text() == "old" and not leftovers(tmp_path)


def test_a_full_disk_is_one_line(tmp_path):
    """A real limit on the size of files stands for the full disk: write() fails in the same
    place.
    """
    path = tmp_path / "contigs.tsv"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with (
            pytest.raises(OutputError, match=r"contigs\.tsv: cannot write \(file too large\)"),
            writing(path) as stream,
        ):
            stream.write(b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not path.exists() and not leftovers(tmp_path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_no_space_left_names_the_file(tmp_path):
    path = tmp_path / "a.tsv"
    with (
        pytest.raises(OutputError, match=r"a\.tsv: cannot write \(no space left on device\)"),
        writing(path) as stream,
    ):
        os.dup2(os.open("/dev/full", os.O_WRONLY), stream.fileno())
        stream.write(b"x" * 1_000_000)
    assert not leftovers(tmp_path)


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


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


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
