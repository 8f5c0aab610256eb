"""`report.html`: the result as one page that needs nothing else: no network, no other file.

Collects what the page shows; how it looks is in `report.html`, `report.css` and `report.js` beside
this module, the charts in `charts`. Names and reasons are data: the template escapes them all, and
the page's own policy forbids any script but ours.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virnucpro.calling.answers import Answers
from virnucpro.calling.columns import CALL_WORDS, Call, ChunkColumns
from virnucpro.calling.consensus import CallRules, best_first
from virnucpro.calling.regions import fewest_scored
from virnucpro.errors import escaped
from virnucpro.files import writing
from virnucpro.models.encoders import ENCODERS
from virnucpro.reporting import charts
from virnucpro.reporting.citation import CITATIONS
from virnucpro.reporting.multiqc import ORDER, calls_by_input
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.pages import asset, template
from virnucpro.reporting.reasons import reasons
from virnucpro.reporting.relatives import MOST_FAMILIES, arrows, families, relative
from virnucpro.reporting.tables import counts
from virnucpro.reporting.values import notes

# How the model that answered finds and joins the frames of a chunk.
POLICIES = {
    "open": (
        "Its frames without a stop codon are embedded twice, as DNA and as protein, and classified."
        " The chunk's score weighs the highest virus score of its frames against the highest other"
        " score. About half of all chunks of 500 bases have no such frame, and no score."
    ),
    "longest": (
        "Its longest stretch without a stop codon in six frames, of at least 20 residues, is"
        " embedded twice, as DNA and as protein, and classified."
    ),
    "stretches": (
        "Its longest stretches without a stop codon in six frames, of at least 20 residues, are"
        " embedded twice, as DNA and as protein, and classified. The chunk's score is the mean of"
        " their log-odds, weighted by the square of their lengths."
    ),
}
LIMITS_OF_ANY = (
    "Viruses unlike those it was trained on are missed.",
    "Plasmids, transposons and other mobile elements can look viral.",
    "It does not say which virus it is, whether it is complete, or whether it is active.",
)
LIMITS = {
    "mini": (
        "It is the small model: for results to publish, use 500.",
        "It is weak on sequences below 1,000 bases.",
        "Plasmids are its usual false positives; few archaea were among the groups that it was"
        " measured on.",
        "Large DNA viruses and many phage families are often missed.",
        *LIMITS_OF_ANY,
    )
}
MOST_HITS = 1000
MOST_TRACKS = 12
MOST_REGIONS = 100
MOST_REGION_TRACKS = 8
MOST_INPUTS = 100
MOST_FAILURES = 10
TRACK_CHUNKS = 3  # a sequence with fewer scored ones has no course to show

# stand elsewhere
NOT_SHOWN = ("name", "chunk", "accuracy", "calibration", "classifier", "directories", "sources")


def write_report(outputs: Outputs, answers: Answers, record: Mapping[str, Any]) -> None:
    """Write the page.

    `record`: what `run.json` says of the run; what is missing there is left out.
    """
    with writing(outputs.report) as stream:
        stream.write(render(outputs, answers, record).encode("utf-8", "backslashreplace"))


def render(outputs: Outputs, answers: Answers, record: Mapping[str, Any]) -> str:
    """The page as text."""
    from markupsafe import Markup

    style, script = asset("report.css"), asset("report.js")
    return template("report.html").render(
        **page(outputs, answers, record),
        style=Markup(style),
        script=Markup(script),
        script_hash=policy_hash(script),
        svg=Markup,
    )


def page(outputs: Outputs, answers: Answers, record: Mapping[str, Any]) -> dict[str, Any]:
    """Everything the template shows."""
    sequences, records = answers.sequences, answers.records
    calibrated = bool(np.isfinite(sequences.virus_probability).any())
    label, number = "virus probability" if calibrated else "virus score", counts(answers)
    hits = np.concatenate(
        [best_first(sequences, records), best_first(sequences, records, Call.ambiguous)]
    )
    points, failures = answers.rules.points, list(record.get("failures", ()))
    return {
        "title": answers.inputs[0].source
        if len(answers.inputs) == 1
        else f"{len(answers.inputs)} inputs",
        "model": answers.model_label,
        "number": number,
        "calibrated": calibrated,
        "label": label,
        "points": points,
        "lines": _lines(answers.rules),
        "chunk_length": answers.rules.chunk_length,
        "reasons": reasons(number),
        "charts": _charts(answers, label),
        "hits": [hit(answers, row) for row in _rows(answers, hits[:MOST_HITS])],
        "n_hits": len(hits),
        "searched": answers.evidence is not None,
        "by_both": answers.called_by == "both",
        "families": families(answers),
        "most_families": MOST_FAMILIES,
        "tracks": tracks(answers, hits),
        "track_chunks": TRACK_CHUNKS,
        "regions": regions(answers),
        "region_tracks": region_tracks(answers),
        "region_basis": region_basis(answers.rules),
        "limits": answers.limits,
        "inputs": inputs(answers),
        "failures": failures[:MOST_FAILURES],
        "n_failures": len(failures),
        "facts": facts(answers, record),
        "files": [
            row
            for row in outputs.tree()
            if "/" not in row[0] and (row[0] != outputs.failed_files.name or failures)
        ],
        "citations": CITATIONS,
        "policy": POLICIES.get(answers.rules.frame_policy, ""),
        "limits_of_model": LIMITS.get(answers.model, LIMITS_OF_ANY),
        "fdr_missing": any(np.isnan(sequences.fdr[hits[:MOST_HITS]])),
        "version": record.get("version", ""),
        "finished": record.get("finished", ""),
    }


def _charts(answers: Answers, label: str) -> list[tuple[str, str]]:
    """(heading, drawing) of each chart; `label` is that of the score that decides."""
    called = answers.sequences.called
    deciding, length = answers.sequences.deciding_score, answers.records.length
    words = np.array(CALL_WORDS)[answers.sequences.call]
    lines = _lines(answers.rules)
    histogram = charts.score_histogram(deciding[called], words[called], lines, label)
    by_length = charts.length_against_score(length[called], deciding[called], words[called], label)
    return [
        (f"{label.capitalize()} of every called sequence", histogram),
        (f"Length against {label}", by_length),
        ("Calls by length", charts.calls_by_length(length, words)),
    ]


def _lines(rules: CallRules) -> tuple[float, ...]:
    """The points of a call that are the same for every sequence."""
    points = rules.points
    by_score = points.max_fdr is None and points.false_positives is None
    return (points.virus, points.relaxed) if by_score else ()


def _rows(answers: Answers, rows: NDArray[np.int64]) -> list[tuple[int, str]]:
    """(row, notes) of the rows."""
    texts = notes(answers, rows).to_pylist() if len(rows) else []
    return list(zip(rows.tolist(), (text or "" for text in texts), strict=True))


def hit(answers: Answers, row_and_notes: tuple[int, str]) -> dict[str, Any]:
    """A line of the table of hits."""
    row, note = row_and_notes
    sequences, records = answers.sequences, answers.records
    return {
        "name": answers.names[row].as_py(),
        "source": answers.inputs[int(records.input[row])].source,
        "length": int(records.length[row]),
        "score": float(sequences.virus_score[row]),
        "probability": float(sequences.virus_probability[row]),
        "fdr": float(sequences.fdr[row]),
        "n_scored": int(sequences.n_scored[row]),
        "n_chunks": int(records.n_chunks[row]),
        "call": CALL_WORDS[sequences.call[row]],
        "note": note.replace(";", "; "),
        **relative(answers, row),
    }


def tracks(answers: Answers, hits: NDArray[np.int64]) -> list[dict[str, Any]]:
    """The course of the scores along the best hits that are long enough to have one."""
    enough = answers.sequences.n_scored[hits] >= TRACK_CHUNKS
    return [_track(answers, row, answers.chunks) for row in hits[enough][:MOST_TRACKS].tolist()]


def region_tracks(answers: Answers) -> list[dict[str, Any]]:
    """The same for the sequences with the best virus-like regions, the regions marked."""
    order = np.argsort(-answers.regions.mean_score, kind="stable")
    best = list(dict.fromkeys(answers.regions.record[order].tolist()))[:MOST_REGION_TRACKS]
    course = answers.chunks if answers.windows is None else answers.windows
    return [_track(answers, row, course) for row in best]


def region_basis(rules: CallRules) -> str:
    """How much of what a region is made of, in words."""
    fewest = fewest_scored(rules.density)
    return (
        f"{fewest} scored windows ({rules.chunk_length} bases, every {rules.stride})"
        if rules.stride
        else f"{fewest} scored chunks"
    )


def _track(answers: Answers, row: int, chunks: ChunkColumns) -> dict[str, Any]:
    read = int(answers.reads.first[row])
    first, last = np.searchsorted(chunks.record, (read, read + 1))
    regions = answers.regions
    edges = np.append(chunks.start[first:last] - 1, chunks.end[last - 1]).astype(float)
    mine = np.flatnonzero(regions.record == row)
    spans = list(zip(regions.start[mine].tolist(), regions.end[mine].tolist(), strict=True))
    scores, found = chunks.virus_score[first:last], arrows(answers, row)
    picture = charts.track(charts.Track(edges, scores, spans, found))
    return {**hit(answers, (row, "")), "picture": picture}


def regions(answers: Answers) -> list[dict[str, Any]]:
    """The best virus-like regions as lines of a table."""
    found = answers.regions
    order = np.argsort(-found.mean_score, kind="stable")[:MOST_REGIONS]
    return [
        {
            "name": answers.names[int(found.record[i])].as_py(),
            "start": int(found.start[i]),
            "end": int(found.end[i]),
            "n_chunks": int(found.n_chunks[i]),
            "n_scored": int(found.n_scored[i]),
            "mean": float(found.mean_score[i]),
            "resolution": int(found.resolution[i]),
            "call": CALL_WORDS[answers.sequences.call[found.record[i]]],
        }
        for i in order
    ]


def inputs(answers: Answers) -> list[dict[str, Any]]:
    """The calls of every input file."""
    table = calls_by_input(answers)[:MOST_INPUTS].tolist()
    return [
        {"source": source.source, "total": sum(row), "calls": [row[call] for call in ORDER]}
        for source, row in zip(answers.inputs, table, strict=False)
    ]


def facts(answers: Answers, record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What ran on what, as name and value; only what is known."""
    model, rules, choices = (
        record.get("model", {}),
        answers.rules,
        {choice["name"]: choice for choice in record.get("choices", ())},
    )
    rows: list[tuple[str, Any]] = [
        ("Version", record.get("version")),
        ("Command", _words(["virnucpro", *record.get("command", ())[1:]])),
        ("Finished", record.get("finished")),
        ("Model", answers.model_label),
        ("Model: why this one", choices.pop("model", {}).get("reason")),
        *(
            (f"Model: {name}", value)
            for name, value in _flat(model)
            if name.split()[0] not in NOT_SHOWN
        ),
        ("Chunk length", f"{rules.chunk_length} bases"),
        ("Called", rules.points.rule),
        ("Short sequences called", "yes" if rules.allow_short else "no"),
        ("Regions from windows", f"every {rules.stride} bases" if rules.stride else None),
        ("Device", record.get("device")),
        ("Processes", None if "processes" in choices else record.get("processes")),
        *(
            (f"Prevalence assumed for fdr: {source}", f"{share:.4f}")
            for source, share in list(answers.prevalence.items())[:MOST_INPUTS]
        ),
        *(_choice(choice) for choice in choices.values()),
        *(
            (f"Seconds: {stage}", f"{seconds:.1f}")
            for stage, seconds in record.get("seconds", {}).items()
        ),
    ]
    return [(name, escaped(str(value))) for name, value in rows if value not in (None, "", [])]


def _choice(choice: Mapping[str, str]) -> tuple[str, str]:
    """An automatic choice, with its reason."""
    name = choice["name"]
    return name[:1].upper() + name[1:], f"{choice['value']} ({choice['reason']})"


def _flat(model: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """The facts on a model, one a line, parts of parts as well."""
    rows = []
    for key, value in model.items():
        word = ENCODERS[key].title if key in ENCODERS else key.replace("_", " ")
        name = f"{above} {word}".strip()
        rows += _flat(value, name) if isinstance(value, Mapping) else [(name, _words(value))]
    return rows


def _words(value: Any) -> str:
    """A value of `run.json` as one line of words."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(_words(item) for item in value)
    return "" if value is None else str(value)


def policy_hash(script: str) -> str:
    """The hash by which a content security policy knows an inline script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
