"""What a new start may do in a directory, and one run at a time there."""

from __future__ import annotations

import logging

import pytest

from virnucpro.errors import OutputError, StoreError
from virnucpro.run.identity import difference, is_finished
from virnucpro.run.state import WorkPlace

CALL = {"--min-score": "0.5"}
RUN = {"input a.fa": "1" * 64, "--precision": "fp32", "frames": "2" * 64}
OTHER = {"input a.fa": "3" * 64, "--precision": "fp32", "frames": "4" * 64}
DONE = {**RUN, **CALL}


@pytest.mark.parametrize(
    ("unfinished", "finished", "complete", "expected"),
    [
        (None, None, False, False),  # an empty directory
        (RUN, None, False, False),  # to be continued
        (None, DONE, True, True),
        (None, DONE, False, False),  # rows failed, or the features are gone: try again
        (RUN, DONE, True, True),  # killed between its last result and its tidying up
        (RUN, DONE, False, False),
        (RUN, {**RUN, "--min-score": "0.8"}, False, False),  # begun again with other thresholds
    ],
)
def test_the_same_run_goes_on_or_has_finished(tmp_path, unfinished, finished, complete, expected):
    assert is_finished(tmp_path, RUN, CALL, unfinished, finished, complete) is expected


@pytest.mark.parametrize(
    ("unfinished", "finished"), [(OTHER, None), (None, {**OTHER, **CALL}), (OTHER, DONE)]
)
def test_another_run_is_refused_by_what_differs(tmp_path, unfinished, finished):
    with pytest.raises(
        StoreError, match=r"holds another run \(input a.fa has other content\); --force starts over"
    ):
        is_finished(tmp_path, RUN, CALL, unfinished, finished, False)


UNREAD = {**RUN, "input b.fa": "unreadable"}
READ = {**RUN, "input b.fa": "5" * 64, "frames": "6" * 64}


@pytest.mark.parametrize(("unfinished", "finished"), [(UNREAD, None), (None, {**UNREAD, **CALL})])
def test_an_input_that_can_be_read_now_is_answered_without_force(tmp_path, unfinished, finished):
    assert is_finished(tmp_path, READ, CALL, unfinished, finished, True) is False
    other = {**READ, "--precision": "bf16"}
    with pytest.raises(StoreError, match=r"holds another run \(--precision was fp32, now bf16\)"):
        is_finished(tmp_path, other, CALL, unfinished, finished, True)


@pytest.mark.parametrize(("unfinished", "finished"), [(READ, None), (None, {**READ, **CALL})])
def test_results_stay_where_an_input_cannot_be_read_any_more(tmp_path, unfinished, finished):
    with pytest.raises(
        StoreError, match=r"with input b\.fa, which cannot be read now; run the same"
    ):
        is_finished(tmp_path, UNREAD, CALL, unfinished, finished, True)


def test_other_thresholds_are_for_summarize(tmp_path):
    with pytest.raises(StoreError, match=r"--min-score was 0.8, now 0.5\); `virnucpro summarize`"):
        is_finished(tmp_path, RUN, CALL, None, {**RUN, "--min-score": "0.8"}, True)


def test_differences_in_words():
    assert difference(RUN, {**RUN, "--precision": "bf16"}) == "--precision was fp32, now bf16"
    assert (
        difference(RUN, {**RUN, "input b.fa": "5" * 64, "frames": "6" * 64})
        == "input b.fa was not there before"
    )
    # the order of the inputs, say
    assert difference({**RUN, "frames": "7" * 64}, RUN) == "frames has other content"
    many = {f"input {n}.fa": str(n) * 64 for n in range(9)}
    assert difference({}, many).endswith("and 6 more")


def test_a_directory_is_one_runs_at_a_time(tmp_path):
    place = WorkPlace(tmp_path / "out")
    with (
        place.lock,
        pytest.raises(StoreError, match=r"out: another run is writing here \(process \d+ on .+\)"),
        place.lock,
    ):
        pass
    with place.lock:  # and free again
        pass


def test_two_runs_may_not_share_shards(tmp_path):
    shards = tmp_path / "kept" / "esm2-abc"
    first, second = (WorkPlace(tmp_path / name, tmp_path / "kept") for name in "ab")
    with (
        first.shards_lock(shards),
        pytest.raises(StoreError, match=r"kept: another run .* --checkpoint-dir"),
        second.shards_lock(shards),
    ):
        pass


def test_a_lock_that_cannot_be_made_says_where(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(
            OutputError,
            match=r"file: cannot be written \(there is a file of this name\); .* --output-dir",
        ),
        WorkPlace(tmp_path / "file").lock,
    ):
        pass


def test_prepared_links_are_not_followed(tmp_path):
    """`.virnucpro`, its lock and its plans may be links to somebody's files."""
    theirs, out = tmp_path / "theirs", tmp_path / "out"
    theirs.mkdir()
    (theirs / "precious").write_text("precious")
    place = WorkPlace(out)
    out.mkdir()
    place.hidden.symlink_to(theirs)
    with pytest.raises(OutputError, match="links are not followed here"), place.lock:
        pass
    place.hidden.unlink()
    place.hidden.mkdir()
    (place.hidden / "lock").symlink_to(theirs / "precious")
    with pytest.raises(OutputError, match="links are not followed here"), place.lock:
        pass
    (place.hidden / "lock").unlink()
    with place.lock:
        (place.hidden / "plans").symlink_to(theirs)
        (place.hidden / "other").symlink_to(theirs)
        place.new_plans()
        place.clear()
        place.state_file.symlink_to(theirs / "precious")
        with pytest.raises(StoreError, match="links are not followed here"):
            place.read_identity()
        place.write_identity(RUN)
        assert place.read_identity() == RUN
    assert (theirs / "precious").read_text() == "precious"
    assert [path.name for path in theirs.iterdir()] == ["precious"]


def test_shards_of_somebody_else_are_not_believed(tmp_path, monkeypatch, caplog):
    # a command line that ran before in this process keeps the package's log to itself
    monkeypatch.setattr(logging.getLogger("virnucpro"), "propagate", True)
    place = WorkPlace(tmp_path / "out", tmp_path / "kept")
    shared = place.shards("esm2", RUN)
    assert shared.parent == tmp_path / "kept"
    shared.mkdir(parents=True)
    assert place.shards("esm2", RUN) == shared
    monkeypatch.setattr("virnucpro.run.state.is_ours", lambda path: False)
    own = place.shards("esm2", RUN)
    assert (
        own == place.hidden / shared.name.partition("-user-")[0] and "another user's" in caplog.text
    )
    with place.shards_lock(shared), place.shards_lock(own):
        pass
    with place.lock:
        place.write_identity(RUN)
        with pytest.raises(StoreError, match="another user's unfinished run"):
            place.read_identity()


def test_clearing_keeps_the_lock_and_what_is_not_ours(tmp_path):
    place = WorkPlace(tmp_path)
    with place.lock:
        place.write_identity(RUN)
        place.new_plans()
        place.clear()
        assert [path.name for path in place.hidden.iterdir()] == ["lock"]
        assert place.read_identity() is None


def test_a_damaged_state_is_one_line(tmp_path):
    place = WorkPlace(tmp_path)
    place.hidden.mkdir()
    for content in (
        '{"--precision"',
        "[]",
        "{}",
        '{"format": 2, "identity": {}}',
        '{"format": 1, "identity": {"--precision": 32}}',
    ):
        place.state_file.write_text(content)
        with pytest.raises(StoreError, match=r"run\.json: not .*; --force starts over"):
            place.read_identity()
