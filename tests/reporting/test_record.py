from __future__ import annotations

import json
import logging
import os
from dataclasses import replace

import numpy as np
import pytest

from virnucpro.errors import Failure, OutputError, StoreError
from virnucpro.reporting.log import logging_to
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.record import (
    EncoderRecord,
    InputRecord,
    ModelRecord,
    RunRecord,
    read_record,
    write_failures,
    write_record,
)
from virnucpro.settings import Choice


def a_record(**changed) -> RunRecord:
    found = {
        "identity": {"--min-length": "0", "--stride": "0", "frames": "f" * 64},
        "call": {"--min-score": "0.5"},
        "model": ModelRecord("mini", 500, "longest", sha256={"classifier": "0" * 64}),
        "inputs": (InputRecord("a.fa", "a.fa", "a", "1" * 64, 2),),
        "failures": (Failure("b.fa", "read", "it is broken"),),
        "features": "float32",
        "exit_code": 2,
        "retry": 0,
        "choices": (Choice("p", "v", "r"),),
        "embedding": {"esm2": EncoderRecord(3, 2, processes=({"encoder": 0.5},))},
    }
    return RunRecord(**{**found, **changed})


def test_run_json_is_plain_sorted_json_and_comes_back(tmp_path):
    outputs = Outputs(tmp_path)
    record = a_record(
        counts={"n": np.int64(3)},
        prevalence={"x": np.float32(0.5)},
        device="\udcff ü",
        seconds_of_embedding={"total": 1.0},
        more={"from_the_future": [1, {"a": None}], "nan": float("nan")},
    )
    write_record(outputs, record)
    data = json.loads(outputs.run_json.read_text(), parse_constant=pytest.fail)
    assert list(data) == sorted(data) and data["format"] == 1 and data["nan"] is None
    assert data["choices"] == [{"name": "p", "value": "v", "reason": "r"}]
    assert data["inputs"][0]["stem"] == "a" and data["embedding"]["esm2"]["unique"] == 3
    again = read_record(outputs.run_json)
    assert again == replace(record, more={"from_the_future": [1, {"a": None}], "nan": None})
    assert read_record(tmp_path / "none.json") is None


def wrong_records():
    """(keys, value or DROPPED, what is said)."""
    dropped = object()
    yield dropped
    for key in ("identity", "call", "model", "inputs", "failures", "features", "exit_code"):
        yield (key,), dropped, rf"{key} is missing"
    for stem in ("../x", "/tmp/x", "a/b", "a\0", "x" * 250):
        yield ("inputs", 0, "stem"), stem, "stem is not"
    yield ("format",), dropped, r"another version of this program \(format None"
    yield ("format",), 2, "another version"
    yield ("format",), True, "another version"
    yield ("inputs",), {}, "inputs is not a list"
    yield ("inputs", 0), "a.fa", r"inputs\[0\] is not an object"
    yield ("inputs", 0, "path"), 3, r"inputs\[0\].path is not text"
    yield ("exit_code",), "0", "exit_code is not a whole number"
    yield ("exit_code",), True, "exit_code is not a whole number"
    yield ("exit_code",), 256, "exit_code is not what a run writes"
    yield ("identity",), None, "identity is not an object"
    yield ("identity", "--stride"), "-1", "identity.--stride is not what"
    yield ("identity", "--min-length"), "9" * 5000, "identity.--min-length is not what"
    yield ("identity", "frames"), 1, "identity.frames is not text"
    yield ("identity", "frames"), dropped, "identity.frames is not what"
    for shard in ("", "1", "0/7", "8/7", "../x", "1/" + "9" * 5000):
        yield ("identity", "--shard"), shard, "identity.--shard is not what"
    yield ("features",), "float64", "features is not what"
    yield ("model", "chunk_length"), 0, "model.chunk_length is not what"
    yield ("model", "frame_policy"), "all", "model.frame_policy is not what"
    yield ("model", "calibration"), [], "model.calibration is not an object"
    yield ("seconds",), {"total": "1"}, "seconds.total is not a number"
    yield ("failures", 0), {"path": "x"}, r"failures\[0\].stage is missing"


DROPPED, *WRONG = wrong_records()


@pytest.mark.parametrize(("keys", "value", "said"), WRONG)
def test_a_wrong_run_json_is_one_line(tmp_path, keys, value, said):
    outputs = Outputs(tmp_path)
    write_record(outputs, a_record())
    data = json.loads(outputs.run_json.read_text())
    place = data
    for key in keys[:-1]:
        place = place[key]
    if value is DROPPED:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    outputs.run_json.write_text(json.dumps(data))
    with pytest.raises(
        StoreError, match=rf"run\.json: .*{said}.*; start over with predict --force"
    ):
        read_record(outputs.run_json)


def test_results_of_another_user_are_not_believed(tmp_path, monkeypatch):
    outputs = Outputs(tmp_path)
    write_record(outputs, a_record())
    monkeypatch.setattr("virnucpro.reporting.record.is_ours", lambda path: False)
    with pytest.raises(StoreError, match="written by another user"):
        read_record(outputs.run_json)


def test_failed_files_only_when_something_failed(tmp_path):
    outputs = Outputs(tmp_path)
    write_failures(
        outputs, [Failure("a.fa", "read", "broken |\n here"), Failure("b\udcff.fa", "read", "x")]
    )
    lines = outputs.failed_files.read_text().splitlines()
    assert (
        len(lines) == 2
        and lines[0] == "a.fa|read|broken \\x7c here"
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


class Heard(logging.Handler):
    """Keeps what it gets."""

    def __init__(self):
        super().__init__()
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


def test_a_pipe_in_the_place_of_the_log_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "run.log")
    with (
        pytest.raises(OutputError, match=r"run\.log: .*it is not a regular file; remove it"),
        logging_to(Outputs(tmp_path), logging.getLogger("virnucpro.test")),
    ):
        pass


@pytest.mark.parametrize("level", [logging.NOTSET, logging.WARNING])
def test_the_log_is_whole_in_a_program_that_logs_warnings_only(tmp_path, level):
    """And the program's own handlers get no more than before."""
    above = logging.getLogger(f"test_a_program_{level}")
    logger = above.getChild("virnucpro")
    above.propagate, mine, theirs = False, Heard(), Heard()
    above.setLevel(logging.WARNING)
    logger.setLevel(level)
    above.addHandler(theirs)
    logger.addHandler(mine)
    outputs = Outputs(tmp_path)
    with logging_to(outputs, logger):
        logger.getChild("part").info("fact")
        logger.warning("warning")
    logger.warning("after")
    assert [line.split()[-1] for line in outputs.run_log.read_text().splitlines()] == [
        "fact",
        "warning",
    ]
    assert mine.messages == theirs.messages == ["warning", "after"]
    assert (logger.level, logger.propagate, logger.handlers) == (level, True, [mine])
