"""Generated input files, good and broken, through reader, table and all outputs: no sequence is
ever missing, all counts agree.

The scores are random (nothing is embedded here). VIRNUCPRO_FUZZ_FILES=10000 runs the long form.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import re
from pathlib import Path

import numpy as np
import pytest
from golden_answers import GOLDEN
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from virnucpro.calling.answers import call as assemble_answers
from virnucpro.calling.calibration import Calibration
from virnucpro.models.encoders import read_tokenizers
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.record import ModelRecord, RunRecord, call_identity, read_record
from virnucpro.reporting.write import write_results
from virnucpro.run.timing import Clock
from virnucpro.sequences.frame_columns import FrameRules
from virnucpro.sequences.inputs import find_inputs
from virnucpro.sequences.table_cache import TablePlaces, build_or_open
from virnucpro.settings import CallPoints, CallSettings

FILES = int(os.environ.get("VIRNUCPRO_FUZZ_FILES", 120))
FILES_AT_ONCE = 40
CALIBRATION = Calibration(("intercept", "logit_score", "log_length"), (0.1, 1.0, 0.2))

odd = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12)
names = st.one_of(st.sampled_from(["a", "a__2", "seq_chunk_1", "<b>&amp;", '"q"', "x|y"]), odd)
letters = st.one_of(
    st.builds(
        lambda n, seed: bytes(
            np.random.default_rng(seed).choice(list(b"ACGT"), n).astype("u1")
        ).decode(),
        st.integers(0, 1800),
        st.integers(0, 9999),
    ),
    st.text("ACGTacgtNnRYU", max_size=700),
    st.sampled_from(["", "A", "N" * 600, "ATG" * 220, "MKVLAAGIVGLCAK", "ACG-T", "*"]),
)
records = st.lists(st.tuples(names, letters), max_size=5)


def fasta(content: list, end: str, width: int) -> str:
    lines = []
    for name, sequence in content:
        lines += [
            f">{name} some words",
            *(sequence[i : i + width] for i in range(0, len(sequence), width)),
        ]
    return end.join(lines) + (end if lines else "")


def fastq(content: list) -> str:
    return "".join(f"@{name}\n{sequence}\n+\n{'I' * len(sequence)}\n" for name, sequence in content)


@st.composite
def files(draw) -> tuple[bytes, list | None]:
    """A file's bytes, and the names of its records; None where it is broken from the start."""
    kind = draw(st.sampled_from(["fasta"] * 6 + ["fastq"] * 2 + ["binary", "text"]))
    if kind == "binary":
        return b"\x89PNG\r\n\x00" + draw(st.binary(max_size=50)), None
    if kind == "text":
        return b"these are no sequences\n", None
    content = draw(records)
    if kind == "fastq":
        content = [(name, sequence) for name, sequence in content if sequence]
        text = fastq(content)
    else:
        text = fasta(
            content,
            draw(st.sampled_from(["\n", "\r\n", "\n\n"])),
            draw(st.sampled_from([60, 70, 10_000])),
        )
    pack = draw(st.sampled_from([bytes, bytes, gzip.compress, bz2.compress, lzma.compress]))
    return pack(text.encode()), [name for name, _ in content]


def rows(path: Path) -> list[dict[str, str]]:
    head, *lines = path.read_text().removesuffix("\n").split("\n")
    return [dict(zip(head.split("\t"), line.split("\t"), strict=True)) for line in lines]


@pytest.fixture(scope="module")
def tokenizers():
    return read_tokenizers({"esm2": GOLDEN / "esm2", "dnabert_s": GOLDEN / "dnabert_s"})


