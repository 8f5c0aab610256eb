from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from virnucpro.errors import Failure, OutputError
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.record import logging_to, read_run_json, write_failures, write_run_json
from virnucpro.settings import Choice


def test_run_json_is_plain_sorted_json(tmp_path):
    facts = {
        "z": Path("/a"),
        "a": {"n": np.int64(3), "x": np.float32(0.5), "nan": float("nan")},
        "c": (Choice("p", "v", "r"),),
        "s": {"b", "a"},
        "odd": "\udcff ü",
    }
    write_run_json(Outputs(tmp_path), facts)
    data = json.loads((tmp_path / "run.json").read_text(), parse_constant=pytest.fail)
    assert list(data) == sorted(data) and data["a"] == {"n": 3, "x": 0.5, "nan": None}
    assert data["c"] == [{"name": "p", "value": "v", "reason": "r"}] and data["s"] == ["a", "b"]
    assert read_run_json(tmp_path / "run.json") == data
    assert read_run_json(tmp_path / "none.json") is None


def test_failed_files_only_when_something_failed(tmp_path):
    outputs = Outputs(tmp_path)
    write_failures(
        outputs, [Failure("a.fa", "read", "broken |\n here"), Failure("b\udcff.fa", "read", "x")]
    )
    lines = outputs.failed_files.read_text().splitlines()
    assert (
        len(lines) == 2
        and lines[0] == "a.fa|read|broken / here"
        and all(line.count("|") == 2 for line in lines)
    )
    write_failures(outputs, [])
    assert not outputs.failed_files.exists()


def test_log_goes_to_the_file_while_the_block_runs(tmp_path):
    logger = logging.getLogger("virnucpro.test_run_record")
    logger.setLevel(logging.DEBUG)
    outputs = Outputs(tmp_path)
    for verbose in (False, True):
        with logging_to(outputs, logger, verbose):
            logger.debug("detail")
            logger.info("fact")
        logger.info("outside")
    words = [line.split()[-1] for line in outputs.run_log.read_text().splitlines()]
    assert words == ["fact", "detail", "fact"] and not logger.handlers


def test_a_prepared_link_in_the_place_of_the_log_is_not_followed(tmp_path):
    (tmp_path / "theirs").write_text("precious")
    outputs = Outputs(tmp_path)
    outputs.run_log.symlink_to(tmp_path / "theirs")
    with (
        pytest.raises(OutputError, match=r"run\.log: cannot be written .*links are not followed"),
        logging_to(outputs, logging.getLogger("virnucpro.test_run_record")),
    ):
        pass
    assert (tmp_path / "theirs").read_text() == "precious"
