"""Where a run keeps unfinished work, under its lock, and which run that is.

Knows JSON and file locks; does not know how a run is carried out.
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
