import csv
import json

import numpy as np
import pytest

from virnucpro import cli
from virnucpro.errors import InputError
from virnucpro.sequences.chunks import chunk_spans
from virnucpro.sequences.frames import FRAME_NAMES, open_frames
from virnucpro.training.prepare import prepare
from virnucpro.training.settings import PrepareSettings
from virnucpro.training.store import Store, decode, substitute

RNG = np.random.default_rng(17)


def random_codes(n):
    return RNG.integers(0, 4, n).astype(np.uint8)


def write(directory, records, header="file\trecord\tlabel\tgroup\tsplit"):
    """records: (name, sequence, label, group, split)"""
    (directory / "g.fna").write_bytes(
        b"".join(b">%s\n%s\n" % (n.encode(), s) for n, s, *_ in records)
    )
    lines = [f"g.fna\t{n}\t{label}\t{group}\t{split}" for n, _, label, group, split in records]
    (directory / "labels.tsv").write_text("\n".join([header, *lines]) + "\n")
    return directory / "labels.tsv"


def frames_of(directory):
    with (directory / "frames.tsv").open() as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def test_groups_stay_whole_and_every_side_gets_some(tmp_path):
    records = [
        (f"r{i}", decode(random_codes(700)), "virus" if i % 2 else "others", f"g{i // 4}", "")
        for i in range(48)
    ]
    prepare(PrepareSettings(write(tmp_path, records), tmp_path / "out"))
    lab = Store.load(tmp_path / "out" / "sequences.npz").labels
    for virus in (0, 1):
        mine = lab.virus == virus
        assert set(lab.split[mine]) == {"train", "validation", "test"}
        for group in set(lab.group[mine]):
            assert len(set(lab.split[mine & (lab.group == group)])) == 1


def test_what_later_steps_will_miss_is_said_with_the_next_command(tmp_path, monkeypatch, capsys):
    records = [
        (f"r{i}", decode(random_codes(700)), "virus" if i % 2 else "others", f"g{i}", "")
        for i in range(8)
    ]
    labels = write(tmp_path, records)
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.chdir(tmp_path)
    assert cli.run(["prepare", str(labels), "-o", "out"]) == 0
    said = capsys.readouterr().err
    assert "note: the validation side has 1 group of a label" in said and "calibrate" in said
    assert "without DIAMOND" in said
    assert said.splitlines()[-1] == "next: virnucpro train out -o my_bundle"
    assert {path.name for path in tmp_path.iterdir()} == {"g.fna", "labels.tsv", "out"}


def test_near_identical_records_leave_training_and_are_counted(tmp_path):
    held = random_codes(3000)
    records = [
        ("held", decode(held), "virus", "a", "test"),
        # another group, the other strand
        ("copy", decode(3 - substitute(held, 0.01, RNG)[::-1]), "virus", "b", "train"),
        # 5 %: stays
        ("piece", decode(np.concatenate([held[:300], random_codes(6000)])), "virus", "c", "train"),
        ("far", decode(random_codes(3000)), "others", "d", "train"),
        ("late", decode(held[:1500]), "others", "e", "validation"),
    ]
    summary = prepare(PrepareSettings(write(tmp_path, records), tmp_path / "out"))
    assert summary["removed_near_identical"] == {
        "train": {"virus": 1, "others": 0},
        "validation": {"virus": 0, "others": 1},
    }
    names = set(Store.load(tmp_path / "out" / "sequences.npz").labels.name)
    assert names == {"held", "piece", "far"}
    assert {f["frame_id"].split("_chunk_")[0] for f in frames_of(tmp_path / "out")} <= names
    assert b">copy" not in (tmp_path / "out" / "train.fna").read_bytes()


def test_frames_are_those_of_chunks_without_other_letters(tmp_path):
    plain, other = (
        decode(random_codes(1200)),
        decode(random_codes(400)) + b"N" + decode(random_codes(600)),
    )
    records = [("plain", plain, "virus", "a", "train"), ("other", other, "others", "b", "train")]
    summary = prepare(PrepareSettings(write(tmp_path, records), tmp_path / "out"))
    expected = []
    for name, sequence in (("plain", plain), ("other", other)):
        for k, (a, b) in enumerate(chunk_spans(len(sequence), 500), start=1):
            if b"N" not in sequence[a:b]:
                found = open_frames(sequence[a:b], np.array([0]), np.array([b - a]))
                expected += [f"{name}_chunk_{k}{FRAME_NAMES[f]}" for f in found.frame]
    assert [f["frame_id"] for f in frames_of(tmp_path / "out")] == expected
    assert (
        summary["frames"]["chunks_with_other_letters"]
        == sum(b"N" in other[a:b] for a, b in chunk_spans(len(other), 500))
        > 0
    )


