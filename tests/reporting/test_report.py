"""The report: its numbers are the tables' numbers, names are data, it is small, and it works in a
real browser.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import browser
import numpy as np
import pyarrow as pa
import pytest

from virnucpro.calling.answers import assemble, frame_columns
from virnucpro.calling.calibration import Calibration
from virnucpro.calling.consensus import CallRules, best_first
from virnucpro.calling.evidence import EvidenceColumns, HitColumns
from virnucpro.homology.evidence import weigh
from virnucpro.homology.reference import ProteinLabel, Reference
from virnucpro.homology.search import Hits
from virnucpro.homology.stretches import Proteins
from virnucpro.reporting import charts
from virnucpro.reporting.multiqc import write_multiqc
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.report import render, write_report
from virnucpro.reporting.tables import counts

EVIL = [
    "<script>document.title='broken'</script>",
    "</script><script>document.title='broken'</script>",
    '"><img/src=x/onerror=alert(1)>',
    "{{7*7}}{%raw%}",
    "a&lt;b",
    "'quoted'\"",
    "x" * 5000,
    "ünïcödé-名前",
]
RECORD = {
    "version": "9.9",
    "command": ["virnucpro", "predict", "<b>in.fa</b>"],
    "model": {"name": "mini", "licence": "MIT"},
    "failures": [
        {
            "path": "<i>bad.fa</i>",
            "stage": "read",
            "reason": "</style><script>document.title='broken'</script>",
        }
    ],
    "choices": [{"name": "precision", "value": "fp32", "reason": "CPU"}],
    "seconds": {"read": 1.5},
}


@pytest.fixture(scope="module")
def evil(golden):
    """The golden answers with names from the other side, the best hits first in line."""
    order = best_first(golden.sequences, golden.records)
    names = golden.names.to_pylist()
    for row, name in zip(order.tolist(), EVIL, strict=False):
        names[row] = name
    return dataclasses.replace(golden, names=pa.array(names, pa.large_string()))


def with_evidence(answers, names=("<b>A virus</b>", "a cell")):
    """The answers with hits: every sequence with two viral proteins, one over the other, and one of
    bacteria on the other strand.
    """
    labels = [
        ProteinLabel("v1", names[0], "Aviridae", "", "viral"),
        ProteinLabel("v2", names[0], "", "", "viral"),
        ProteinLabel("c1", names[1], "", "", "bacteria"),
    ]
    reference = Reference(Proteins.join([b"M"] * 3), np.zeros(0, bool), labels, "")
    n, length = len(answers.records), answers.records.length
    record, one = np.repeat(np.arange(n), 3), np.tile([0, 1, 2], n)
    columns = {
        "start": np.where(one == 2, length[record] // 2, 1),
        "end": np.where(one == 2, length[record], length[record] // 2),
        "reverse": one == 2,
        "bits": np.tile([90.0, 80.0, 70.0], n),
    }
    hits = HitColumns(
        record,
        columns["start"],
        columns["end"],
        columns["reverse"],
        one.astype(np.int32),
        np.full(3 * n, 0.5),
        np.full(3 * n, 60, np.int32),
        columns["bits"],
        np.full(3 * n, 1e-9),
    )
    found = weigh(
        Hits(
            record.astype(np.int32),
            hits.protein,
            hits.start - 1,
            hits.end,
            hits.reverse,
            np.full(3 * n, 30, np.int32),
            hits.columns,
            hits.bits,
            hits.evalue,
        ),
        length,
        reference,
    )
    columns = EvidenceColumns(reference, found, np.zeros(n), ["direct_repeat_30"] * n, hits)
    return dataclasses.replace(answers, evidence=columns)


class Elements(HTMLParser):
    """Every start tag, and the text of the elements with an id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.by_id: dict[str, str] = {}
        self._open: str | None = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open = dict(attrs).get("id")

    def handle_data(self, data):
        if self._open:
            self.by_id.setdefault(self._open, data)
            self._open = None


def test_counts_are_those_of_the_tables(tmp_path, golden):
    elements = Elements(render(Outputs(tmp_path), golden, RECORD))
    number = counts(golden)
    for key in ("virus", "ambiguous", "non_virus", "too_short", "not_scored", "sequences"):
        assert elements.by_id[f"n-{key}"] == f"{number[key]:,}"


