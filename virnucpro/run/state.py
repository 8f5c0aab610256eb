"""Which run an output directory belongs to: identity, lock, and what a new start may do there.

Identity is everything that decides the features; the number of processes, the batch size and the
device are provenance. Knows JSON and file locks; does not know how a run is carried out.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from virnucpro.errors import StoreError
from virnucpro.files import (
    OUTPUT,
    WORK,
    digest,
    directory_handle,
    explained,
    is_ours,
    read_json,
    remove_tree,
    write_json,
)
from virnucpro.locks import Lock
from virnucpro.reporting.outputs import HIDDEN

log = logging.getLogger(__name__)

FORMAT = 1  # of the state file
MOST_DIFFERENCES = 3  # named in one line

SHARD = "--shard"  # the key of a shard's identity that a whole run does not have
UNREADABLE = "unreadable"  # an input's value in an identity where there is no hash of its content

Identity = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class WorkPlace:
    """Where a run keeps unfinished work: in its output directory, or keyed by content in
    `--checkpoint-dir`. To be used under its lock, which makes the hidden directory.
    """

    output_dir: Path
    checkpoint_dir: Path | None = None

    @property
    def hidden(self) -> Path:
        """The directory of unfinished work in the output directory."""
        return self.output_dir / HIDDEN

    @property
    def state_file(self) -> Path:
        """Says which run is unfinished."""
        return self.hidden / "run.json"

    @property
    def lock(self) -> Lock:
        """Held while a run writes to the output directory."""
        return Lock(self.hidden / "lock", self.output_dir)

    def shards_lock(self, shards: Path) -> AbstractContextManager:
        """Two runs with the same content, in two output directories, may meet in one
        `--checkpoint-dir`.
        """
        if shards.parent != self.checkpoint_dir:
            return nullcontext()
        return Lock(shards.with_suffix(".lock"), self.checkpoint_dir, WORK)

    def shards(self, encoder: str, content: Mapping[str, str]) -> Path:
        """Directory of an encoder's finished rows, named by all that decides their values; of this
        user alone, since another could put other rows there.
        """
        name = f"{encoder}-{digest(content)[:24]}"
        if self.checkpoint_dir is None:
            return self.hidden / name
        shared = self.checkpoint_dir / f"{name}-user-{os.geteuid()}"
        if not os.path.lexists(shared) or (is_ours(shared) and not shared.is_symlink()):
            return shared
        log.warning("%s: another user's; work is kept in %s instead", shared, self.output_dir)
        return self.hidden / name

    def new_plans(self) -> Path:
        """An empty directory for this start's plans."""
        plans = self.hidden / "plans"
        with explained(plans, OUTPUT), directory_handle(self.hidden, self.output_dir) as handle:
            with suppress(FileNotFoundError):
                remove_tree(plans.name, handle)
            os.mkdir(plans.name, dir_fd=handle)
        return plans

    def read_identity(self) -> Identity | None:
        """The identity of the unfinished run in here; None where there is none.

        Raises StoreError where another user or another version of this program has left it.
        """
        advice = "--force starts over"
        state = read_json(self.state_file, advice)
        if state is None:
            return None
        if not is_ours(self.state_file):
            raise StoreError(
                f"{self.output_dir}: another user's unfinished run; choose another --output-dir"
            )
        identity = state.get("identity")
        if state.get("format") != FORMAT or not _is_text(identity):
            raise StoreError(
                f"{self.state_file}: not the state of a run as this version keeps it; {advice}"
            )
        return identity

    def write_identity(self, identity: Identity) -> None:
        """What `read_identity` will find."""
        write_json(self.state_file, {"format": FORMAT, "identity": dict(identity)})

    def clear(self, but: str = "lock") -> None:
        """Drop unfinished work, but not the lock that is being held nor the file `but`.

        The identity goes last: what is left without it is nobody's.
        """
        with (
            explained(self.hidden, OUTPUT),
            directory_handle(self.hidden, self.output_dir) as handle,
        ):
            for name in sorted(os.listdir(handle), key=lambda name: name == self.state_file.name):
                # what is still mapped stays on some network disks
                with suppress(OSError):
                    if name not in ("lock", but):
                        remove_tree(name, handle)


def _is_text(content: object) -> bool:
    return isinstance(content, dict) and all(isinstance(value, str) for value in content.values())


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
