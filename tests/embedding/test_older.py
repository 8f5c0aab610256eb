"""Rows of the original's files: genuine ones are taken whole, and every kind of damage costs only
what it spoils.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from Bio.SeqIO.FastaIO import SimpleFastaParser

from virnucpro.embedding.older import Counts, find_older_work, read_rows, same_model
from virnucpro.errors import StoreError
from virnucpro.models.encoders import read_tokenizers
from virnucpro.sequences.frame_columns import FrameRules
from virnucpro.sequences.inputs import find_inputs
from virnucpro.sequences.table import FrameTable
from virnucpro.sequences.table_cache import TablePlaces, build_or_open

DATA = Path(__file__).parents[1] / "data"
GOLDEN = DATA / "golden"
PUBLISHED = DATA / "published"
SMALL = {"dnabert_s": 48, "esm2": 32}
FULL = {"dnabert_s": 768, "esm2": 2560}


def table_of(inputs: list[Path], cache: Path) -> FrameTable:
    tokenizers = read_tokenizers({"esm2": GOLDEN / "esm2", "dnabert_s": GOLDEN / "dnabert_s"})
    return build_or_open(
        find_inputs([str(path) for path in inputs]),
        FrameRules(500),
        tokenizers,
        TablePlaces(cache, cache),
    )


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> FrameTable:
    """The frames of the golden input."""
    return table_of([GOLDEN / "input.fa"], tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def features() -> dict[str, np.ndarray]:
    """What the original's merged file says, by frame id."""
    content = torch.load(GOLDEN / "expected" / "output_1_merged.pt", weights_only=True)
    return dict(zip(content["ids"], content["data"].numpy(), strict=True))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The golden run in the layout in which the original leaves it, frames in two files of 75 and
    74.
    """
    expected = GOLDEN / "expected"
    directory = tmp_path / "old"
    dna = torch.load(expected / "output_1_DNABERT_S.pt", weights_only=True)
    esm = torch.load(expected / "output_1_ESM.pt", weights_only=True)
    merged = torch.load(expected / "output_1_merged.pt", weights_only=True)
    rows_of_esm = dict(zip(esm["proteins"], esm["data"], strict=True))
    for folder in ("nucleotide", "protein", "merged"):
        (directory / f"input_{folder}").mkdir(parents=True)
    for number, part in enumerate((slice(0, 75), slice(75, None)), start=1):
        ids = dna["nucleotide"][part]
        by_length = [name for name in esm["proteins"] if name in set(ids)]
        torch.save(
            {"nucleotide": ids, "data": dna["data"][part]},
            directory / f"input_nucleotide/output_{number}_DNABERT_S.pt",
        )
        torch.save(
            {"proteins": by_length, "data": [rows_of_esm[name] for name in by_length]},
            directory / f"input_protein/output_{number}_ESM.pt",
        )
        torch.save(
            {"ids": ids, "data": merged["data"][part]},
            directory / f"input_merged/output_{number}_merged.pt",
        )
        for folder, source in (
            ("nucleotide", "frames_nucleotide.fa"),
            ("protein", "frames_protein.faa"),
        ):
            with (expected / source).open() as opened:
                records = [
                    (name, sequence)
                    for name, sequence in SimpleFastaParser(opened)
                    if name in set(ids)
                ]
            (directory / f"input_{folder}" / f"output_{number}.fa").write_text(
                "".join(f">{n}\n{s}\n" for n, s in records)
            )
    return directory


def taken(
    directory: Path, table: FrameTable, widths=SMALL
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Counts], list[str]]:
    """By encoder: rows by frame id, and the sum of counts; and what was said of refused files."""
    ids = table.frame_ids()
    rows: dict[str, dict[str, np.ndarray]] = {encoder: {} for encoder in widths}
    counts = dict.fromkeys(widths, Counts())
    problems = []
    for given in read_rows(find_older_work(directory), table, widths):
        assert (np.diff(given.index) > 0).all() and given.rows.shape == (
            len(given.index),
            widths[given.encoder],
        )
        assert given.rows.dtype == np.float32 and len(given.index) == given.counts.taken
        new = {
            ids[row]: values for row, values in zip(given.index.tolist(), given.rows, strict=True)
        }
        assert not new.keys() & rows[given.encoder].keys()
        rows[given.encoder] |= new
        counts[given.encoder] += given.counts
        problems += [given.problem] if given.problem else []
    return rows, counts, problems


def assert_right(rows: dict[str, dict[str, np.ndarray]], features: dict[str, np.ndarray]) -> None:
    for encoder, columns in (("dnabert_s", slice(0, 48)), ("esm2", slice(48, None))):
        for name, values in rows[encoder].items():
            assert np.array_equal(values, features[name][columns]), name


def change(file: Path, edit) -> None:
    content = torch.load(file, weights_only=True)
    edit(content)
    torch.save(content, file)


def test_genuine_published_files_are_taken_whole(tmp_path: Path):
    """Files computed with the published weights, in the original's folders."""
    for run in sorted(PUBLISHED.iterdir()):
        table = table_of([run / "input.fa"], tmp_path / "cache")
        rows, counts, problems = taken(run, table, FULL)
        merged = torch.load(run / f"{run.name}_merged" / "output_1_merged.pt", weights_only=True)
        assert (
            problems == []
            and sorted(table.frame_ids()) == sorted(merged["ids"])
            and len(table) == 4
        )
        for name, values in zip(merged["ids"], merged["data"].numpy(), strict=True):
            assert np.array_equal(
                np.concatenate([rows["dnabert_s"][name], rows["esm2"][name]]), values
            )
        # The merged file repeats what the others gave.
        assert all(count == Counts(taken=4, again=4) for count in counts.values())