def test_with_genbank_only_frames_within_an_annotated_protein_stay(tmp_path):
    from Bio import SeqIO
    from Bio.Seq import Seq
    from Bio.SeqFeature import SeqFeature, SimpleLocation
    from Bio.SeqRecord import SeqRecord

    codons = [
        a + b + c
        for a in "ACGT"
        for b in "ACGT"
        for c in "ACGT"
        if a + b + c not in ("TAA", "TAG", "TGA")
    ]
    # 1,002 bases: chunks of 500 lie wholly inside
    gene = "ATG" + "".join(RNG.choice(codons, 332)) + "TAA"
    sequence = Seq(gene)
    record = SeqRecord(
        sequence, id="X1.1", name="X1", description="", annotations={"molecule_type": "DNA"}
    )
    protein = str(sequence.translate(to_stop=True))
    record.features.append(
        SeqFeature(
            SimpleLocation(0, len(gene), 1), type="CDS", qualifiers={"translation": [protein]}
        )
    )
    SeqIO.write([record], tmp_path / "x.gb", "genbank")
    labels = write(
        tmp_path,
        [
            ("X1.1", gene.encode(), "virus", "a", "train"),
            ("Y", decode(random_codes(600)), "others", "b", "train"),
        ],
    )
    summary = prepare(PrepareSettings(labels, tmp_path / "out", genbank=[tmp_path / "x.gb"]))
    spans = chunk_spans(len(gene), 500)
    found = open_frames(gene.encode(), spans[:, 0], spans[:, 1])
    expected = [
        f"X1.1_chunk_{c + 1}{FRAME_NAMES[f]}"
        for c, f, p in zip(found.chunk, found.frame, found.proteins, strict=True)
        if p.decode() in protein
    ]
    assert expected and [f["frame_id"] for f in frames_of(tmp_path / "out")] == expected
    assert summary["frames"]["records_without_annotation"] == 1
    assert summary["frames"]["frames_outside_annotation"] == len(found) - len(expected)
    with pytest.raises(InputError, match=r"g\.fna: no GenBank record in it"):
        prepare(
            PrepareSettings(
                labels, tmp_path / "none", genbank=[tmp_path / "x.gb", tmp_path / "g.fna"]
            )
        )
    with pytest.raises(
        InputError, match=r"y\.gb: not readable as GenBank \(No such file or directory\)"
    ):
        prepare(PrepareSettings(labels, tmp_path / "none", genbank=[tmp_path / "y.gb"]))
    assert not (tmp_path / "none").exists()  # before any work


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("g.fna\tr0\tmaybe\ta\t", "label 'maybe'"),
        ("h.fna\t\tvirus\ta\t", "is not a file"),
        ("g.fna\tzz\tvirus\ta\t", "no record zz"),
        ("g.fna\tr0\tvirus\ta\tholdout", "split 'holdout'"),
    ],
)
def test_what_is_wrong_with_the_table_is_said(tmp_path, line, says):
    labels = write(tmp_path, [("r0", decode(random_codes(300)), "virus", "a", "")])
    labels.write_text("file\trecord\tlabel\tgroup\tsplit\n" + line + "\n")
    with pytest.raises(InputError, match=says):
        prepare(PrepareSettings(labels, tmp_path / "out"))


def test_a_group_on_two_sides_is_refused(tmp_path):
    records = [
        ("a", decode(random_codes(300)), "virus", "g", "train"),
        ("b", decode(random_codes(300)), "virus", "g", "test"),
    ]
    with pytest.raises(InputError, match="group g is on several sides"):
        prepare(PrepareSettings(write(tmp_path, records), tmp_path / "out"))


def test_the_summary_is_written(tmp_path):
    records = [
        (f"r{i}", decode(random_codes(400)), "virus" if i < 4 else "others", f"g{i}", "")
        for i in range(8)
    ]
    summary = prepare(PrepareSettings(write(tmp_path, records), tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
