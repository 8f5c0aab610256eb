"""What the user names -> files: directories, names for tables and folders."""

from __future__ import annotations

import os

import pytest

from virnucpro.errors import UsageError, escaped
from virnucpro.sequences.inputs import find_inputs, stem_of
from virnucpro.sequences.reader import UnreadableInput, read_records


def test_sources_and_stems_are_unique(tmp_path):
    for name in ("a/x.fa", "b/x.fasta.gz", "b/x.fa", "y.fq.zst"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(">a\nA\n")
    files = find_inputs(
        [tmp_path / "a" / "x.fa", tmp_path / "b", tmp_path / "y.fq.zst", tmp_path / "y.fq.zst"]
    )
    assert [f.path.name for f in files] == ["x.fa", "x.fa", "x.fasta.gz", "y.fq.zst", "y.fq.zst"]
    assert [f.source for f in files[:3]] == [
        str(tmp_path / "a" / "x.fa"),
        str(tmp_path / "b" / "x.fa"),
        "x.fasta.gz",
    ]
    assert [f.stem for f in files] == ["x", "x_2", "x_3", "y", "y_2"]
    assert len({f.source for f in files}) == 5


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.b.fna.gz", "a.b"),
        ("x.FASTQ.bz2", "x"),
        ("reads", "reads"),
        (".fa", ".fa"),
        ("x.gz", "x"),
        ("GCF_1.1.fna", "GCF_1.1"),
    ],
)
def test_stems(name, stem):
    assert stem_of(name) == stem


def test_a_directory_without_sequences_and_no_input_are_usage_errors(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden.fa").write_text(">a\nA\n")
    with pytest.raises(UsageError, match="no sequence file"):
        find_inputs([tmp_path])
    with pytest.raises(UsageError, match="no input"):
        find_inputs([])


def test_a_path_that_is_not_there_stays_in_to_fail_alone(tmp_path):
    assert [f.source for f in find_inputs([tmp_path / "no.fa"])] == ["no.fa"]


def reasons(files) -> dict[str, str]:
    """Why each file cannot be read, by its source; "" where it can."""
    found = {}
    for file in files:
        try:
            list(read_records(file))
            found[file.source] = ""
        except UnreadableInput as error:
            named = f"{escaped(str(file.path))}: "
            assert str(error).startswith(named)
            found[file.source] = str(error).removeprefix(named)
    return found


def test_what_cannot_be_read_in_a_directory_is_listed(tmp_path):
    (tmp_path / "a.fna").write_text(">a\nACGT\n")
    (tmp_path / "b.fna").symlink_to("nowhere")
    (tmp_path / "c.fa").symlink_to("c.fa")
    os.mkfifo(tmp_path / "d.fa.gz")
    (tmp_path / "e.fa").mkdir()
    (tmp_path / "f.txt").symlink_to("nowhere")
    found = reasons(find_inputs([tmp_path]))
    assert list(found) == ["a.fna", "b.fna", "c.fa", "d.fa.gz"] and found["a.fna"] == ""
    assert "No such file" in found["b.fna"] and "symbolic links" in found["c.fa"]
    assert "not a regular file" in found["d.fa.gz"]


def test_entries_of_a_directory_that_may_not_be_looked_at_are_listed(tmp_path, monkeypatch):
    (tmp_path / "a.fna").write_text(">a\nACGT\n")

    def refuse(path, *flags, **more):
        raise PermissionError(13, "Permission denied", str(path))

    files = find_inputs([tmp_path])
    monkeypatch.setattr(os, "open", refuse)  # the superuser of a test machine is refused nothing
    assert reasons(files) == {"a.fna": "cannot be opened: Permission denied"}


@pytest.mark.parametrize(
    ("name", "source", "stem"),
    [
        (b"a\tb\n.fa", r"a\x09b\x0a.fa", r"a\x09b\x0a"),
        (b"Esp\xe8ce.fna", r"Esp\xe8ce.fna", r"Esp\xe8ce"),
        ("Ω\x1b[31m.fa.gz".encode(), r"Ω\x1b[31m.fa.gz", r"Ω\x1b[31m"),
        (b"a|b.fa", "a|b.fa", "a|b"),
        (b"a" * 252 + b".fa", "a" * 252 + ".fa", "a" * 230),
        ("é".encode() * 126 + b".fa", "é" * 126 + ".fa", "é" * 115),
    ],
)
def test_names_of_files_can_be_printed_and_their_folders_made(tmp_path, name, source, stem):
    path = tmp_path / os.fsdecode(name)
    path.write_text(">a\nAC\n")
    file, again = find_inputs([tmp_path, path])
    assert (file.source, file.stem) == (os.path.join(escaped(str(tmp_path)), source), stem)
    assert again.source == f"{file.source}_2" and again.stem == f"{stem}_2"
    assert find_inputs([path])[0].source == source
    (tmp_path / f"{again.stem}_merged").mkdir()
    assert [record.name for record in read_records(file)] == ["a"]


@pytest.mark.parametrize("name", ["x" * 300 + ".fa", "a\0b.fa"])
def test_names_that_no_file_can_have_fail_alone(tmp_path, name):
    (found,) = reasons(find_inputs([str(tmp_path / name)])).values()
    assert found.startswith("cannot be opened: ")