def test_the_page_explains_the_model_and_the_columns(tmp_path, golden):
    text = " ".join(render(Outputs(tmp_path), golden, RECORD).split())
    assert "frames without a stop codon are embedded" in text and "<dt>score</dt>" in text
    assert "What this model does not know" in text and "<dt>fdr</dt>" not in text
    small = dataclasses.replace(
        golden,
        model="mini",
        rules=dataclasses.replace(golden.rules, frame_policy="stretches"),
        sequences=dataclasses.replace(
            golden.sequences, virus_probability=golden.sequences.virus_score
        ),
    )
    text = " ".join(render(Outputs(tmp_path), small, RECORD).split())
    assert "mean of their log-odds" in text and "weak on sequences below" in text
    assert "NA: an input needs 1,000 sequences" in text


def test_known_proteins_stand_in_the_table_along_the_tracks_and_by_family(tmp_path, golden):
    text = render(Outputs(tmp_path), with_evidence(golden), RECORD)
    assert "closest known protein" not in render(Outputs(tmp_path), golden, RECORD)
    assert "&lt;b&gt;A virus&lt;/b&gt; (Aviridae), 50 %" in text and "<b>A virus" not in text
    assert '<td class="num" data-v="1">2 / 1</td>' in text
    assert "hits: 2 viral, 1 other (mostly bacteria) · direct repeat 30 bases" in text
    # of two that overlap the better one is drawn
    assert "along the sequence, 1 hits with viral and 1 with other proteins" in text
    number = counts(golden)["virus"]
    assert f'<td class="name">Aviridae</td><td class="num">{number}</td>' in text
    assert "the closest known protein, not taxonomy" in text


def test_arrows_point_along_the_gene_and_can_be_seen():
    edges, scores = np.array([0.0, 5000.0, 10_000.0]), np.array([0.9, 0.1])
    forward, backward = (charts.Arrow(1000, 3000, reverse, True) for reverse in (False, True))
    tip = {}
    for arrow in (forward, backward, charts.Arrow(9000, 9001, False, False)):
        picture = charts.track(charts.Track(edges, scores, (), [arrow]))
        drawn = [
            [float(x) for x, _ in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path)]
            for path in re.findall(r'<path d="(M [^"]*z)', picture.replace("\n", " "))
        ]
        corners = next(path for path in drawn if len(path) == 7)
        tip[arrow] = corners[3]
        assert max(corners) - min(corners) > 2  # points of 1/72 inch
    assert tip[forward] > tip[backward]


def test_one_sequence_has_an_axis_and_the_colour_of_its_call():
    picture = charts.length_against_score(
        np.array([4000]), np.array([0.9]), np.array(["virus"]), ""
    )
    assert ">3,000<" in picture and ">10,000<" in picture and "var(--virus)" in picture


def test_names_and_reasons_are_data(tmp_path, evil):
    text = render(Outputs(tmp_path), evil, RECORD)
    elements = Elements(text)
    assert [tag for tag, _ in elements.tags].count("script") == 1
    assert not [tag for tag, _ in elements.tags if tag in ("img", "i") and "class" not in dict(_)]
    assert "{{7*7}}{%raw%}" in text and "&lt;script&gt;" in text and "x" * 201 not in text


def test_the_page_refers_to_nothing_but_citations(tmp_path, golden):
    elements = Elements(render(Outputs(tmp_path), golden, RECORD))
    for tag, attributes in elements.tags:
        assert not attributes.keys() & {"src", "srcset", "data"}
        if "href" in attributes:
            assert tag == "a" and attributes["href"].startswith("https://")
        if "xlink:href" in attributes:
            assert attributes["xlink:href"].startswith("#")


