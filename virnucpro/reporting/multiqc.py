"""`multiqc_mqc.json`: the calls of every input file as a bar graph in a MultiQC report.

The name and the form are MultiQC's "custom content"; MultiQC finds the file by itself when it is
run over the output directory.
"""

from __future__ import annotations

import html
import json

import numpy as np

from virnucpro.calling.answers import Answers
from virnucpro.calling.columns import CALL_WORDS, Call
from virnucpro.files import write_text
from virnucpro.reporting.outputs import Outputs

COLOURS = {
    "virus": "#0f766e",
    "ambiguous": "#d97706",
    "non-virus": "#94a3b8",
    "too_short": "#b6c2d1",
    "not_scored": "#cbd5e1",
}
ORDER = (Call.virus, Call.ambiguous, Call.non_virus, Call.too_short, Call.not_scored)


def calls_by_input(answers: Answers) -> np.ndarray:
    """Sequences of each input with each call, int64 [inputs, calls], columns as in `Call`."""
    cells = answers.records.input.astype(np.int64) * len(Call) + answers.sequences.call
    return np.bincount(cells, minlength=len(Call) * len(answers.inputs)).reshape(-1, len(Call))


def write_multiqc(outputs: Outputs, answers: Answers) -> None:
    """The file MultiQC reads; an input without sequences has its row of zeros."""
    counts = calls_by_input(answers).tolist()
    content = {
        "id": "virnucpro_calls",
        "section_name": "VirNucPro",
        "description": f"Sequences by call. Model: {html.escape(answers.model_label)}.",
        "plot_type": "bargraph",
        "pconfig": {"id": "virnucpro_calls_plot", "title": "VirNucPro: calls", "ylab": "Sequences"},
        "categories": {
            CALL_WORDS[call]: {
                "name": CALL_WORDS[call],
                "color": COLOURS[CALL_WORDS[call]],
            }
            for call in ORDER
        },
        "data": {
            source.stem: {CALL_WORDS[call]: row[call] for call in ORDER}
            for source, row in zip(answers.inputs, counts, strict=True)
        },
    }
    write_text(outputs.multiqc, [json.dumps(content, indent=1)])
