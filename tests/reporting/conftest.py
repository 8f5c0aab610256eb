from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tests import the helpers beside them
from golden_answers import GOLDEN, answers_of

from virnucpro.reporting.answers import Answers


@pytest.fixture(scope="session")
def golden() -> Answers:
    return answers_of(GOLDEN / "input.fa", GOLDEN / "expected" / "prediction_results.txt")