def test_quiet_text_has_contrast_and_what_scrolls_can_be_reached_by_keys(tmp_path, golden):
    """4.5 to 1 on both grounds of both themes (WCAG 1.4.3), as axe asks."""

    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    text = render(Outputs(tmp_path), golden, RECORD)
    for theme in re.findall(r":root \{(.*?)\}", text, re.S):
        colour = dict(re.findall(r"--([\w-]+): (#\w{6})", theme))
        for ground in ("page", "panel"):
            for words in ("quiet", "text", "virus"):
                pair = sorted(light(colour[name]) + 0.05 for name in (ground, words))
                assert pair[1] / pair[0] >= 4.5, (ground, words)
    for page in ("report.html", "samples.html"):
        template = (Path(charts.__file__).parent / page).read_text()
        scrolled = [a for tag, a in Elements(template).tags if a.get("class") == "scroll"]
        assert scrolled and all(a.get("tabindex") == "0" and a.get("aria-label") for a in scrolled)


def test_the_same_answers_give_the_same_bytes(tmp_path, golden):
    assert render(Outputs(tmp_path), golden, RECORD) == render(Outputs(tmp_path), golden, RECORD)


@pytest.mark.parametrize("rows", [0, 1])
def test_nothing_to_show_is_a_page_too(tmp_path, rows):
    records = pa.table(
        {
            "input": np.zeros(rows, np.int32),
            "name": pa.array(["a"] * rows, pa.string()),
            "length": np.full(rows, 800),
            "gc": np.full(rows, np.nan),
            "n_chunks": np.full(rows, 2, np.int32),
            "n_ambiguous": np.zeros(rows, np.int64),
            "notes": pa.array([""] * rows, pa.string()),
            "problem": pa.array([""] * rows, pa.string()),
            "skipped": np.zeros(rows, bool),
        }
    )
    kinds = {
        "record": np.int64,
        "chunk": np.int32,
        "frame": np.int8,
        "start": np.int64,
        "end": np.int64,
        "aa_length": np.int32,
    }
    frames = pa.table({name: np.zeros(0, kind) for name, kind in kinds.items()})
    inputs = [{"path": "a.fa", "source": "a.fa", "stem": "a"}]
    answers = assemble(
        inputs,
        records,
        frame_columns(frames, np.zeros((0, 2), np.float32), np.zeros(0, bool)),
        CallRules(500),
        "mini",
    )
    elements = Elements(render(Outputs(tmp_path), answers, {}))
    assert elements.by_id["n-sequences"] == str(rows)


def test_regions_of_a_stride_rest_on_windows_and_nothing_else_does(tmp_path):
    length, n_chunks, n_windows = 10_000, 20, 96
    records = pa.table(
        {
            "input": np.zeros(1, np.int32),
            "name": ["a"],
            "length": [length],
            "gc": [0.5],
            "n_chunks": np.array([n_chunks], np.int32),
            "n_ambiguous": [0],
            "notes": [""],
            "problem": [""],
            "skipped": [False],
        }
    )
    number = np.arange(1, n_chunks + n_windows + 1)
    window = number - n_chunks  # from 1
    viral = (window > 40) & (window <= 76)
    frames = pa.table(
        {
            "record": np.zeros(len(number), np.int64),
            "chunk": number.astype(np.int32),
            "frame": np.zeros(len(number), np.int8),
            "start": number,
            "end": number + 99,
            "aa_length": np.full(len(number), 33, np.int32),
        }
    )
    scores = np.where(viral, 0.95, 0.05).astype(np.float32)
    inputs = [{"path": "a.fa", "source": "a.fa", "stem": "a"}]
    answers = assemble(
        inputs,
        records,
        frame_columns(frames, np.column_stack([1 - scores, scores]), np.zeros(len(number), bool)),
        CallRules(500, stride=100),
        "mini",
    )
    assert (len(answers.frames), len(answers.chunks), len(answers.windows)) == (
        n_chunks,
        n_chunks,
        n_windows,
    )
    assert (
        answers.sequences.max_chunk_score == pytest.approx(0.05)
        and counts(answers)["note_contains_virus_like_region"] == 1
    )
    region = answers.regions
    assert (region.start.tolist(), region.end.tolist(), region.n_scored.tolist()) == (
        [4001],
        [8000],
        [36],
    )
    assert "at least 11 scored windows (500 bases, every 100)" in render(
        Outputs(tmp_path), answers, {}
    )


