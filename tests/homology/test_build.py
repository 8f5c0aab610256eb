import gzip

import pytest

from virnucpro.errors import InputError, UsageError
from virnucpro.homology.build import build_from_files
from virnucpro.homology.reference import ProteinLabel, load

FASTA = ">a first\nMKVLAWRTNPQEMKVLAWRTN\nPQE*\n>b\nWWYHCCMDDEEKKWWYHCCMDD\n"
TABLE = "protein\tlabel\tname\tfamily\na\tviral\tA virus\tAviridae\nb\tplasmid\t\t\nc\tviral\t\t\n"


@pytest.fixture
def files(tmp_path):
    def write(fasta=FASTA, table=TABLE):
        (tmp_path / "p.faa").write_bytes(fasta if isinstance(fasta, bytes) else fasta.encode())
        (tmp_path / "t.tsv").write_text(table)
        return tmp_path / "p.faa", tmp_path / "t.tsv", tmp_path / "out"

    return write


@pytest.mark.parametrize("fasta", [FASTA, gzip.compress(FASTA.encode())])
def test_a_reference_of_own_proteins(files, fasta):
    paths = files(fasta)
    assert build_from_files(*paths) == 2
    reference = load(paths[2])
    assert reference.labels[0] == ProteinLabel("a", "A virus", "Aviridae", "", "viral")
    assert reference.proteins.length.tolist() == [24, 22]


@pytest.mark.parametrize(
    ("fasta", "table", "message"),
    [
        (FASTA + ">d\nMKV\n", TABLE, r"t\.tsv: has no line for d of .*p\.faa; add its label"),
        (FASTA + ">a\nMKV\n", TABLE, r"p\.faa: a occurs twice"),
        (">a\nXXXX\n", TABLE, r"p\.faa: a is not a protein"),
        (">a\n*\n", TABLE, r"p\.faa: a is not a protein"),
        ("", TABLE, r"p\.faa: holds no protein"),
        (b"\x1f\x8bno", TABLE, r"p\.faa: cannot be read as FASTA"),
        (b">a\n\xff\xfe\n", TABLE, r"p\.faa: cannot be read as FASTA"),
        (FASTA, "protein\tkind\na\tviral\n", r"t\.tsv: has no column label"),
        (FASTA, "", r"t\.tsv: has no column protein and label"),
        (FASTA, "protein\tlabel\na\tvirus\n", r"t\.tsv: line 2: a: label 'virus' is not one of"),
        (FASTA, "protein\tlabel\na\n", r"t\.tsv: line 2: a: label '' is not one of"),
    ],
)
def test_what_does_not_fit_is_one_line(files, fasta, table, message):
    paths = files(fasta, table)
    with pytest.raises(InputError, match=message) as error:
        build_from_files(*paths)
    assert "\n" not in str(error.value)
    assert not paths[2].exists()


def test_a_full_directory_is_left_alone(files):
    paths = files()
    paths[2].mkdir()
    (paths[2] / "mine").write_text("")
    with pytest.raises(UsageError, match="is not empty"):
        build_from_files(*paths)


def test_missing_files_are_one_line(files, tmp_path):
    fasta, table, out = files()
    with pytest.raises(InputError, match="nowhere: cannot be read"):
        build_from_files(tmp_path / "nowhere", table, out)
    with pytest.raises(InputError, match="nowhere: cannot be read"):
        build_from_files(fasta, tmp_path / "nowhere", out)
