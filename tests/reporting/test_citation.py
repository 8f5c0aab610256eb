"""Every work has its text and its BibTeX entry, and both name the same address."""

from __future__ import annotations

import re

from virnucpro.reporting import citation


def test_text_and_bibtex_name_the_same_works():
    text, bibtex = citation.text(), citation.bibtex()
    assert re.findall(r"^@\w+\{(\w+),", bibtex, re.M) == [
        "virnucpro",
        "esm2",
        "dnabert_s",
        "accelerate",
    ]
    assert text.count("http") == 4
    for mark in (
        "10.1093/bib/bbaf224",
        "10.1126/science.ade2574",
        "2402.08777",
        "github.com/huggingface/accelerate",
    ):
        assert mark in text and mark in bibtex
    assert bibtex.count("{") == bibtex.count("}")
