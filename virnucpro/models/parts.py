"""One part of a bundle: where it is said to be, and where it lies on this machine.

Knows paths, hub ids and the two places a hub model may already be in (the models directory, the
Hugging Face cache); does not know what a part computes.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

from virnucpro.errors import ModelError
from virnucpro.models.contents import Contents
from virnucpro.models.encoders import ENCODERS
from virnucpro.models.files import models_dir
from virnucpro.models.hub import check_cached, download_encoder, folder_name

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
REVISION = re.compile(r"(?!.*\.\.)\w[\w./-]{0,99}")
LONGEST_ID = 96  # letters, as on the hub
CLASSIFIER = "classifier"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """`kind` is the name of an encoder, or CLASSIFIER; `path`, or `hub` with an optional
    `revision`, or both: it came from there.
    """

    kind: str
    path: Path | None = None
    hub: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        if not self.hub:
            return str(self.path)
        return f"{self.hub}@{self.revision}" if self.revision else self.hub

    def local(self) -> Path | None:
        """Where the part lies, complete, on this machine; None if nowhere."""
        from virnucpro.models.weights import weight_files

        for place in (self.path,) if self.path else self._places():
            if self.kind == CLASSIFIER:
                if place.is_file():
                    return place
                continue
            try:
                weight_files(place)
            except ModelError:
                continue
            if all((place / name).is_file() for name in ENCODERS[self.kind].files):
                return place
        return None

    def locate(self) -> Path:
        """Where the part lies; a hub part that is nowhere is fetched. Raises ModelError naming what
        is missing.
        """
        place = self.local()
        if place is not None:
            if self.path is None:
                check_cached(place)
            return place
        if self.path is None:
            assert self.hub is not None  # a part has one of them at least
            return download_encoder(self.hub, self.revision, ENCODERS[self.kind].files, log.info)
        if self.kind == CLASSIFIER:
            raise ModelError(
                f"{self.path}: no such classifier file; give a .safetensors or the original's .pth"
            )
        from virnucpro.models.weights import weight_files

        missing = [name for name in ENCODERS[self.kind].files if not (self.path / name).is_file()]
        if self.path.is_dir() and missing:
            raise ModelError(
                f"{self.path}: {' and '.join(missing)} missing; copy it there from the model's"
                " source"
            )
        weight_files(self.path)
        raise ModelError(f"{self.path}: not a model directory")

    def _places(self) -> list[Path]:
        from huggingface_hub import try_to_load_from_cache

        assert self.hub is not None
        plain, own = (models_dir() / folder_name(self.hub, r) for r in (None, self.revision))
        contents = Contents.read(plain)
        fits = contents is None or self.revision in (None, contents.origin.partition("@")[2])
        places = [own, plain] if fits else [own]
        cached = try_to_load_from_cache(self.hub, "config.json", revision=self.revision)
        return [*places, Path(cached).parent] if isinstance(cached, str) else places


def parse_part(kind: str, value: object, base: Path) -> Part:
    """A part from `bundle.json` or the command line; paths are relative to `base`. Raises
    ValueError saying what is wrong.
    """
    if isinstance(value, dict) and kind != CLASSIFIER:
        hub, revision, path = (value.get(name) for name in ("hub", "revision", "path"))
        place = None if path is None else _path(kind, path, base)
        return Part(kind, place if place and place.is_dir() else None, *_hub(kind, hub, revision))
    path = _path(kind, value, base)
    if kind == CLASSIFIER or path.exists():
        return Part(kind, path=path)
    name, _, revision = str(value).partition("@")
    if HUB_ID.fullmatch(name):
        return Part(kind, None, *_hub(kind, name, revision or None))
    return Part(kind, path=path)


def _path(kind: str, value: object, base: Path) -> Path:
    """A path that the system can take. Errors: ValueError."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{kind}: {repr(value)[:40]} is neither a path nor a hub id")
    try:
        path = base / Path(value).expanduser()
        path.exists()
        os.fsencode(path)
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "it names no file"
        raise ValueError(f"{kind}: {value[:40]!r} is not a path ({reason})") from None
    if "\0" in value:
        raise ValueError(f"{kind}: {value[:40]!r} is not a path (it holds a NUL)")
    return path


def _hub(kind: str, hub: object, revision: object) -> tuple[str, str | None]:
    """A hub id and a revision in the form that the hub has. Errors: ValueError."""
    if not isinstance(hub, str) or len(hub) > LONGEST_ID or not HUB_ID.fullmatch(hub):
        raise ValueError(f"{kind}: {repr(hub)[:40]} is not a hub id (owner/name)")
    if revision is None:
        return hub, None
    if not isinstance(revision, str) or not REVISION.fullmatch(revision):
        raise ValueError(f"{kind}: {repr(revision)[:40]} is not a revision (branch, tag or commit)")
    return hub, revision
