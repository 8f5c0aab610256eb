from __future__ import annotations

from pathlib import Path

import pytest
from Bio.SeqIO.FastaIO import SimpleFastaParser

from virnucpro.models.encoders import read_tokenizers
from virnucpro.sequences.tokens import Tokenizers

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def tokenizers() -> Tokenizers:
    return read_tokenizers({"esm2": GOLDEN / "esm2", "dnabert_s": GOLDEN / "dnabert_s"})


@pytest.fixture(scope="session")
def fasta():
    """path -> [(title, sequence)], by Biopython."""

    def parse(path: Path) -> list[tuple[str, str]]:
        with open(path) as file:
            return list(SimpleFastaParser(file))

    return parse