def test_a_hundred_thousand_sequences_stay_under_3_mb(tmp_path):
    path = Path(__file__).parents[2] / "benchmarks" / "tables.py"
    spec = importlib.util.spec_from_file_location("benchmark_tables", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    fasta, records, frames, scores = module.made_up(100_000, tmp_path)
    fasta.unlink()
    calibration = Calibration(("intercept", "logit_score"), (0.0, 1.0))
    inputs = [{"path": fasta, "source": "input.fna", "stem": "input"}]
    answers = assemble(
        inputs,
        records,
        frame_columns(frames, scores, np.zeros(len(frames), bool)),
        CallRules(500),
        "mini",
        calibration,
    )
    for shown in (answers, with_evidence(answers)):
        write_report(Outputs(tmp_path), shown, RECORD)
        assert (tmp_path / "report.html").stat().st_size < 3_000_000


@pytest.mark.skipif(bool(browser.MISSING), reason=browser.MISSING)
def test_in_a_real_browser(tmp_path, evil):
    outputs = Outputs(tmp_path)
    write_report(outputs, evil, RECORD)
    with browser.browser(tmp_path / "profile") as page:
        page.open(outputs.report)
        assert page.run("return document.title") == "VirNucPro: input.fa"
        assert page.run("return performance.getEntriesByType('resource').length") == 0
        names = (
            "return [...document.querySelectorAll('#hits tbody tr:not([hidden])"
            " td:first-child')].map(c => c.textContent)"
        )
        before = page.run(names)
        assert before[: len(EVIL)] == [
            name if len(name) <= 200 else name[:199] + "…" for name in EVIL
        ]

        click = "document.querySelectorAll('#hits thead button')[%d].click();"
        number = "parseFloat(r.cells[%d].dataset.v ?? r.cells[%d].textContent)"
        column = "return [...document.querySelectorAll('#hits tbody tr')].map(r => " + number + ")"
        for index in (1, 2):  # length, score
            page.run(click % index)
            assert page.run(column % (index, index)) == sorted(
                page.run(column % (index, index)), reverse=True
            )
            page.run(click % index)
            assert page.run(column % (index, index)) == sorted(page.run(column % (index, index)))
        page.run(click % 0)
        assert [name.lower() for name in page.run(names)] == sorted(name.lower() for name in before)

        page.run(
            "const s = document.getElementById('search'); s.value = 'MIX3 virus';"
            " s.dispatchEvent(new Event('input'))"
        )
        found = page.run(names)
        assert found and all("mix3" in name for name in found)
        assert (
            page.run("return document.getElementById('shown').textContent") == f"{len(found)} shown"
        )
        assert page.run(
            "return [...document.querySelectorAll('figure svg')].every(s =>"
            " s.getBoundingClientRect().height > 100)"
        )
        assert page.log() == []


def test_multiqc_file_has_a_row_an_input(tmp_path, golden):
    outputs = Outputs(tmp_path)
    write_multiqc(outputs, golden)
    data = json.loads(outputs.multiqc.read_text())["data"]
    number = counts(golden)
    assert data == {
        "input": {
            "virus": number["virus"],
            "ambiguous": number["ambiguous"],
            "non-virus": number["non_virus"],
            "too_short": number["too_short"],
            "not_scored": number["not_scored"],
        }
    }


@pytest.mark.skipif(not shutil.which("multiqc"), reason="MultiQC is not installed here")
def test_multiqc_reads_it(tmp_path, golden):
    write_multiqc(Outputs(tmp_path), golden)
    done = subprocess.run(
        ["multiqc", "--no-version-check", "-o", "out", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = [
        path.read_text()
        for path in (tmp_path / "out" / "multiqc_data").glob("*virnucpro_calls*.txt")
    ]
    assert found and re.search(rf"^input\t{counts(golden)['virus']}", found[0], re.M)


def test_control_characters_of_the_command_are_escaped(golden, tmp_path):
    page = render(Outputs(tmp_path), golden, {"command": ["virnucpro", "a\033[31mb.fa"]})
    assert "\033" not in page and r"a\x1b[31mb.fa" in page
