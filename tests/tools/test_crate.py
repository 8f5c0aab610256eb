"""A finished run as an RO-Crate, read back by the library."""

from __future__ import annotations

import json
import sys

import pytest
from command import GOLDEN, GOLDEN_MODEL

from virnucpro import cli


def test_a_run_is_described_as_it_was(tmp_path, capfd, monkeypatch):
    rocrate = pytest.importorskip("rocrate.rocrate", reason="rocrate is not installed")
    odd = tmp_path / "a b.fa"
    odd.write_text(
        "".join(f">{part}" for part in (GOLDEN / "input.fa").read_text().split(">")[1:3])
    )
    out = tmp_path / "out"
    options = ["--gpus", "none", "-q", "--no-cache", *GOLDEN_MODEL]
    assert cli.run(["predict", str(odd), "-o", str(out), *options]) == 0
    capfd.readouterr()
    assert cli.run(["ro-crate", str(out)]) == 0
    assert capfd.readouterr().out.strip() == str(out / "ro-crate-metadata.json")
    crate, record = rocrate.ROCrate(out), json.loads((out / "run.json").read_text())
    described = {entity.id for entity in crate.data_entities}
    assert {"contigs.tsv", "run.json", "a%20b_merged/prediction_results.txt"} <= described
    run = crate.get("#run")
    assert crate.get("#input/a%20b")["identifier"] == f"sha256:{record['inputs'][0]['sha256']}"
    assert {entity.id for entity in run["result"]} == described
    facts = {fact["name"]: fact["value"] for fact in run["additionalProperty"]}
    assert facts["precision"].startswith(record["precision"])
    assert facts["version of torch"] == record["libraries"]["torch"]
    assert cli.run(["ro-crate", str(out)]) == 0  # again, over its own

    (out / "ro-crate-metadata.json").write_text("{}")
    assert cli.run(["ro-crate", str(out)]) == 1
    assert cli.run(["ro-crate", str(tmp_path)]) == 1
    monkeypatch.setitem(sys.modules, "rocrate.rocrate", None)
    assert cli.run(["ro-crate", str(out)]) == 64
    said = capfd.readouterr().err.splitlines()
    assert "not of this program" in said[-3] and "no finished run" in said[-2]
    assert "pip install rocrate" in said[-1]
