from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import io
import lzma
import os
import random
import re
import subprocess
import sys
import time
import zlib
from contextlib import suppress

import pytest
import zstandard
from Bio.SeqIO.FastaIO import SimpleFastaParser
from hypothesis import given, settings
from hypothesis import strategies as st

from virnucpro.sequences import compressed, lines
from virnucpro.sequences.inputs import InputFile
from virnucpro.sequences.lines import RawRecord
from virnucpro.sequences.reader import (
    RecordReader,
    UnreadableInput,
    make_record,
    read_records,
)

COMPRESS = {
    "plain": bytes,
    "gz": lambda data: gzip.compress(data, 1),
    "bz2": lambda data: bz2.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
    "zst": lambda data: zstandard.ZstdCompressor().compress(data),
}


def read(path) -> list[tuple[str, bytes]]:
    return [(r.name, r.sequence) for r in read_records(InputFile(path, path.name, path.stem))]


def read_until_damage(path) -> tuple[list[str], str]:
    """The names of the intact records and the one-line reason."""
    names = []
    with pytest.raises(UnreadableInput) as caught:
        for record in read_records(InputFile(path, path.name, path.stem)):
            names.append(record.name)
    assert "\n" not in str(caught.value)
    return names, str(caught.value)


def write(tmp_path, content: bytes, name: str = "x.fa"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("form", ["fasta", "fastq"])
def test_every_compression_told_by_its_bytes_not_by_the_name(tmp_path, kind, form):
    text = {
        "fasta": b">a one\nACGT\nAC\n>b\nGG\n",
        "fastq": b"@a one\nACGTAC\n+\nIIIIII\n@b\nGG\n+b\n@I\n",
    }[form]
    assert read(write(tmp_path, COMPRESS[kind](text), "x.txt")) == [("a", b"ACGTAC"), ("b", b"GG")]


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
def test_joined_compressed_files_are_read_whole(tmp_path, kind):
    joined = COMPRESS[kind](b">a\nAC\n") + COMPRESS[kind](b">b\nGT\n")
    assert read(write(tmp_path, joined)) == [("a", b"AC"), ("b", b"GT")]


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
def test_cut_compressed_data_give_the_intact_records_and_one_line(tmp_path, kind):
    rng = random.Random(1)
    records = {f"r{i}": "".join(rng.choices("ACGT", k=1000)) for i in range(800)}
    data = COMPRESS[kind]("".join(f">{n}\n{s}\n" for n, s in records.items()).encode())
    path = write(tmp_path, data[: len(data) * 3 // 4])
    intact = []
    with pytest.raises(UnreadableInput, match=r"cut short; \d+ intact records"):
        for record in read_records(InputFile(path, "x", "x")):
            intact.append(record)
    assert 100 < len(intact) < 800  # bzip2 loses a block
    assert [(r.name, r.sequence.decode()) for r in intact] == list(records.items())[: len(intact)]


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
def test_damaged_compressed_data_fail_in_one_line(tmp_path, kind):
    rng = random.Random(1)
    data = bytearray(COMPRESS[kind](b">a\n" + bytes(rng.choices(b"ACGT", k=200_000)) + b"\n"))
    for i in range(len(data) // 2, len(data) // 2 + 400):
        data[i] ^= 0x5A
    path = write(tmp_path, bytes(data))
    try:
        records = read(path)
    except UnreadableInput as error:
        assert "\n" not in str(error)
    # zstd without a checksum may not notice; then a record must not be called clean by mistake of
    # the reader
    else:
        assert kind == "zst" and records


@pytest.mark.parametrize("at", [-8, -5, -4, -1])  # of the checksum, and of the length
def test_a_wrong_end_mark_of_gzip_costs_no_record(tmp_path, at):
    whole = gzip.compress(b">a\nACGT\n>b\nGGGG")
    data = bytearray(whole)
    data[at] ^= 1
    names, why = read_until_damage(write(tmp_path, bytes(data)))
    assert names == ["a", "b"] and "the checksum at the end of the gzip data" in why
    assert why.endswith("get the file again; 2 records read")
    more = gzip.compress(b"\n>c\nTT")  # of files that were joined
    names, why = read_until_damage(write(tmp_path, bytes(data) + more))
    assert names == ["a", "b", "c"] and "checksum" in why
    names, why = read_until_damage(write(tmp_path, whole[:at]))
    assert names == ["a", "b"] and "cut short at their very end; 2 records read" in why


@pytest.mark.parametrize("kind", ["gz", "xz", "zst"])  # bzip2 loses a block
def test_damage_in_a_small_file_costs_no_record_before_it(tmp_path, kind):
    rng = random.Random(3)
    text = "".join(f">r{i}\n{''.join(rng.choices('ACGT', k=2000))}\n" for i in range(400))
    data = bytearray(COMPRESS[kind](text.encode()))
    data[len(data) * 3 // 4 :] = rng.randbytes(len(data) // 4)
    names, why = read_until_damage(write(tmp_path, bytes(data)))
    lost = {"gz": 120, "xz": 120, "zst": 200}[kind]  # zstd: blocks of 128 kB
    assert names[: 400 - lost] == [f"r{i}" for i in range(400 - lost)]
    assert "damaged" in why and "intact record" in why


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
def test_no_damage_of_compressed_data_is_silent(tmp_path, kind):
    """Changed, cut, doubled or followed by something else: all records as they were, or a line."""
    rng = random.Random(kind)
    records = {f"r{i}": bytes(rng.choices(b"ACGT", k=300)) for i in range(20)}
    text = b"".join(b">%s\n%s\n" % (name.encode(), letters) for name, letters in records.items())
    whole = COMPRESS[kind](text)
    if kind == "zst":
        whole = zstandard.ZstdCompressor(write_checksum=True).compress(text)
    for case in range(60):
        data, at = bytearray(whole), rng.randrange(len(whole))
        if case % 4 == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif case % 4 == 1:
            del data[at:]
        elif case % 4 == 2:
            data[at : at + rng.randrange(1, 200)] = rng.randbytes(rng.randrange(300))
        else:
            data[at:at] = data[: rng.randrange(len(data))]
        path = write(tmp_path, bytes(data))
        found, why = {}, ""
        try:
            for record in read_records(InputFile(path, "x", "x")):
                found[record.name] = record.sequence
        except UnreadableInput as error:
            why = str(error)
        assert why or found.items() >= records.items(), case


@pytest.mark.parametrize("flags", range(32))
def test_every_header_of_gzip_is_skipped(tmp_path, flags):
    head = bytes([0x1F, 0x8B, 8, flags, 0, 0, 0, 0, 0, 3])
    head += b"\x05\0extra" * bool(flags & 4) + b"name\0" * bool(flags & 8)
    head += b"comment\0" * bool(flags & 16) + b"\xaa\xbb" * bool(flags & 2)
    member = head + gzip.compress(b">a\nACGT\n")[10:]
    assert gzip.decompress(member) == b">a\nACGT\n"
    assert read(write(tmp_path, member)) == [("a", b"ACGT")]
    stream = compressed._Gzip()
    out = b"".join(stream.decompress(member[i : i + 1], 100) for i in range(len(member)))
    assert out == b">a\nACGT\n" and stream.eof and stream.is_sound


def test_windows_and_old_mac_line_ends_blank_lines_lower_case_and_rna(tmp_path):
    content = b"\r\n\r\n>a desc\r\nacgt\r\n\r\nNN\r\n>b\r\nacgu uu\r\n\r\n"
    path = write(tmp_path, content)
    records = list(read_records(InputFile(path, "x", "x")))
    assert [(r.name, r.sequence, r.notes, r.problem) for r in records] == [
        ("a", b"ACGTNN", ("ambiguous_bases",), ""),
        ("b", b"ACGTTT", ("rna",), ""),
    ]
    assert read(write(tmp_path, b">a\rAC\rGT\r>b\rTT\r")) == [("a", b"ACGT"), ("b", b"TT")]
    assert read(write(tmp_path, b"\n\n@a\r\nAC\r\n+\r\nII\r\n\r\n")) == [("a", b"AC")]
    assert read(write(tmp_path, b"\xef\xbb\xbf>a\nAC")) == [("a", b"AC")]


@pytest.mark.parametrize("content", [b"", b"\n \r\n\n"])
def test_an_empty_file_has_no_record(tmp_path, content):
    assert read(write(tmp_path, content)) == []
    assert read(write(tmp_path, gzip.compress(content))) == []


def test_headers_without_sequence_and_without_name(tmp_path):
    assert read(write(tmp_path, b">a\n>\nAC\n>b\n")) == [
        ("a", b""),
        ("unnamed_2", b"AC"),
        ("b", b""),
    ]


@pytest.mark.parametrize(
    "content",
    [b"\x7fELF\x00\x00\x01", b"PK\x03\x04abc", bytes(range(128, 256)) * 9, bytes(9000)],
)
def test_a_binary_file_is_refused(tmp_path, content):
    assert "binary" in read_until_damage(write(tmp_path, content))[1]


@pytest.mark.parametrize("content", [b"LOCUS  X\n", b"ACGT\n", b"name,seq\na,ACGT\n"])
def test_other_text_is_refused(tmp_path, content):
    assert "neither FASTA" in read_until_damage(write(tmp_path, content))[1]


@pytest.mark.parametrize("tail", [b"@c\nACGT\n", b"@c\nACGT\n+\nII\n", b"@c\n"])
def test_a_cut_fastq_gives_its_intact_reads(tmp_path, tail):
    names, reason = read_until_damage(write(tmp_path, b"@a\nAC\n+\nII\n@b\nGT\n+\nII\n" + tail))
    assert names == ["a", "b"] and "2 intact records" in reason


def test_a_missing_file_and_a_directory_are_unreadable(tmp_path):
    assert "No such file" in read_until_damage(tmp_path / "no.fa")[1]
    assert "directory" in read_until_damage(tmp_path)[1]


@pytest.mark.parametrize(
    ("letters", "words"),
    [
        ("MKVLEERF*", "looks like protein"),
        ("ACGT-ACG--", "gaps"),
        ("ACGT1", "letter 1 is no nucleotide"),
        ("ACGTXX", "letter X is no nucleotide code .IUPAC"),
        ("ACGé", "outside ASCII"),
        ("ACG\x01T", r"\\x01"),
    ],
)
def test_letters_that_are_no_nucleotides_fail_the_record_alone(letters, words):
    record = make_record(RawRecord(b"a", letters.encode().upper()), 1)
    assert record.name == "a" and record.problem
    assert re.search(words, record.problem), record.problem


def test_all_iupac_letters_are_nucleotides():
    assert make_record(RawRecord(b"a b", b"ACGTRYSWKMBDHVNU"), 1).problem == ""


def test_a_protein_file_fails_each_record_with_one_reason(tmp_path):
    path = write(tmp_path, b">p1\nMKVLAARFE\n>n\nACGT\n>p2\nMEEPQSDPSV\n")
    problems = [r.problem for r in read_records(InputFile(path, "x", "x"))]
    assert ["protein" in p for p in problems] == [True, False, True]


def test_ten_megabases_and_many_tiny_records_are_quick(tmp_path):
    rng = random.Random(1)
    line = bytes(rng.choices(b"ACGTacgt", k=70)) + b"\n"
    long = write(tmp_path, b">long\n" + line * (10_000_000 // 70), "long.fa")
    tiny = write(tmp_path, b"".join(b">r%d\nACGTACGT\n" % i for i in range(100_000)), "tiny.fa")
    begin = time.process_time()
    assert len(read(long)[0][1]) == 10_000_000 // 70 * 70
    assert len(read(tiny)) == 100_000
    assert time.process_time() - begin < 5


# --- damage costs the record it hits


def answers(path) -> tuple[list[tuple[str, bytes, str]], str, list[str]]:
    """(name, sequence, problem) of every record, the failure of the file, its warnings."""
    found, failure = [], ""
    with RecordReader(path) as reader:
        try:
            for record in reader:
                found.append((record.name, record.sequence, record.problem))
        except UnreadableInput as error:
            failure = str(error)
        return found, failure, reader.warnings


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
@pytest.mark.parametrize("garbage", [b"garbage", b"\n", b"\x1f\x8b\x08 cut"[:3], b"x" * 300_000])
def test_bytes_after_compressed_data_cost_no_record(tmp_path, kind, garbage):
    path = write(tmp_path, COMPRESS[kind](b">a\nAC\n>b\nGT") + garbage)
    found, failure, warnings = answers(path)
    if kind == "gz" and garbage.startswith(b"\x1f\x8b"):  # as of a second file cut short
        assert found == [("a", b"AC", "")] and "cut short" in failure
        return
    assert found == [("a", b"AC", ""), ("b", b"GT", "")]
    assert failure == "" and len(warnings) == 1 and "follow the end" in warnings[0]


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
def test_padding_after_compressed_data_means_nothing(tmp_path, kind):
    joined = COMPRESS[kind](b">a\nAC\n") + bytes(700) + COMPRESS[kind](b">b\nGT\n") + bytes(9)
    assert answers(write(tmp_path, joined)) == ([("a", b"AC", ""), ("b", b"GT", "")], "", [])


def test_skippable_frames_of_zstd_are_skipped(tmp_path):
    skipped = b"\x53\x2a\x4d\x18\x04\0\0\0abcd"
    parts = [COMPRESS["zst"](b">a\nAC\n"), COMPRESS["zst"](b">b\nGT\n")]
    path = write(tmp_path, b"".join(skipped + part for part in parts))
    assert answers(path) == ([("a", b"AC", ""), ("b", b"GT", "")], "", [])


def test_files_joined_without_a_newline_lose_no_record(tmp_path):
    found, failure, _ = answers(write(tmp_path, b">a\nAC\nGT>b x\nACG\n>c\nAC\n"))
    assert [(name, bool(problem)) for name, _, problem in found] == [
        ("a", True),
        ("b", False),
        ("c", False),
    ]
    assert "newline is missing" in found[0][2] and "b is read" in found[0][2] and not failure
    assert found[1][1] == b"ACG"
    found, failure, _ = answers(write(tmp_path, b"@a\nAC\n+\nII@b\nACG\n+\nIII\n@c\nA\n+\nI"))
    assert [(name, s, bool(p)) for name, s, p in found] == [
        ("a", b"AC", True),
        ("b", b"ACG", False),
        ("c", b"A", False),
    ]
    assert "newline is missing" in found[0][2] and not failure


@pytest.mark.parametrize("line", [b"AC>", b"AC> b", b"A!C>b", b"MKE>b", b"AC@b", b"A>>b"])
def test_a_mark_inside_a_line_that_begins_no_header_is_a_wrong_letter(tmp_path, line):
    found, failure, _ = answers(write(tmp_path, b">a\n" + line + b"\nGT\n>c\nAC\n"))
    names = ["a", ">b", "c"] if line == b"A>>b" else ["a", "c"]
    assert [name for name, *_ in found] == names and not failure
    assert found[0][2] and found[-1] == ("c", b"AC", "")


def test_fasta_and_fastq_in_one_file(tmp_path):
    content = b">a\nAC\n@b\nGT\n+\nII\n>c\nA\nC\n@d\nG\n+\n>\n"
    assert answers(write(tmp_path, content))[0] == [
        ("a", b"AC", ""),
        ("b", b"GT", ""),
        ("c", b"AC", ""),
        ("d", b"G", ""),
    ]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("part", ["header", "sequence"])
def test_a_nul_byte_fails_its_record_alone(tmp_path, place, part):
    records = [[b">r%d x" % i, b"ACGTACGT"] for i in range(3)]
    records[place][part == "sequence"] += b"\0\0AC"
    found, failure, _ = answers(write(tmp_path, b"".join(b"\n".join(r) + b"\n" for r in records)))
    assert [bool(problem) for *_, problem in found] == [i == place for i in range(3)]
    assert [name for name, *_ in found] == ["r0", "r1", "r2"] and not failure
    assert ("NUL" if part == "header" else "x00") in found[place][2]


def test_nul_bytes_before_the_first_record_or_a_header_cost_nothing_else(tmp_path):
    found, failure, _ = answers(write(tmp_path, bytes(5000) + b">a\nAC\n"))
    assert found == [("a", b"AC", "")] and "NUL bytes" in failure
    found, failure, _ = answers(write(tmp_path, b">a\nAC" + bytes(5000) + b">b\nGT\n"))
    assert [(name, bool(problem)) for name, _, problem in found] == [("a", True), ("b", False)]


BROKEN_READS = {
    "short quality": (b"@b\nACGT\n+\nII\n", ["b"]),
    "long quality": (b"@b\nACGT\n+\nIIIIII\n", ["b"]),
    "quality like a header": (b"@b\nACGT\n+\n@I\n", ["b"]),
    "no plus": (b"@b\nACGT\n", ["b"]),
    "no quality": (b"@b\nACGT\n+\n", ["b"]),
    "stray line": (b"ACGT\n", []),
    "several lines": (b"@b\nAC\nGT\n+\nII\nIII\n", ["b"]),
}


@pytest.mark.parametrize("case", BROKEN_READS)
def test_a_broken_read_costs_no_other(tmp_path, case):
    broken, names = BROKEN_READS[case]
    content = b"@a\nAC\n+\n@I\n" + broken + b"@c\nGT\n+c\n+I\n@d\nA\nC\n+\n@\n@\n"
    found, failure, _ = answers(write(tmp_path, content))
    assert [(name, sequence) for name, sequence, problem in found if not problem] == [
        ("a", b"AC"),
        ("c", b"GT"),
        ("d", b"AC"),
    ]
    assert [name for name, _, problem in found if problem] == names
    assert bool(failure) == (case == "stray line")


def test_what_is_damaged_reads_in_linear_time(tmp_path):
    """Each of these could be quadratic."""
    for unit in (b">>>>>>>>", b"A>b\n", b"@a\nAC\n+\nI\n", b"@x\n>y\n", b"\r\n\r\n", b"@", b">a\0"):
        path = write(tmp_path, b">a\n" + unit * ((1 << 19) // len(unit)))
        begin = time.process_time()
        answers(path)
        assert time.process_time() - begin < 5, unit


# --- bounded memory


@pytest.mark.parametrize("form", [">a\n{}\n>b\nAC\n", "@a\n{}\n+\n{}\n@b\nAC\n+\nII\n"])
def test_a_record_that_is_too_long_fails_alone(tmp_path, monkeypatch, form):
    monkeypatch.setattr(lines, "MOST_BASES", 1 << 20)
    path = write(tmp_path, form.replace("{}", "A" * (3 << 20)).encode())
    found, failure, _ = answers(path)
    assert found[0][:2] == ("a", b"") and "longer than" in found[0][2]
    assert found[1] == ("b", b"AC", "") and not failure


def test_of_a_long_header_the_name_is_kept(tmp_path):
    found, failure, _ = answers(write(tmp_path, b">a " + b"x" * (9 << 20) + b"\nAC\n>b\nGT\n"))
    assert found == [("a", b"AC", ""), ("b", b"GT", "")] and not failure


@pytest.mark.parametrize("kind", ["xz", "zst"])
def test_a_window_larger_than_the_bound_fails_the_file_alone(tmp_path, kind):
    if kind == "xz":
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 29}]
        # compressing with it takes the memory; a header that asks for it does not
        small = lzma.compress(
            b">a\nAC\n", filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 20}]
        )
        assert filters[0]["dict_size"] > compressed.MOST_MEMORY
        header = bytearray(small[12:24])
        header[4] = 34  # 512 MB
        header[8:12] = zlib.crc32(bytes(header[:8])).to_bytes(4, "little")
        data = small[:12] + bytes(header) + small[24:]
    else:
        parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=30)
        compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        data = compressor.compress(b">a\nAC\n") + compressor.flush()
    found, failure, _ = answers(write(tmp_path, data))
    assert found == [] and "more than 256 MB of memory" in failure


def test_a_bomb_is_read_in_little_memory(tmp_path):
    """20 kB that hold 640 MB, by the reader in a process of its own: no more than the bound."""
    compressor = zstandard.ZstdCompressor().compressobj()
    parts = [compressor.compress(b">a\n")]
    parts += [compressor.compress(b"A" * (1 << 24)) for _ in range(40)]
    path = write(tmp_path, b"".join([*parts, compressor.flush()]), "bomb.fa.zst")
    assert path.stat().st_size < 100_000
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from virnucpro.sequences.reader import RecordReader\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "(record,) = RecordReader(Path(sys.argv[1]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, record.problem)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, path],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    kilobytes, problem = run.stdout.split(None, 1)
    assert int(kilobytes) < 700_000 and "longer than" in problem


def test_zstd_costs_linear_time(tmp_path):
    data = b">a\n" + bytes(random.Random(1).choices(b"ACGT", k=1 << 20)) * 64
    seconds = {}
    for kind in ("gz", "zst"):
        path = write(tmp_path, COMPRESS[kind](data), f"x.{kind}")
        begin = time.process_time()
        read(path)
        seconds[kind] = time.process_time() - begin
    assert seconds["zst"] < 2 * seconds["gz"] + 1, seconds


# --- the hash is that of what was parsed


@pytest.mark.parametrize("kind", COMPRESS)
def test_the_hash_is_of_the_whole_file_also_where_reading_stops_early(tmp_path, kind):
    content = COMPRESS[kind](b">a\nACGT\n" * 9)
    for data in (content, content[: len(content) // 2], b"LOCUS" + content, content + b"garbage"):
        path = write(tmp_path, data)
        with RecordReader(path) as reader:
            with suppress(UnreadableInput):
                list(reader)
            assert reader.sha256() == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_failing_disk_is_told_from_damage(tmp_path, monkeypatch, number):
    path = write(tmp_path, b">a\nAC\n" * 200_000)

    def fail(self, buffer):
        if self.tell():
            raise OSError(number, os.strerror(number))
        return io.FileIO.readinto(self, buffer)

    monkeypatch.setattr(compressed._HashedFile, "readinto", fail)
    with pytest.raises(UnreadableInput, match="reading failed") as caught:
        list(read_records(InputFile(path, "x", "x")))
    assert caught.value.passing


def test_too_little_memory_is_told_from_damage(tmp_path, monkeypatch):
    path = write(tmp_path, COMPRESS["zst"](b">a\nAC\n"))

    class Poor:
        def __init__(self, **_):
            pass

        def decompressobj(self):
            return self

        def decompress(self, data):
            raise zstandard.ZstdError("Allocation error : not enough memory")

        eof = False

    monkeypatch.setattr(zstandard, "ZstdDecompressor", Poor)
    with pytest.raises(UnreadableInput, match="not enough memory") as caught:
        list(read_records(InputFile(path, "x", "x")))
    assert caught.value.passing


# --- names


def test_what_cannot_be_printed_of_a_name_is_escaped_and_noted(tmp_path):
    titles = [b"Esp\xe8ce x", b"a\x1b[31mb", "\u2028é".encode(), b"a\\x07", "Ω".encode()]
    path = write(tmp_path, b"".join(b">%b\nAC\n" % title for title in titles))
    assert [(r.name, r.notes) for r in read_records(InputFile(path, "x", "x"))] == [
        (r"Esp\xe8ce", ("name_escaped",)),
        (r"a\x1b[31mb", ("name_escaped",)),
        ("unnamed_3" if ["é"] == [] else "é", ()),
        (r"a\x07", ()),
        ("Ω", ()),
    ]


@given(st.binary(max_size=200), st.sampled_from([b">", b"@"]))
@settings(max_examples=300, deadline=None)
def test_whatever_the_bytes_every_header_at_a_line_start_of_fasta_has_a_record(tail, mark):
    text = (mark + tail).replace(b"\r", b"\n")
    stream = io.BufferedReader(io.BytesIO(text))
    try:
        records = list(lines.raw_records(stream))
    except lines.Broken:
        return
    if mark == b">" and b"@" not in text:
        marks = sum(line.lstrip(b" \t\v\f").startswith(b">") for line in text.split(b"\n"))
        assert marks <= len(records)


@given(st.lists(st.tuples(st.text("abc", min_size=1), st.text("ACGTacgtnNuU\n ", max_size=300))))
@settings(max_examples=100, deadline=None)
def test_plain_fasta_is_what_biopython_reads(records):
    text = "".join(f">{name} x\n{letters}\n" for name, letters in records)
    found = list(lines.raw_records(io.BufferedReader(io.BytesIO(text.encode()))))
    assert [(r.title.decode(), r.sequence.decode()) for r in found] == [
        (title, "".join(letters.split()).upper())
        for title, letters in SimpleFastaParser(io.StringIO(text))
    ]
