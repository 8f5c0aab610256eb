"""Plans: every sequence once, no batch over its tokens, the same plan whatever the number of
processes.
"""

from __future__ import annotations

import numpy as np
import pytest

from virnucpro.embedding.plan import Plan, Schedule, find_duplicates, make_plan


def keys(words: list[str]) -> tuple[np.ndarray, np.ndarray]:
    numbers = np.array([hash_of(word) for word in words], dtype=np.uint64)
    # a poor high half: only both together tell sequences apart
    return numbers % np.uint64(3), numbers


def hash_of(word: str) -> int:
    return sum(ord(letter) * 131**place for place, letter in enumerate(word))


def test_equal_sequences_share_the_row_of_the_first():
    duplicates = find_duplicates(*keys(["MK", "AV", "MK", "L", "AV"]), np.ones(5, dtype=bool))
    assert duplicates.representative.tolist() == [0, 1, 0, 3, 1]
    assert duplicates.unique.tolist() == [0, 1, 3]


def test_a_sequence_the_encoder_does_not_take_has_no_representative():
    duplicates = find_duplicates(*keys(["MK", "AV", "MK"]), np.array([False, True, True]))
    assert duplicates.representative.tolist() == [-1, 1, 2]
    assert duplicates.unique.tolist() == [1, 2]


def test_no_frames_at_all():
    empty = np.empty(0, dtype=np.uint64)
    duplicates = find_duplicates(empty, empty, np.empty(0, dtype=bool))
    plan = make_plan(duplicates.unique, np.empty(0, dtype=np.int64), 100)
    assert len(plan) == 0


@pytest.mark.parametrize("seed", range(20))
def test_batches_hold_every_row_once_and_no_more_tokens_than_allowed(seed):
    random = np.random.default_rng(seed)
    rows = np.sort(random.choice(10_000, size=500, replace=False))
    lengths = random.integers(3, 170, size=500)
    plan = make_plan(rows, lengths, tokens=512, max_rows=int(random.integers(1, 40)))
    length_of = dict(zip(rows.tolist(), lengths.tolist(), strict=True))
    seen = [plan.batch(number).tolist() for number in range(len(plan))]
    assert sorted(row for batch in seen for row in batch) == rows.tolist()
    assert max(sum(length_of[row] for row in batch) for batch in seen) <= 512
    assert [length_of[row] for batch in seen for row in batch] == sorted(
        lengths.tolist(), reverse=True
    )


def test_a_sequence_longer_than_a_batch_is_refused():
    with pytest.raises(ValueError, match="600 tokens"):
        make_plan(np.array([0]), np.array([600]), tokens=512)


def test_a_saved_plan_is_the_plan(tmp_path):
    plan = make_plan(np.arange(50), np.arange(3, 53), tokens=100)
    again = Plan.open(plan.save(tmp_path, "esm2"))
    assert (
        (again.rows == plan.rows).all()
        and (again.offsets == plan.offsets).all()
        and again.tokens == 100
    )


def test_a_plan_that_is_not_the_announced_one_is_refused(tmp_path):
    folder = make_plan(np.arange(50), np.arange(3, 53), tokens=100).save(tmp_path, "esm2")
    np.save(folder / "rows.npy", np.arange(50))
    with pytest.raises(ValueError, match="not the one"):
        Plan.open(folder)


def test_room_in_a_gather_covers_the_batches_that_accelerate_repeats():
    plan = Plan(np.arange(10), np.array([0, 6, 7, 10]), 100)  # batches of 6, 1 and 3
    schedule = Schedule.of(plan, 2)
    assert [schedule.room_at(step) for step in (0, 1)] == [
        6,
        6,
    ]  # step 1: batch 2 and, again, batch 0
    assert [schedule.at(step) for step in (0, 1)] == [(2, 7), (1, 3)]
    assert Schedule.of(plan, 5).room_at(0) == 6


@pytest.mark.parametrize("batches", [1, 2, 5, 16, 23, 64, 103, 1000])
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_parts_hold_every_batch_once_and_burden_processes_alike(batches, processes):
    plan = Plan(np.arange(2 * batches), np.arange(0, 2 * batches + 1, 2), 100)
    schedule = Schedule.of(plan, processes, most=7)
    parts = [list(schedule.part(number)) for number in range(len(schedule))]
    assert [batch for part in parts for batch in part] == list(range(batches))
    shares = [sum(map(len, parts[rank::processes])) for rank in range(processes)]
    # as the dashboard reckons
    assert shares == [len(range(rank, batches, processes)) for rank in range(processes)]
    steps = -(-len(schedule) // processes)
    assert sum(schedule.at(step)[0] for step in range(steps)) == batches
    assert steps >= min(8, -(-batches // processes)) and max(map(len, parts)) <= 7
    assert all(
        schedule.room_at(step) == 2 * max(map(len, parts[step * processes :][:processes]))
        for step in range(len(schedule) // processes)
    )
