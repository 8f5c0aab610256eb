"""The table of frames: its content, its reuse, and what happens when files, disks and caches are
bad.
"""

from __future__ import annotations

import errno
import gzip
import io
import json
import multiprocessing
import os
import random
import subprocess
import sys
import types
from collections import Counter

import numpy as np
import pyarrow.compute as pc
import pytest
import xxhash
from Bio.Seq import Seq

from virnucpro.embedding.work import TokenColumn, column
from virnucpro.errors import StoreError
from virnucpro.models.encoders import ESM2, read_tokenizers
from virnucpro.sequences import build as build_module
from virnucpro.sequences import compressed, frame_columns, table_cache
from virnucpro.sequences import table as frame_table
from virnucpro.sequences.frame_columns import FrameRules
from virnucpro.sequences.frames import FRAME_NAMES
from virnucpro.sequences.inputs import find_inputs
from virnucpro.sequences.reader import RecordReader, UnreadableInput
from virnucpro.sequences.table import open_table
from virnucpro.sequences.table_cache import TablePlaces, build_or_open

RULES = FrameRules(500)


def places(cache) -> TablePlaces:
    return TablePlaces(cache, cache.parent / "private")


@pytest.fixture
def table_of(tmp_path, tokenizers):
    def build(*paths, rules=RULES, log=lambda line: None):
        return build_or_open(find_inputs(paths), rules, tokenizers, places(tmp_path / "cache"), log)

    return build


@pytest.fixture
def warned(monkeypatch) -> list[str]:
    """What the log was warned of."""
    lines: list[str] = []
    monkeypatch.setattr(
        table_cache.log, "warning", lambda text, *values: lines.append(text % values)
    )
    return lines


