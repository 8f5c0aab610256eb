from __future__ import annotations

import pytest
from golden_answers import GOLDEN, answers_of

from virnucpro.calling.answers import Answers


@pytest.fixture(scope="session")
def golden() -> Answers:
    return answers_of(GOLDEN / "input.fa", GOLDEN / "expected" / "prediction_results.txt")
