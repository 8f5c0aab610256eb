import json

import numpy as np
import pytest

from virnucpro.errors import InputError
from virnucpro.homology.reference import ProteinLabel, build, load

PROTEINS = [b"MKVLAWRTNPQE" * 4, b"WWYHCCMDDEEKK" * 5]
LABELS = [
    ProteinLabel("a|1", "a\tvirus", "Aviridae", "g", "viral"),
    ProteinLabel("b", "", "", "", "plasmid"),
]


@pytest.fixture
def directory(tmp_path):
    build(PROTEINS, LABELS, tmp_path / "reference", "a test")
    return tmp_path / "reference"


def test_a_reference_is_read_as_it_was_written(directory):
    reference = load(directory)
    assert list(reference.labels) == LABELS
    assert reference.proteins.length.tolist() == [48, 65]
    assert reference.n_residues == 113
    assert reference.viral.tolist() == [True, False]
    assert not reference.repeats[reference.proteins.residues == 21].any()
    assert json.loads((directory / "reference.json").read_text())["labels"]["plasmid"] == 1


def test_the_same_proteins_make_the_same_files(directory, tmp_path):
    build(PROTEINS, LABELS, tmp_path / "again", "a test")
    assert load(tmp_path / "again").sha256 == load(directory).sha256


@pytest.mark.parametrize("name", ["residues.zst", "repeats.zst", "proteins.tsv.zst"])
def test_damage_is_one_line(directory, name):
    content = bytearray((directory / name).read_bytes())
    content[-1] ^= 1
    (directory / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} is damaged.*reference build"):
        load(directory)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 9}', '{"format": 1}'])
def test_another_file_is_one_line(directory, text):
    (directory / "reference.json").write_text(text)
    with pytest.raises(InputError, match="is not a reference of proteins"):
        load(directory)


def test_a_missing_directory_is_one_line(tmp_path):
    with pytest.raises(InputError, match="is not a reference of proteins"):
        load(tmp_path / "nowhere")


def test_masked_residues_are_no_seeds(tmp_path):
    build([b"PTSA" * 30], LABELS[:1], tmp_path, "a test")
    reference = load(tmp_path)
    inside = reference.proteins.residues < 20
    assert reference.repeats[inside].mean() > 0.8
    assert np.array_equal(reference.seeds < 20, inside & ~reference.repeats)