@pytest.fixture
def write(tmp_path):
    def write(content: str | bytes, name: str = "x.fa"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def test_golden_ids_order_and_sequences(golden, fasta, table_of):
    table = table_of(golden / "input.fa")
    ids = table.frame_ids(0, len(table))
    frames = table.frames.to_pydict()
    assert list(zip(ids, frames["nucleotides"], strict=True)) == fasta(
        golden / "expected" / "frames_nucleotide.fa"
    )
    assert list(zip(ids, frames["protein"], strict=True)) == fasta(
        golden / "expected" / "frames_protein.faa"
    )
    assert table.frame_ids(3, 5) == ids[3:5] and table.frame_ids(5, 5) == []


def test_columns_agree_with_each_other_and_with_the_sequences(golden, fasta, table_of, tokenizers):
    table = table_of(golden / "input.fa")
    sequences = [s.upper() for _, s in fasta(golden / "input.fa")]
    assert table.frames.schema.names == frame_columns.frame_schema(tokenizers).names
    for row in table.frames.to_pylist():
        piece = sequences[row["record"]][row["start"] - 1 : row["end"]]
        if not row["dropped_codon"]:
            strand = Seq(piece) if row["frame"] < 3 else Seq(piece).reverse_complement()
            assert str(strand.translate()) == row["protein"]
            assert row["end"] - row["start"] + 1 == 3 * row["aa_length"]
        assert (
            row["aa_length"]
            == len(row["protein"])
            == row["esm2_length"] - 2
            == len(row["esm2_ids"]) - 2
        )
        assert (
            row["dnabert_s_ids"] == tokenizers["dnabert_s"].library.encode(row["nucleotides"]).ids
        )
        assert row["dnabert_s_length"] == len(row["dnabert_s_ids"])
        for part in ("protein", "nucleotide"):
            text = row["protein" if part == "protein" else "nucleotides"]
            assert row[f"{part}_key_hi"] << 64 | row[f"{part}_key_lo"] == xxhash.xxh3_128_intdigest(
                text.encode()
            )
    counts = np.bincount(table.frames["record"].to_numpy(), minlength=len(sequences))
    assert table.records["n_frames"].to_pylist() == counts.tolist()
    assert table.records["length"].to_pylist() == list(map(len, sequences))
    assert table.records["n_ambiguous"].to_pylist() == [
        sum(c not in "ACGT" for c in s) for s in sequences
    ]
    for gc, sequence in zip(table.records["gc"].to_pylist(), sequences, strict=True):
        known = sum(sequence.count(c) for c in "ACGT")
        assert (
            np.isnan(gc)
            if known == 0
            else gc == pytest.approx((sequence.count("G") + sequence.count("C")) / known)
        )


@pytest.mark.parametrize(
    "rules", [RULES, FrameRules(500, stride=130), FrameRules(500, "stretches", stride=130)]
)
def test_blocks_do_not_show(golden, table_of, tmp_path, tokenizers, monkeypatch, rules):
    """Records spread over blocks, or sharing one, give the same rows."""
    whole = table_of(golden / "input.fa", rules=rules)
    for bases, records in ((600, 3), (5_000, 1_000)):
        monkeypatch.setattr(frame_columns, "BLOCK_BASES", bases)
        monkeypatch.setattr(frame_columns, "BLOCK_RECORDS", records)
        monkeypatch.setattr(build_module, "_FLUSH", 2)
        small = build_or_open(
            find_inputs([golden / "input.fa"]), rules, tokenizers, places(tmp_path / str(bases))
        )
        assert small.frames.to_pydict() == whole.frames.to_pydict()
        assert [r | {"gc": 0} for r in small.records.to_pylist()] == [
            r | {"gc": 0} for r in whole.records.to_pylist()
        ]


def test_a_second_run_reuses_and_the_log_says_so(golden, table_of):
    lines = []
    first = table_of(golden / "input.fa", log=lines.append)
    second = table_of(golden / "input.fa", log=lines.append)
    assert ["built 149" in lines[0], "reused 149" in lines[1]] == [True, True]
    assert (first.reused, second.reused) == (False, True)
    assert first.frames.to_pydict() == second.frames.to_pydict()
    other = open_table(first.directory)
    assert (
        other.frames.to_pydict() == first.frames.to_pydict()
        and other.rules == RULES
        and other.inputs == first.inputs
    )


def test_a_table_built_ahead_is_the_same_and_reused_by_other_runs_only(
    golden, table_of, tmp_path, tokenizers
):
    """Building and opening need neither torch nor `datasets`, which take long to import."""
    program = """if True:
        import sys
        from pathlib import Path
        from virnucpro.models.encoders import read_tokenizers
        from virnucpro.sequences import frame_columns, inputs, table_cache
        place = Path(sys.argv[1])
        tokenizers = read_tokenizers({"esm2": place / "esm2", "dnabert_s": place / "dnabert_s"})
        files = inputs.find_inputs([place / "input.fa"])
        rules = frame_columns.FrameRules(500)
        table_cache.build_ahead(files, rules, tokenizers, sys.argv[2], "run 1")
        places = table_cache.TablePlaces(sys.argv[2], place)
        assert len(table_cache.build_or_open(files, rules, tokenizers, places, builder="run 1"))
        print(*{"torch", "datasets"} & set(sys.modules))
    """
    run = subprocess.run(
        [sys.executable, "-c", program, golden, tmp_path / "ahead"],
        capture_output=True,
        check=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert run.stdout == "\n"
    usual, tables, lines = table_of(golden / "input.fa"), [], []
    for builder in ("run 1", "run 2", None):
        tables.append(
            build_or_open(
                find_inputs([golden / "input.fa"]),
                RULES,
                tokenizers,
                places(tmp_path / "ahead"),
                lines.append,
                builder,
            )
        )
    assert [table.reused for table in tables] == [False, True, True]
    assert [
        "built 149 tokenized frames of 61 sequences" in lines[0],
        "reused 149" in lines[1],
        "reused 149" in lines[2],
    ] == [True] * 3
    for name in ("frames.arrow", "records.arrow"):
        assert (tables[0].directory / name).read_bytes() == (usual.directory / name).read_bytes()


def test_the_fingerprint_is_of_content_rules_and_tokenizers(
    golden, table_of, write, tmp_path, tokenizers, monkeypatch
):
    base = table_of(golden / "input.fa").fingerprint
    moved = write((golden / "input.fa").read_bytes(), "moved.fasta")
    assert table_of(moved).fingerprint == base
    assert table_of(moved).inputs[0]["source"] == "moved.fasta"
    (tmp_path / "tokenizer.json").write_bytes(
        (golden / "dnabert_s" / "tokenizer.json").read_bytes() + b"\n"
    )
    other = read_tokenizers({"esm2": golden / "esm2", "dnabert_s": tmp_path})
    different = [
        table_of(golden / "input.fa", rules=rules).fingerprint
        for rules in (
            FrameRules(300),
            FrameRules(500, "longest"),
            FrameRules(500, "stretches"),
            FrameRules(500, "open", 10),
            FrameRules(500, stride=100),
        )
    ]
    different += [table_of(write(">a\nA\n")).fingerprint, table_of(moved, moved).fingerprint]
    different += [
        build_or_open(find_inputs([moved]), RULES, other, places(tmp_path / "cache")).fingerprint
    ]
    monkeypatch.setattr(frame_table, "MOST_OF_A_CHUNK", 3)
    different += [table_of(moved, rules=FrameRules(500, "stretches")).fingerprint]
    assert len({base, *different}) == 10


@pytest.mark.parametrize("policy", ["open", "longest"])
def test_windows_come_after_a_sequences_chunks_and_are_cut_like_sequences_of_their_own(
    golden, fasta, table_of, write, policy
):
    plain = table_of(golden / "input.fa", rules=FrameRules(500, policy))
    dense = table_of(golden / "input.fa", rules=FrameRules(500, policy, stride=130))
    rows, ids = dense.frames.to_pylist(), dense.frame_ids()
    # gc may be NaN
    assert dense.records.drop_columns(["n_frames", "gc"]) == plain.records.drop_columns(
        ["n_frames", "gc"]
    )
    windows = [i for i, frame_id in enumerate(ids) if "_window_" in frame_id]
    of_chunks = sorted(set(range(len(ids))) - set(windows))
    assert [rows[i] for i in of_chunks] == plain.frames.to_pylist() and [
        ids[i] for i in of_chunks
    ] == plain.frame_ids()

    pieces = [
        (name.split()[0], k, start, sequence[start : start + 500])
        for name, sequence in fasta(golden / "input.fa")
        if len(sequence) > 1000
        for k, start in enumerate(
            [*range(0, len(sequence) - 500, 130), len(sequence) - 500], start=1
        )
    ]
    alone = table_of(
        write("".join(f">{i}\n{piece}\n" for i, (*_, piece) in enumerate(pieces))),
        rules=FrameRules(500, policy),
    )
    expected = {}
    for row in alone.frames.to_pylist():
        name, k, start, _ = pieces[row["record"]]
        frame_id = f"{name}_window_{k}{FRAME_NAMES[row['frame']]}"
        expected[frame_id] = row | {
            "start": row["start"] + start,
            "end": row["end"] + start,
            "record": 0,
            "chunk": 0,
        }
    assert len(expected) > 50
    assert {ids[i]: rows[i] | {"record": 0, "chunk": 0} for i in windows} == expected
    assert [row["record"] for row in rows] == sorted(row["record"] for row in rows)


@pytest.mark.parametrize(
    "damage",
    [
        "truncated frames",
        "truncated records",
        "no manifest",
        "broken manifest",
        "no frames",
        "flipped frames",
        "flipped records",
        "flipped manifest",
        "linked frames",
    ],
)
def test_a_damaged_table_is_built_again(golden, table_of, warned, damage):
    first = table_of(golden / "input.fa")
    expected = first.frames.to_pydict()
    what, file = damage.split()
    path = (
        first.directory
        / {"frames": "frames.arrow", "records": "records.arrow", "manifest": "manifest.json"}[file]
    )
    if what == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    elif what == "broken":
        path.write_text("{")
    elif what == "flipped":  # of equal length, and for the manifest still JSON
        content = path.read_bytes()
        place = content.index(b"149") if file == "manifest" else len(content) // 2
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    elif what == "linked":
        path.rename(path.with_suffix(".other"))
        path.symlink_to(path.with_suffix(".other"))
    else:
        path.unlink()
    with pytest.raises(StoreError):
        open_table(first.directory)
    lines = []
    again = table_of(golden / "input.fa", log=lines.append)
    assert not again.reused and "damaged" in warned[0] and "built" in lines[0]
    assert again.frames.to_pydict() == expected


def test_a_table_cut_short_under_its_reader_is_an_error_not_a_dead_process(golden, table_of):
    table = table_of(golden / "input.fa")
    token_ids = TokenColumn(table, ESM2)
    assert len(token_ids(np.arange(3))) == 3
    path = table.directory / build_module.FRAMES
    whole = path.stat().st_size
    os.truncate(path, 4096)
    for read in (lambda: token_ids(np.arange(3)), table.frame_ids, lambda: column(table, "chunk")):
        with pytest.raises(StoreError, match=f"{path.name}: has 4,096 of {whole:,} bytes"):
            read()
    path.unlink()  # what is mapped stays: nothing is wrong with a removed file
    table.check()


def test_a_table_is_opened_while_another_thread_imports_transformers(golden, table_of, monkeypatch):
    """As `run.preload` does: what is in sys.modules by then has next to nothing in it, and
    `datasets` would ask it for more.
    """
    table = table_of(golden / "input.fa")
    monkeypatch.setitem(sys.modules, "transformers", types.ModuleType("transformers"))
    again = open_table(table.directory)
    assert (
        again.frames.equals(table.frames) and again.dataset().to_dict() == table.frames.to_pydict()
    )


def test_nothing_at_all_is_a_table_without_rows(table_of, tokenizers, write):
    for name, content in {
        "empty.fa": "",
        "short.fa": ">a\nA\n",
        "alln.fa": ">n\n" + "N" * 900,
        "header.fa": ">h\n",
    }.items():
        for _ in range(2):
            table = table_of(write(content, name))
            assert len(table) == 0 and table.frame_ids() == [] and table.failures == ()
            assert table.frames.column_names == frame_columns.frame_schema(tokenizers).names
    assert table.records.to_pylist()[0]["length"] == 0


def test_bad_records_and_bad_files_fail_alone(table_of, write, tmp_path):
    good = "GCC" * 50
    mixed = write(f">g1\n{good}\n>bad\nMKVLEE\n>g2\n{good}\n>gap\nAC-GT\n", "mixed.fa")
    binary = write(b"\x7fELF\x00\x01", "binary.fa")
    cut = write(gzip.compress(f">g3\n{good}\n>g4\n{good}\n".encode())[:-8], "cut.fa.gz")
    missing = tmp_path / "missing.fa"
    table = table_of(mixed, binary, cut, missing)
    failures = [f.line() for f in table.failures]
    assert [line.split("|")[:2] for line in failures] == [
        [str(p), "read"] for p in (mixed, mixed, binary, cut, missing)
    ]
    assert (
        "record bad: " in failures[0] and "protein" in failures[0] and "record gap: " in failures[1]
    )
    assert table.records["name"].to_pylist()[:4] == ["g1", "bad", "g2", "gap"]
    assert "g3" in table.records["name"].to_pylist()
    assert [n > 0 for n in table.records["n_frames"].to_pylist()[:4]] == [True, False, True, False]
    assert [i["n_records"] for i in table.inputs] == [4, 0, len(table.records) - 4, 0]
    assert [i["sha256"] is None for i in table.inputs] == [False, False, False, True]
    assert table_of(mixed, binary, cut, missing).failures == table.failures


def test_a_file_that_appears_later_is_not_taken_from_the_cache(table_of, tmp_path, write):
    missing = tmp_path / "later.fa"
    assert len(table_of(missing).failures) == 1
    write(">a\n" + "GCC" * 9, "later.fa")
    table = table_of(missing)
    assert not table.failures and len(table)


def test_repeated_names_are_numbered_over_all_files_and_noted(table_of, write):
    a = write(">s\nGCCGCC\n>t\nGCC\n>s\nGCAGCA\n", "a.fa")
    b = write(">s\nGCU\n>s__2\nACN\n", "b.fa")
    table = table_of(a, b)
    assert table.records["name"].to_pylist() == ["s", "t", "s__3", "s__4", "s__2"]
    assert table.records["original_name"].to_pylist() == ["s", "t", "s", "s", "s__2"]
    assert table.records["notes"].to_pylist() == [
        "",
        "",
        "renamed_from=s",
        "rna;renamed_from=s",
        "ambiguous_bases",
    ]
    assert table.records["input"].to_pylist() == [0, 0, 0, 1, 1]
    assert len(set(table.frame_ids())) == len(table)
    assert not list(table.directory.glob("*.draft"))


def test_short_records_are_skipped_but_listed(table_of, write):
    table = table_of(write(">a\n" + "GCC" * 20 + "\n>b\nGCC\n"), rules=FrameRules(500, "open", 10))
    assert table.records["skipped"].to_pylist() == [False, True]
    assert set(table.frames["record"].to_pylist()) == {0}


def test_longest_policy_answers_every_long_chunk(table_of, write):
    rng = random.Random(1)
    path = write(">a\n" + "".join(rng.choices("ACGT", k=30_000)))
    table = table_of(path, rules=FrameRules(500, "longest"))
    assert table.frames["chunk"].to_numpy().tolist() == list(range(1, 61))
    assert pc.min(table.frames["aa_length"]).as_py() >= 20


@pytest.mark.parametrize("stride", [0, 130])
def test_stretches_are_as_many_as_the_sequences_length_asks_for(table_of, write, stride):
    rng, most = random.Random(2), {500: 6, 501: 3, 1000: 3, 1001: 2, 5000: 2}
    # hardly a stop
    text = "".join(
        f">{length}_{i}\n{''.join(rng.choices('ACG', k=length))}\n"
        for length in most
        for i in range(4)
    )
    table = table_of(write(text), rules=FrameRules(500, "stretches", stride=stride))
    names = table.records["name"].to_pylist()
    counts = Counter((names[row["record"]], row["chunk"]) for row in table.frames.to_pylist())
    for length, wanted in most.items():
        assert max(n for (name, _), n in counts.items() if name.startswith(f"{length}_")) == wanted


def test_a_full_disk_is_one_line_and_leaves_nothing(golden, table_of, tmp_path, monkeypatch):
    def full(self, batch):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(build_module._Stream, "write", full)
    with pytest.raises(StoreError, match=r"no space left.*--cache-dir") as caught:
        table_of(golden / "input.fa")
    assert "\n" not in str(caught.value)
    assert [p.suffix for p in (tmp_path / "cache" / "virnucpro").glob("*/*")] == [".lock"]


def test_a_dead_builders_remains_are_cleared(golden, table_of):
    first = table_of(golden / "input.fa")
    remains = first.directory.with_name(f"{first.directory.name}.building")
    first.directory.rename(remains)
    again = table_of(golden / "input.fa")
    assert not again.reused and len(again) == 149
    assert not remains.exists()


def _build_in_a_process(golden, cache, out):
    lines = []
    tokenizers = read_tokenizers({"esm2": golden / "esm2", "dnabert_s": golden / "dnabert_s"})
    table = build_or_open(
        find_inputs([golden / "input.fa"]), RULES, tokenizers, places(cache), lines.append
    )
    out.put((len(table), table.reused))


def test_processes_that_start_together_build_once(golden, tmp_path):
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    processes = [
        context.Process(target=_build_in_a_process, args=(golden, tmp_path, out)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    answers = sorted(out.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    assert answers == [(149, False), (149, True)]


def test_the_manifest_says_what_is_in_the_table(golden, table_of):
    table = table_of(golden / "input.fa")
    manifest = json.loads((table.directory / "manifest.json").read_text())
    assert (manifest["n_frames"], manifest["n_records"]) == (149, 61)
    assert manifest["inputs"][0]["sha256"] == table.inputs[0]["sha256"]


# --- what is never cached


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_passing_read_error_is_not_cached(table_of, write, tmp_path, monkeypatch, number):
    path = write(">a\n" + "GCC" * 200_000 + "\n>b\n" + "GCC" * 60)
    opened = []

    def fail(self, buffer):
        # while it is parsed, not while it is hashed before
        if len(opened) > 1 and self.tell():
            raise OSError(number, os.strerror(number))
        return io.FileIO.readinto(self, buffer)

    class File(compressed._HashedFile):
        def __init__(self, descriptor):
            opened.append(descriptor)
            super().__init__(descriptor)

        readinto = compressed._HashedFile.readinto

    with monkeypatch.context() as failing:
        failing.setattr(compressed, "_HashedFile", File)
        failing.setattr(File, "readinto", fail)
        table = table_of(path)
    assert "reading failed" in table.failures[0].reason and table.inputs[0]["sha256"] is None
    assert table.directory.parent == tmp_path / "private"
    healthy = table_of(path)
    assert not healthy.failures and len(healthy.records) == 2 and not healthy.reused
    assert healthy.fingerprint != table.fingerprint
    assert table_of(path).reused


def test_two_passing_errors_at_other_places_are_two_tables(table_of, write, tmp_path, monkeypatch):
    """Else rows of the one would be taken for those of the other."""
    path = write("".join(f">{i}\n{'GCC' * 200}\n" for i in range(9)))
    seen = set()
    for records in (2, 5):

        def iterate(self, records=records, whole=RecordReader.__iter__):
            for i, record in enumerate(whole(self)):
                if i == records:
                    raise UnreadableInput("reading failed", passing=True)
                yield record

        with monkeypatch.context() as failing:
            failing.setattr(RecordReader, "__iter__", iterate)
            table = table_of(path)
        assert len(table.records) == records
        seen.add(table.fingerprint)
    assert len(seen) == 2


def test_a_file_that_changes_between_hash_and_parsing_is_refused(table_of, write, monkeypatch):
    path = write(">a\n" + "GCC" * 60)
    whole = build_module.RecordReader.__init__

    def change(self, path):
        path.write_text(">a\n" + "GCA" * 60)  # of equal length
        os.utime(path, ns=(1, 1))
        whole(self, path)

    monkeypatch.setattr(build_module.RecordReader, "__init__", change)
    os.utime(path, ns=(1, 1))
    with pytest.raises(StoreError, match=f"{path}: the file changed while it was read"):
        table_of(path)


def test_too_little_memory_for_a_record_names_its_file(table_of, write, monkeypatch):
    path = write(">a\nACGT\n")

    def poor(*_):
        raise MemoryError

    monkeypatch.setattr(build_module, "frame_batch", poor)
    with pytest.raises(StoreError, match=f"{path}: not enough memory"):
        table_of(path)


@pytest.mark.parametrize("more", [b">b\nACGT\n", b"x" * 300_000 + gzip.compress(b">b\nACGT\n")])
def test_what_may_hold_more_records_is_listed_and_costs_none(table_of, write, more):
    table = table_of(write(gzip.compress(b">a\n" + b"GCC" * 60) + more, "x.fa.gz"))
    (failure,) = table.failures
    assert len(table) and "may hold more sequences" in failure.reason
    assert table.records["problem"].to_pylist() == [""]


def test_what_costs_no_record_is_warned_of_each_time(table_of, write, warned):
    path = write(gzip.compress(b">a\n" + b"GCC" * 60) + b"garbage", "x.fa.gz")
    for n in (1, 2):
        table = table_of(path)
        assert len(table) and not table.failures
        assert (
            warned == [f"{path}: other data follow the end of the gzip data and were ignored"] * n
        )