def test_a_whole_old_run_is_taken(old: Path, table: FrameTable, features):
    rows, counts, problems = taken(old, table)
    assert problems == []
    assert (
        rows["dnabert_s"].keys() == rows["esm2"].keys() == set(table.frame_ids()) == features.keys()
    )
    assert_right(rows, features)
    assert counts["esm2"].taken == 149 and counts["esm2"].again == 149


def test_merged_files_alone_are_enough(old: Path, table: FrameTable, features):
    for file in [*old.glob("*/*_DNABERT_S.pt"), *old.glob("*/*_ESM.pt")]:
        file.unlink()
    rows, counts, _ = taken(old, table)
    assert_right(rows, features)
    assert [count.taken for count in counts.values()] == [149, 149]


def test_versions_states_and_done_markers_of_the_rewrite_change_nothing(
    old: Path, table: FrameTable, features
):
    for file in old.glob("*/output_*.pt"):
        change(file, lambda content: content.update(version="1.0", status="in_progress"))
        if "_1_" in file.name:
            Path(f"{file}.done").touch()
    for file in old.glob("*/*_DNABERT_S.pt"):
        file.rename(file.with_name(file.name.replace("DNABERT_S", "DNABERT")))
    (old / ".checkpoints").mkdir()
    (old / ".checkpoints" / "pipeline_state.json").write_text(json.dumps({"stages": {}}))
    rows, _, problems = taken(old, table)
    assert problems == [] and len(rows["dnabert_s"]) == len(rows["esm2"]) == 149
    assert_right(rows, features)


def test_shuffled_rows_are_matched_by_id(old: Path, table: FrameTable, features):
    def shuffle(content: dict) -> None:
        key = next(key for key in content if key != "data")
        order = np.random.default_rng(0).permutation(len(content[key])).tolist()
        content[key] = [content[key][i] for i in order]
        content["data"] = (
            content["data"][order]
            if isinstance(content["data"], torch.Tensor)
            else [content["data"][i] for i in order]
        )

    for file in old.glob("*/output_*.pt"):
        change(file, shuffle)
    rows, _, _ = taken(old, table)
    assert len(rows["esm2"]) == 149
    assert_right(rows, features)


def test_missing_rows_and_a_missing_file_cost_only_themselves(
    old: Path, table: FrameTable, features
):
    shutil.rmtree(old / "input_merged")
    (old / "input_protein" / "output_2_ESM.pt").unlink()

    def drop(content: dict) -> None:
        del content["nucleotide"][10:30], content["data"][10:30]

    change(old / "input_nucleotide" / "output_1_DNABERT_S.pt", drop)
    rows, _, problems = taken(old, table)
    assert problems == [] and (len(rows["dnabert_s"]), len(rows["esm2"])) == (129, 75)
    assert_right(rows, features)


def test_ids_and_rows_that_differ_in_number_refuse_the_file(old: Path, table: FrameTable, features):
    """The original's own fault: merged ids kept after a row was lost; every later id would be
    wrong.
    """
    for file in old.glob("*/*_ESM.pt"):
        file.unlink()
    change(
        old / "input_merged" / "output_1_merged.pt",
        lambda content: content.update(data=content["data"][1:]),
    )
    rows, _, problems = taken(old, table)
    assert len(rows["esm2"]) == 74 and len(rows["dnabert_s"]) == 149
    assert all("75 ids for 74 rows" in problem for problem in problems) and len(problems) == 2
    assert_right(rows, features)


@pytest.mark.parametrize(
    "damage",
    ["truncated", "empty", "not_a_checkpoint", "hostile", "other_format", "scalar", "future"],
)
def test_an_unreadable_file_is_said_and_the_others_count(
    old: Path, table: FrameTable, features, tmp_path: Path, damage
):
    shutil.rmtree(old / "input_merged")
    file = old / "input_protein" / "output_1_ESM.pt"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:3000])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "not_a_checkpoint":
        torch.save([1, 2, 3], file)
    elif damage == "other_format":
        torch.save({"proteins": "all", "data": None}, file)
    elif damage == "scalar":
        change(file, lambda content: content.update(data=torch.tensor(1.0)))
    elif damage == "future":
        change(file, lambda content: content.update(version="2.1"))
    else:

        class Hostile:
            def __reduce__(self):
                return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

        torch.save({"proteins": ["x"], "data": [Hostile()]}, file)
    rows, _, problems = taken(old, table)
    assert len(rows["esm2"]) == 74 and len(rows["dnabert_s"]) == 149
    assert len(problems) == 1 and str(file) in problems[0] and "\n" not in problems[0]
    assert not (tmp_path / "ran").exists()
    assert_right(rows, features)


