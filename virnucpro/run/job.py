"""What is to be done, found out before anything is computed: the table of frames, the state of the
output directory, the plans.

The main process prepares and posts a note; the others join with what the note says. Knows every
part of a run, computes nothing but a sample of old rows.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from virnucpro import __version__
from virnucpro.calling.answers import record_columns
from virnucpro.calling.mates import Reads
from virnucpro.embedding.coverage import any_answered, check_any_answered
from virnucpro.embedding.matrix import check_room
from virnucpro.embedding.plan import Plan
from virnucpro.embedding.store import FeatureStore
from virnucpro.embedding.work import (
    Work,
    batch_tokens,
    make_work,
)
from virnucpro.errors import StoreError, VirNucProError
from virnucpro.models.bundle import Bundle
from virnucpro.models.choices import preferred_tokens
from virnucpro.models.classifier import Classifier
from virnucpro.reporting.log import logging_to
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.reasons import short_sequences
from virnucpro.reporting.record import write_failures
from virnucpro.run.ahead import BUILDER_VARIABLE, what_to_read
from virnucpro.run.identity import has_finished, identity_of
from virnucpro.run.older import older_rows, older_work
from virnucpro.run.session import Run
from virnucpro.run.state import Identity
from virnucpro.sequences.table import FrameTable, open_table
from virnucpro.sequences.table_cache import (
    PRIVATE_TABLES,
    TablePlaces,
    build_or_open,
)
from virnucpro.settings import PredictSettings

log = logging.getLogger(__name__)

SECONDS_TO_SAY_WHY = 5.0  # to say what is wrong, before the others end too
SECONDS_FOR_THE_FILE_SYSTEM = 90.0  # until another machine sees a new file


@dataclass(frozen=True, slots=True)
class Job:
    """What the main process found out before the others could start.

    `work` and `identity` are its own.
    """

    table: FrameTable
    plans: dict[str, Plan]
    outputs: Outputs
    work: dict[str, Work]
    identity: Identity

    def forget_plans(self) -> None:
        """Give back 60 bytes a frame, which calling may need."""
        self.work.clear()
        self.plans.clear()


def prepare(run: Run, stack: ExitStack) -> Job | None:
    """The main process finds out what is to be done, and tells the others.

    None: an earlier run had finished.
    """
    note: dict[str, Any] = {"error": 1}
    try:
        stack.enter_context(run.place.lock)
        stack.callback(shutil.rmtree, run.settings.output_dir / PRIVATE_TABLES, ignore_errors=True)
        stack.enter_context(
            logging_to(
                Outputs(run.settings.output_dir), logging.getLogger("virnucpro"), verbose=True
            )
        )
        log.info("virnucpro %s; %s", __version__, "; ".join(map(str, run.choices)))
        job = _make_job(run, stack)
        note = {"error": None if job else 0}
        if job is not None:
            plans = run.place.new_plans()
            note |= {
                "table": str(job.table.directory),
                "fingerprint": job.table.fingerprint,
                "precision": run.settings.precision,
                "plans": {name: str(plan.save(plans, name)) for name, plan in job.plans.items()},
            }
    except VirNucProError as error:
        note = {"error": error.exit_code}
        raise
    except OSError as error:
        raise StoreError(
            f"{run.settings.output_dir}: cannot be written ({error.strerror or error}); make room"
            " or choose another --output-dir"
        ) from error
    finally:
        run.board.post("job", note)
        if note["error"] is not None:
            run.board.wait_for_readers("job")
    return job


def _make_job(run: Run, stack: ExitStack) -> Job | None:
    """Read the inputs, compare with what is in the output directory, and plan."""
    settings, bundle, place, clock = run.settings, run.bundle, run.place, run.clock
    outputs = Outputs.of(settings)
    with clock.stage("read"):
        run.display.stage("reading and translating")
        table = read_table(run.settings, run.bundle, log.info)
    if not settings.shard:  # the other shards may have what can be read
        if table.failures and not any_answered(table) and not outputs.run_json.exists():
            write_failures(outputs, table.failures)
        check_any_answered(table)
    _announce(table, settings.call.allow_short)
    bundle.check_classifier(Classifier.load(bundle.classifier).width)
    with clock.stage("plan"):
        run.display.stage("planning")
        identity, force = identity_of(run, table), settings.force and run.world.restarts == 0
        if force:
            outputs.remove()
            place.clear()
        elif has_finished(run, outputs, identity):
            return None
        outputs.prepare()
        place.write_identity(identity)
        older = older_work(run)
        work, dtype, hashes = (
            {},
            "float16" if settings.features == "float16" else "float32",
            bundle.identity(),
        )
        for entry in bundle.encoders:
            name = entry.name
            content = {
                "frames": table.fingerprint,
                "weights": hashes[name],
                "precision": settings.precision,
                "rows": dtype,
            }
            directory = place.shards(name, content)
            stack.enter_context(place.shards_lock(directory))
            store = FeatureStore(directory, bundle.widths[name], dtype)
            if force:
                store.remove()
            run.stores.append(store)
            tokens = batch_tokens(
                table,
                entry,
                settings.batch_tokens,
                int(preferred_tokens(run.device, entry.tiles).value),
            )
            rows = older_rows(entry, table, older, run)
            work[name] = make_work(table, entry, store, tokens, rows)
        plans = {name: w.plan for name, w in work.items()}
        if settings.embeds_all:
            check_disk(run, len(table), work, plans)
        else:  # round by round: see rounds.py
            plans = {}
    return Job(table, plans, outputs, work, identity)


def _announce(table: FrameTable, allow_short: bool) -> None:
    """Say before hours of work how many pairs of reads there are, and how many sequences will have
    no call for their length.
    """
    records = record_columns(table.records)
    notes = table.records["notes"].cast(pa.large_string()).combine_chunks()
    reads = Reads.of(table.records["name"], notes, records)
    n_pairs = len(reads.sequence) - len(reads.first)
    if n_pairs:
        log.info("%s pairs of reads: the two mates of a pair get one answer", f"{n_pairs:,}")
    chunk_length, sequences = table.rules.chunk_length, reads.by_longer_mate(reads.totals())
    short = (2 * sequences.length < chunk_length) & (sequences.n_chunks > 0)
    if short.any() and not allow_short:
        log.info("%s", short_sequences(int(short.sum()), chunk_length))


def read_note(run: Run, name: str) -> dict[str, Any]:
    """A note of the main process. Ends where that has failed, and has said so."""
    note = run.board.read(name)
    if note["error"]:
        time.sleep(SECONDS_TO_SAY_WHY)  # the main process speaks first
        raise SystemExit(note["error"])
    return note


def join(run: Run) -> Job | None:
    """The same job, as another process sees it; None where the main process had none. Ends where it
    failed, and has said so.
    """
    note = read_note(run, "job")
    if note["error"] is not None:
        return None
    if note["precision"] != run.settings.precision:  # `auto` on machines of different kinds
        raise StoreError(
            f"this machine would compute in {run.settings.precision}, the first one in"
            f" {note['precision']}; give --precision fp32"
        )
    try:
        table = open_table(Path(note["table"]))
    except StoreError:  # a machine with a cache of its own
        table = read_table(run.settings, run.bundle, log.info)
    if table.fingerprint != note["fingerprint"]:
        raise StoreError("the inputs changed while the run began; run the same command again")
    return Job(
        table,
        open_plans(note["plans"]),
        Outputs(run.settings.output_dir),
        {},
        {},
    )


def open_plans(folders: Mapping[str, str]) -> dict[str, Plan]:
    """The plans that the main process has written, by encoder. Errors: StoreError."""
    return {name: _open_plan(Path(folder)) for name, folder in folders.items()}


def _open_plan(folder: Path) -> Plan:
    """The plan that the main process has written; a shared file system may take a while to
    show it.
    """
    patience = time.monotonic() + SECONDS_FOR_THE_FILE_SYSTEM
    while True:
        try:
            return Plan.open(folder)
        except (OSError, ValueError) as error:
            if time.monotonic() > patience:
                raise StoreError(
                    f"{folder}: not visible from this machine ({error}); all machines must share"
                    " --output-dir"
                ) from error
        time.sleep(1.0)


def check_disk(run: Run, frames: int, work: dict[str, Work], plans: Mapping[str, Plan]) -> None:
    """Before the first batch: is there room for the shards that are still to come, and for the
    matrix of so many frames where one is kept?
    """
    itemsize = next(iter(work.values())).store.dtype.itemsize
    shards = sum(len(plans[name].rows) * w.store.width for name, w in work.items()) * itemsize
    matrix = (
        0
        if run.settings.features == "none"
        else frames * sum(w.store.width for w in work.values()) * itemsize
    )
    if run.place.checkpoint_dir is None:
        check_room(run.place.hidden, shards + matrix, "--output-dir")
    else:
        check_room(run.place.checkpoint_dir, shards, "--checkpoint-dir")
        check_room(run.place.hidden, matrix, "--output-dir")


def read_table(
    settings: PredictSettings, bundle: Bundle, say: Callable[[str], object]
) -> FrameTable:
    """The table, built now or taken from the cache.

    Errors: UsageError for a wrong stride, those of `build_or_open`.
    """
    private = settings.output_dir / PRIVATE_TABLES
    places = TablePlaces(settings.cache_dir, private, not settings.no_cache)
    builder = os.environ.get(BUILDER_VARIABLE)
    return build_or_open(*what_to_read(settings, bundle), places, say, builder)
