"""The published models: what they are made of, bringing them here, and which models there are.

Knows names, places and content ids of what was published, and the layout of the models directory:

    models_dir()/OWNER--NAME/   an encoder: models/hub.py
    models_dir()/500/           bundle.json classifier.safetensors checksums.json

A directory is filled under another name, under a lock, and renamed when it is whole. Loads torch
only to convert weights.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from virnucpro.errors import ModelError, UsageError
from virnucpro.files import LEFTOVER, MODELS, explained, read_json, write_json
from virnucpro.models.bundle import MINI, installed, read_spec
from virnucpro.models.contents import Contents, Entry, is_whole, put_directory_in_place
from virnucpro.models.download import RemoteFile, Unavailable, fetch
from virnucpro.models.encoders import published_encoders
from virnucpro.models.files import models_dir
from virnucpro.models.hub import bring, folder_name, lock

Log = Callable[[str], object]

# Whoever cannot reach one of them may reach another; the content is checked whatever the address.
ADDRESSES = (
    "https://raw.githubusercontent.com/Li-Jing-1997/VirNucPro/HEAD/{name}",
    "https://api.github.com/repos/Li-Jing-1997/VirNucPro/git/blobs/{blob_id}",
    "https://cdn.jsdelivr.net/gh/Li-Jing-1997/VirNucPro/{name}",
)
LICENCE = "MIT (VirNucPro, ESM-2); DNABERT-S: see its page on the hub"


@dataclass(frozen=True, slots=True)
class Published:
    """A classifier of the original repository, by git's id of its content, and the chunk length it
    was trained with.
    """

    name: str
    file: str
    blob_id: str
    chunk_length: int

    @property
    def remote(self) -> RemoteFile:
        """Where it can be downloaded."""
        urls = tuple(url.format(name=self.file, blob_id=self.blob_id) for url in ADDRESSES)
        return RemoteFile(self.file, urls, self.blob_id)


PUBLISHED = {
    "500": Published("500", "500_model.pth", "fc35d5ef9f1f4564eea7036f34f4f8ec6000d33d", 500),
    "300": Published("300", "300_model.pth", "a0b5b85e7c1e44f00cde146d091beb82b2c8e855", 300),
}


@dataclass(frozen=True, slots=True)
class Row:
    """A line of `models list`."""

    name: str
    state: str  # installed, incomplete, not installed, broken
    chunk_length: int | None  # None where it is broken
    where: str
    what: str


def list_models() -> list[Row]:
    """mini, the published ones, and every other bundle of the models directory."""
    rows = []
    for name, published in PUBLISHED.items():
        directory, what = models_dir() / name, "the published model"
        if installed(name):
            state = "installed"
        else:
            state = "incomplete" if directory.is_dir() else "not installed"
            what += f"; virnucpro models download {name}"
        where = str(directory) if directory.is_dir() else "-"
        rows.append(Row(name, state, published.chunk_length, where, what))
    if (MINI / "bundle.json").is_file():
        what, chunk_length = "small, shipped with the program", read_spec(MINI).chunk_length
        rows.append(Row("mini", "installed", chunk_length, str(MINI), what))
    for file in sorted(models_dir().glob("*/bundle.json")):
        name = file.parent.name
        if name in PUBLISHED:
            continue
        state, what = "installed", "your own"
        try:
            length: int | None = read_spec(file.parent).chunk_length
        except ModelError as error:
            state, length, what = "broken", None, str(error)
        if length and not installed(name):
            state, what = "incomplete", f"{what}; virnucpro models download 500 brings the encoders"
        rows.append(Row(name, state, length, str(file.parent), what))
    return rows


def download(name: str, to: Path | str | None = None, log: Log = lambda _: None) -> Path:
    """Bring a published model to the models directory, or to `to`. Its bundle directory.

    What is there already is read and kept, what is damaged is fetched again, and an interrupted
    call is continued. Raises ModelError that says why it cannot be had and which files to bring.
    """
    if name not in PUBLISHED:
        raise UsageError(
            f"models download {name}: no such published model; there are {' and '.join(PUBLISHED)}"
        )
    home = Path(to) if to is not None else models_dir()
    with lock(home):
        _clean(name, home)
        try:
            for entry, model in published_encoders():
                bring(model.id, None, entry.files, home, log)
            _bring_classifier(PUBLISHED[name], home, log)
        except Unavailable as error:
            raise ModelError(f"models download {name}: {error}; {_by_hand(name, home)}") from None
        write_bundle(name, PUBLISHED[name].chunk_length, home)
    log(f"{name}: complete in {home / name}")
    return home / name


def _clean(name: str, home: Path) -> None:
    """Remove what a call that was killed has left where nothing would be continued."""
    for left in home.glob(".*.old"):
        shutil.rmtree(left, ignore_errors=True)
    for left in (home / name).glob(f"{LEFTOVER}*"):
        with contextlib.suppress(OSError):
            left.unlink()


def _by_hand(name: str, home: Path) -> str:
    """What is still missing, and how to bring it without a network here: the end of a line."""
    missing = [
        f"{', '.join(entry.files)} and the weights of {model.id}"
        for entry, model in published_encoders()
        if not is_whole(home / folder_name(model.id))
    ]
    if not is_whole(home / name):
        missing.append(f"{PUBLISHED[name].file} of Li-Jing-1997/VirNucPro on GitHub")
    where = "" if home == models_dir() else f"VIRNUCPRO_HOME={home} "
    return (
        f"or bring {'; '.join(missing)} and run `{where}virnucpro models import` on each directory"
        f" or file (they go to {home})"
    )


def _bring_classifier(model: Published, home: Path, log: Log) -> None:
    contents = Contents.read(home / model.name)
    if contents and not any(contents.changed(home / model.name)):
        return
    unfinished = home / f".{model.name}.part"
    with explained(unfinished, MODELS):
        unfinished.mkdir(exist_ok=True)
    arrived = unfinished / model.file
    fetch(model.remote, arrived, log)
    log(f"{model.file}: {arrived.stat().st_size:,} bytes, as published")
    place_classifier(arrived, model.name, home, model.blob_id, log)


def place_classifier(source: Path, name: str, home: Path, origin: str, log: Log) -> None:
    """The tensors of a `.pth` (read without executing it) or `.safetensors`, as the classifier of
    bundle `name`.
    """
    from virnucpro.models.classifier import Classifier

    classifier, came = Classifier.load(source), Entry.of(source)
    unfinished = home / f".{name}.part"
    with explained(unfinished, MODELS):
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        classifier.save(unfinished / "classifier.safetensors")
        contents = Contents(f"{source.name}, git id {origin}")
        contents.adding(unfinished / "classifier.safetensors", {source.name: came}).write(
            unfinished
        )
        put_directory_in_place(unfinished, home / name)
    log(f"{name}: classifier of {classifier.width} features converted to safetensors")


def write_bundle(name: str, length: int, home: Path) -> None:
    """`bundle.json`, which names the encoders by hub id, commit, and relative place (so that the
    models directory can be moved).
    """
    parts = {}
    for entry, model in published_encoders():
        folder = folder_name(model.id)
        parts[entry.name] = {"hub": model.id, "path": f"../{folder}"}
        contents = Contents.read(home / folder)
        hub, _, revision = contents.origin.partition("@") if contents else ("", "", "")
        if hub == model.id:
            parts[entry.name]["revision"] = revision
    bundle = {
        "name": name,
        "chunk_length": length,
        "frame_policy": "open",
        "classes": ["others", "virus"],
        **parts,
        "classifier": "classifier.safetensors",
        "licence": LICENCE,
    }
    file = home / name / "bundle.json"
    with contextlib.suppress(ModelError):  # a damaged one is written anew
        if read_json(file, "", ModelError) == bundle:
            return
    write_json(file, bundle, MODELS)