def test_rows_that_are_not_this_runs_are_left(old: Path, table: FrameTable, features):
    shutil.rmtree(old / "input_merged")

    def spoil(content: dict) -> None:
        content["data"][0] = content["data"][0][:-1]
        content["data"][1] = content["data"][1] * float("nan")
        content["data"][2] = content["data"][2].clone()
        content["data"][2][5] = float("inf")
        content["proteins"][3] = "somebody_else_chunk_1F1"
        content["proteins"][4] = "not a frame id"
        content["proteins"][5] = content["proteins"][6]

    change(old / "input_protein" / "output_1_ESM.pt", spoil)
    # The nucleotides of an input that has changed since, and one sequence that is gone.
    fasta = old / "input_nucleotide" / "output_2.fa"
    records = fasta.read_text().splitlines()
    records[1] = records[1][::-1] + "A"
    fasta.write_text("\n".join(records[:-2]) + "\n")
    rows, counts, _ = taken(old, table)
    assert counts["esm2"] == Counts(
        taken=149 - 7, wrong_width=1, not_finite=2, no_match=2, ambiguous=2
    )
    assert counts["dnabert_s"] == Counts(taken=147, other_sequence=1, no_sequence=1)
    assert str(counts["dnabert_s"]) == "147 taken, 1 of another sequence, 1 without their sequence"
    assert_right(rows, features)


def test_without_the_sequences_nothing_is_believed(old: Path, table: FrameTable):
    for file in old.glob("*/output_*.fa"):
        file.unlink()
    rows, counts, _ = taken(old, table)
    assert rows == {"dnabert_s": {}, "esm2": {}} and counts["esm2"].no_sequence == 298


def test_another_input_of_the_same_names_is_not_mistaken(old: Path, tmp_path: Path, features):
    """The same record names, the sequences reversed: ids match, no sequence does."""
    with (GOLDEN / "input.fa").open() as opened:
        records = [f">{title}\n{sequence[::-1]}\n" for title, sequence in SimpleFastaParser(opened)]
    (tmp_path / "input.fa").write_text("".join(records))
    other = table_of([tmp_path / "input.fa"], tmp_path / "cache")
    rows, counts, _ = taken(old, other)
    proteins = dict(zip(other.frame_ids(), other.frames["protein"].to_pylist(), strict=True))
    with (GOLDEN / "expected" / "frames_protein.faa").open() as opened:
        same = {
            name for name, protein in SimpleFastaParser(opened) if proteins.get(name) == protein
        }
    assert rows["esm2"].keys() == same and counts["esm2"].other_sequence > 0


def test_frames_too_long_for_esm2_are_left_to_this_run(tmp_path: Path):
    """The original cut them short without a word; here they get no row."""
    (tmp_path / "long.fa").write_text(">long\n" + "GCT" * 1100 + "\n")
    cache = tmp_path / "cache"
    tokenizers = read_tokenizers({"esm2": GOLDEN / "esm2", "dnabert_s": GOLDEN / "dnabert_s"})
    table = build_or_open(
        find_inputs([str(tmp_path / "long.fa")]),
        FrameRules(3300),
        tokenizers,
        TablePlaces(cache, cache),
    )
    folder = tmp_path / "old" / "long_protein"
    folder.mkdir(parents=True)
    (folder / "output_0.fa").write_text(f">long_chunk_1F1\n{'A' * 1100}\n")
    torch.save(
        {"proteins": ["long_chunk_1F1"], "data": [torch.ones(32)]}, folder / "output_0_ESM.pt"
    )
    (given,) = read_rows(find_older_work(tmp_path / "old"), table, SMALL)
    assert "long_chunk_1F1" in table.frame_ids() and given.counts == Counts(no_match=1)


def test_hdf5_shards_are_refused_in_a_line(tmp_path: Path):
    (tmp_path / "esm2_embeddings").mkdir()
    (tmp_path / "esm2_embeddings" / "shard_0.h5").write_bytes(b"\x89HDF")
    with pytest.raises(StoreError, match=r"shard_0\.h5: HDF5 shards"):
        find_older_work(tmp_path)


def test_a_directory_of_this_version_holds_no_older_work(tmp_path: Path):
    (tmp_path / "input_merged").mkdir()
    (tmp_path / "input_merged" / "prediction_results.txt").write_text("")
    (tmp_path / "merged_features.pt").write_bytes(b"")
    assert find_older_work(tmp_path) is None


@pytest.mark.parametrize(
    ("precision", "noise", "same"),
    [("fp32", 1e-6, True), ("fp32", 1e-3, False), ("bf16", 1e-3, True), ("bf16", 0.2, False)],
)
def test_a_sample_tells_one_model_from_another(precision, noise, same):
    random = np.random.default_rng(3)
    rows = random.normal(size=(16, 200)).astype(np.float32)
    assert (
        same_model(rows, rows + random.normal(0, noise, rows.shape).astype(np.float32), precision)
        is same
    )
    assert not same_model(rows, np.full_like(rows, np.nan), precision)
