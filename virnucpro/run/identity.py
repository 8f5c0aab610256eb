"""What tells one run from another, and what a new start may do in a directory that holds a run.

Identity is everything that decides the features; the number of processes, the batch size and the
device are provenance.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from virnucpro.embedding.older import find_older_work
from virnucpro.errors import StoreError
from virnucpro.models.encoders import as_listed
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.record import RunRecord, call_identity, read_record
from virnucpro.run.ahead import whole_fingerprint
from virnucpro.run.state import Identity
from virnucpro.sequences.table import FrameTable
from virnucpro.settings import FULL

if TYPE_CHECKING:
    from virnucpro.run.session import Run

log = logging.getLogger(__name__)

MOST_DIFFERENCES = 3  # named in one line
SHARD = "--shard"  # the key of a shard's identity that a whole run does not have
EFFORT, SCREEN = "--effort", "--screen"  # the keys of a run that may leave chunks out
UNREADABLE = "unreadable"  # an input's value in an identity where there is no hash of its content


def is_finished(
    directory: Path,
    now: Identity,
    call: Identity,
    unfinished: Identity | None,
    finished: Identity | None,
    complete: bool,
) -> bool:
    """Whether `directory` holds this very run, finished; else it may start there or go on.

    now, call: this run's identity and its call settings; unfinished: what the state in the
    directory says; finished: what the results there say, call settings included; complete: nothing
    failed that a new start could mend. Raises StoreError where the directory holds another run,
    whose results are not to be mixed with these or lost.
    """
    if finished is not None and complete and dict(finished) == {**now, **call}:
        return True
    held = unfinished if unfinished is not None else finished
    if held is None:
        return False
    held = _without_mended(held, now)
    lost = [key for key, value in now.items() if value == UNREADABLE != held.get(key, UNREADABLE)]
    if lost:
        raise StoreError(
            f"{directory}: holds results with {lost[0]}, which cannot be read now; run the same"
            " command again when it can be read, or --force starts over without it"
        )
    changed = difference({key: value for key, value in held.items() if key not in call}, now)
    if changed:
        raise StoreError(
            f"{directory}: holds another run ({changed}); --force starts over, or choose another"
            " --output-dir"
        )
    changed = (
        difference({key: value for key, value in held.items() if key in call}, call)
        if unfinished is None
        else ""
    )
    if changed:
        raise StoreError(
            f"{directory}: holds this run with other settings ({changed}); "
            "`virnucpro summarize` calls again from its features, --force starts over"
        )
    return False


def _without_mended(held: Identity, now: Identity) -> Identity:
    """`held`, with the inputs that could not be read then as they are now: the run is the same one
    and has more to answer.
    """
    mended = {
        key: now[key]
        for key, value in held.items()
        if value == UNREADABLE and now.get(key, UNREADABLE) != UNREADABLE
    }
    return {**held, **mended, "frames": now["frames"]} if mended else held


def difference(before: Identity, now: Identity) -> str:
    """What differs between two identities, in words, for one line."""
    changed = []
    keys = [*now, *(key for key in before if key not in now)]
    differing = [key for key in keys if before.get(key) != now.get(key)]
    # those follow from the others
    for key in [key for key in differing if key != "frames"] or differing:
        old, new = before.get(key), now.get(key)
        if old is None or new is None:
            changed.append(f"{key} was {'not there' if old is None else 'there'} before")
        elif len(old) == len(new) == 64:  # hashes tell a reader nothing
            changed.append(f"{key} has other content")
        else:
            changed.append(f"{key} was {old}, now {new}")
    more = f" and {len(changed) - MOST_DIFFERENCES} more" if len(changed) > MOST_DIFFERENCES else ""
    return "; ".join(changed[:MOST_DIFFERENCES]) + more


def identity_of(run: Run, table: FrameTable) -> dict[str, str]:
    """All that decides the features, named for a reader."""
    hashes = run.bundle.identity()
    shard = run.settings.shard
    return {
        **{f"input {file['source']}": file["sha256"] or UNREADABLE for file in table.inputs},
        "--chunk-length": str(run.bundle.chunk_length),
        "frame policy": run.bundle.frame_policy,
        "--min-length": str(run.settings.min_length),
        "--stride": str(run.settings.stride),
        **{entry.title: hashes[entry.name] for entry in as_listed(run.bundle.encoders)},
        "classifier": hashes["classifier"],
        # of a shard the table of all: it says what the shards belong to
        "frames": whole_fingerprint(table, run.bundle) if shard else table.fingerprint,
        **({SHARD: shard} if shard else {}),
        **({EFFORT: run.settings.effort} if run.settings.effort != FULL else {}),
        **({SCREEN: run.settings.screen} if run.settings.screen is not None else {}),
        "--precision": run.settings.precision,
        "--features": run.settings.features,
    }


def has_finished(run: Run, outputs: Outputs, identity: Identity) -> bool:
    """Whether there is nothing left to do.

    Raises StoreError when the output directory holds another run.
    """
    unfinished, finished = run.place.read_identity(), read_record(outputs.run_json)
    if finished is not None and not run.settings.shard and not outputs.contigs.exists():
        finished = None
    call, directory = call_identity(run.settings.call), run.settings.output_dir
    if is_finished(
        directory,
        identity,
        call,
        unfinished,
        None if finished is None else {**finished.identity, **finished.call},
        finished is not None and _is_complete(finished, outputs),
    ):
        log.info("%s: this run has finished already; --force starts it again", directory)
        run.place.clear()
        return True
    if unfinished is None and finished is None:
        if outputs.set_aside.exists():
            raise StoreError(
                f"{directory}: `virnucpro summarize` was stopped here; run it again, or start over"
                " with --force"
            )
        if not run.settings.resume:
            outputs.refuse_foreign_files()
    if (
        run.settings.resume
        and unfinished is None
        and finished is None
        and find_older_work(directory) is None
    ):
        log.info("%s: nothing to resume here, starting anew", directory)
    return False


def _is_complete(record: RunRecord, outputs: Outputs) -> bool:
    """Whether nothing is left that a new start could mend."""
    return record.retry == 0 and (record.features == "none" or outputs.features.exists())