@pytest.mark.parametrize("stride", [0, 130])
@pytest.mark.parametrize("policy", ["open", "longest", "stretches"])
@settings(
    max_examples=max(FILES // FILES_AT_ONCE // 6, 1),
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(
    made=st.lists(files(), min_size=FILES_AT_ONCE, max_size=FILES_AT_ONCE),
    seed=st.integers(0, 2**32 - 1),
    min_length=st.sampled_from([0, 0, 300]),
    calibrated=st.booleans(),
    call=st.builds(
        CallSettings,
        st.builds(CallPoints, st.sampled_from([0.3, 0.5, 0.8])),
        st.booleans(),
        st.sampled_from([None, 0.1]),
    ),
)
def test_no_sequence_is_missing_and_counts_agree(
    tmp_path_factory, tokenizers, made, seed, min_length, calibrated, policy, stride, call
):
    folder = tmp_path_factory.mktemp("fuzz")
    paths = [folder / f"in{i}.fa" for i in range(len(made))]
    for path, (content, _) in zip(paths, made, strict=True):
        path.write_bytes(content)
    inputs = find_inputs(paths)
    places = TablePlaces(folder / "cache", folder / "private")
    table = build_or_open(inputs, FrameRules(500, policy, min_length, stride), tokenizers, places)
    rng = np.random.default_rng(seed)
    virus = rng.random(len(table)).astype(np.float32)
    outputs = Outputs(folder / "out", tuple(file.stem for file in inputs))
    outputs.prepare()
    calibration = CALIBRATION if calibrated else None
    scores, lost = np.column_stack([1 - virus, virus]), rng.random(len(table)) < 0.1
    answers = assemble_answers(table, scores, lost, call, "mini", calibration)
    record = RunRecord(
        identity={"frames": "0" * 64},
        call=call_identity(call),
        model=ModelRecord("mini", 500, policy),
        inputs=(),
        failures=table.failures,
        features="none",
        exit_code=0,
        retry=0,
    )
    write_results(outputs, answers, record, Clock())
    assert read_record(outputs.run_json).failures == tuple(table.failures)

    contigs = rows(outputs.contigs)
    expected = [
        (file.source, name)
        for file, (_, content) in zip(inputs, made, strict=True)
        for name in content or ()
    ]
    assert len(contigs) == len(expected)
    for row, (source, name) in zip(contigs, expected, strict=True):
        assert row["source"] == source
        assert row["seq_name"] == name or f"renamed_from={name}" in row["note"]
    assert len({row["seq_name"] for row in contigs}) == len(contigs)

    broken = {str(path) for path, (_, content) in zip(paths, made, strict=True) if content is None}
    listed = outputs.failed_files.read_text().splitlines() if outputs.failed_files.exists() else []
    assert broken == {
        line.split("|")[0] for line in listed if "|read|" in line and line.split("|")[0] in broken
    }

    counts = json.loads(outputs.run_json.read_text())["counts"]
    page = outputs.report.read_text()
    shown = {
        key: int(n.replace(",", "")) for key, n in re.findall(r'<b id="n-(\w+)">([\d,]+)</b>', page)
    }
    bars = json.loads(outputs.multiqc.read_text())["data"]
    chunks, frames = rows(outputs.chunks), rows(outputs.frames)
    for word in ("virus", "non-virus", "ambiguous", "too_short", "not_scored"):
        key = word.replace("-", "_")
        number = sum(row["call"] == word for row in contigs)
        assert number == counts[key] == shown[key] == sum(bar[word] for bar in bars.values())
    assert len(contigs) == counts["sequences"] == shown["sequences"]
    assert sum(row["n_scored"] != "0" for row in contigs) == counts["scored"] == shown["scored"]
    assert len(chunks) == counts["chunks"] == sum(int(row["n_chunks"]) for row in contigs)
    of_chunks = [
        frame["chunk"] <= table.records["n_chunks"][frame["record"]].as_py()
        for frame in table.frames.select(["record", "chunk"]).to_pylist()
    ]
    assert len(frames) == counts["frames"] == sum(of_chunks) and (stride or all(of_chunks))
    assert (
        sum(row["status"] == "scored" for row in chunks)
        == counts["chunks_scored"]
        == sum(int(row["n_scored"]) for row in contigs)
    )
    assert [row["seq_name"] for row in rows(outputs.virus_summary)] == re.findall(
        r"^>(\S+)$", outputs.virus_fasta.read_text(), re.M
    )
    for row in contigs:
        assert row["call"] != "not_scored" or row["note"] != "NA"
