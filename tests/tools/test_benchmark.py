"""The benchmark on a tiny model: every stage is measured, and what it computes with is what it
says.
"""

from __future__ import annotations

import json

import pytest

from virnucpro.errors import UsageError
from virnucpro.tools.benchmark import run_benchmark, table
from virnucpro.tools.commands import BenchmarkSettings
from virnucpro.tools.random_models import SHAPES
from virnucpro.tools.speed import forward_flops, protein_batch


def test_measures_every_stage_of_a_real_run():
    said: list[str] = []
    result = run_benchmark(
        BenchmarkSettings("tiny", "reads", frames=25, batch_tokens=1024, cpu=True), said.append
    )
    assert json.loads(json.dumps(result)) == result
    assert result["run"]["sequences"] == 25
    assert result["run"]["frames"] >= 25  # the first frame of each is open
    for stage in ("read", "plan", "dnabert_s", "esm2", "store", "classify", "total"):
        assert result["run"]["seconds"][stage] >= 0
    for name in ("dnabert_s", "esm2"):
        assert result[name]["frames_per_s"] > 0
        assert 0 < result[name]["share_of_ceiling"] < 2
    assert len({len(row) for row in table(result)}) == 1
    assert any(line.startswith("precision: fp32") for line in said)


def test_a_protein_of_500_bases_costs_962_gflop():
    """PERFORMANCE's figure for one protein of 166 residues through 3B."""
    assert forward_flops("esm2", "3B", 168, [168]) == pytest.approx(962e9, rel=0.001)
    assert SHAPES["3B"].esm2[0] == 36


def test_batches_are_full():
    batch = protein_batch("mix", 4096)
    assert sum(batch.lengths) > 4096 - 169
    assert min(batch.lengths) >= 52 and max(batch.lengths) <= 168


@pytest.mark.parametrize(
    "wrong", [{"model_shape": "15B"}, {"lengths": "1kb"}, {"against": "blast"}]
)
def test_unknown_words_are_a_usage_error(wrong):
    with pytest.raises(UsageError, match="choose one of"):
        BenchmarkSettings(**wrong)
