"""An encoder of the Hugging Face hub -> a directory of the models directory, its weights as
safetensors.

    models_dir()/OWNER--NAME/          config.json, tokenizer, model*.safetensors, checksums.json
    models_dir()/.OWNER--NAME.part/    the same, until it is whole

Plain HTTP serves every file, so that the hub's xet service is not needed. Each file is fetched,
checked, converted and recorded before the next one: a call that was killed is continued by the
next, and a directory with damaged files is mended by treating it as such an unfinished one.
Does not know bundles.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from virnucpro.errors import ModelError
from virnucpro.files import MODELS, explained, is_plain_name, sha256_of
from virnucpro.locks import Lock
from virnucpro.models.contents import CHECKSUMS, Contents, Entry, announced, put_directory_in_place
from virnucpro.models.convert import convert, converted_name, write_index
from virnucpro.models.download import RemoteFile, Unavailable, endpoint, fetch, host_of, read_json
from virnucpro.models.encoders import published_encoders
from virnucpro.models.files import file_digest, models_dir
from virnucpro.models.weights import weight_files

TOKENIZERS = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
SMALL_FILES = ("config.json", *TOKENIZERS)

SHA256 = re.compile(r"[0-9a-f]{64}")
WEIGHTS = re.compile(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)")

Log = Callable[[str], object]


def folder_name(hub: str, revision: str | None = None) -> str:
    """The name of a repository's directory; one of a revision that was asked for has its own."""
    name = hub.replace("/", "--")
    return f"{name}@{revision.replace('/', '--')}" if revision else name


def lock(home: Path) -> contextlib.AbstractContextManager:
    """The lock of a models directory: another process waits, and then finds what the first one
    brought. Where this user cannot change anything, there is nothing to lock.
    """
    if home.is_dir() and not os.access(home, os.W_OK):
        return contextlib.nullcontext()
    return Lock(home / ".lock", home, MODELS, wait=True)


def download_encoder(hub: str, revision: str | None, required: Sequence[str], log: Log) -> Path:
    """Bring any encoder of the hub to the models directory. Raises ModelError."""
    with lock(models_dir()):
        try:
            return bring(hub, revision, required, models_dir(), log)
        except Unavailable as error:
            name = f"{hub}@{revision}" if revision else hub
            raise ModelError(
                f"{name}: not on this machine, and {error}; put its {', '.join(required)} and"
                f" weights into {models_dir() / folder_name(hub)}, or name a directory"
            ) from None


def check_cached(directory: Path) -> None:
    """Raises ModelError where weights that the hub's client has cached are not what the hub said:
    its cache names each large file by its sha256.
    """
    for file in weight_files(directory):
        said = file.resolve().name
        if SHA256.fullmatch(said) and file_digest(file) != said:
            raise ModelError(
                f"{file}: another content than the hub's (sha256 {said[:12]}...); remove"
                f" {directory}, and the same command downloads it"
            )


def bring(hub: str, revision: str | None, required: Sequence[str], home: Path, log: Log) -> Path:
    """The directory of an encoder in `home`: whole as it is, mended, continued or fetched.

    revision: None is the pinned one, else the newest. required: small files that it cannot do
    without. The caller holds the lock of `home`. Raises Unavailable where the hub does not have
    it, ModelError where it cannot be written.
    """
    target = home / folder_name(hub, revision)
    unfinished = target.with_name(f".{target.name}.part")
    here = Contents.read(target)
    damaged = set(here.changed(target, log=log)) if here else set()
    if here and not damaged:
        return target
    for name in sorted(damaged):
        log(f"{target / name}: missing or damaged, to be fetched again")
    commit, files = _listing(hub, revision, log)
    needed = _needed(hub, files, required)
    if target.exists():
        with explained(target, MODELS):
            shutil.rmtree(unfinished, ignore_errors=True)
            os.rename(target, unfinished)
    contents = _keep(unfinished, f"{hub}@{commit}", needed, damaged)
    _check_room(hub, commit, needed, contents, unfinished, log)
    for file in needed:
        contents = _add(file, contents, unfinished, log)
    if (index := write_index(unfinished)) is not None:
        contents = contents.adding(index)
        contents.write(unfinished)
    with explained(target, MODELS):
        put_directory_in_place(unfinished, target)
    return target


def _listing(hub: str, revision: str | None, log: Log) -> tuple[str, tuple[RemoteFile, ...]]:
    """Commit and files of the revision asked for; without one, of the pinned or the newest."""
    pins = {model.id: model for _, model in published_encoders()}
    pin = pins.get(hub) if revision is None else None
    if pin is None:
        return hub_files(hub, revision, log)
    try:
        commit, files = hub_files(hub, pin.revision, log)
    except Unavailable as error:
        if not error.gone:
            raise
        newest = hub_files(hub, None, log)
        log(
            f"warning: {hub} no longer has revision {pin.revision[:12]}, which the published models"
            f" were made with; taking the newest, {newest[0][:12]}:"
            " `virnucpro models verify 500` says whether it computes the same"
        )
        return newest
    for file in files:
        if WEIGHTS.fullmatch(file.name) and file.content not in pin.weights:
            raise Unavailable(f"{hub}@{commit[:12]}: {file.name} is not the published file")
    return commit, files


def hub_files(
    hub: str, revision: str | None, log: Log = lambda _: None
) -> tuple[str, tuple[RemoteFile, ...]]:
    """The commit that `revision` (None: the newest) of a hub repository is, and its files.

    Raises Unavailable.
    """
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):
            raise Unavailable(f"{name} is set, which forbids downloads; unset it")
    url = f"{endpoint()}/api/models/{hub}"
    url += f"/revision/{quote(revision, safe='')}" if revision else ""
    info = read_json(f"{url}?blobs=true", log)
    try:
        commit = str(info["sha"])
        files = tuple(
            RemoteFile(
                entry["rfilename"],
                (f"{endpoint()}/{hub}/resolve/{commit}/{quote(entry['rfilename'])}",),
                entry["lfs"]["sha256"] if entry.get("lfs") else entry["blobId"],
                entry["size"],
            )
            for entry in info["siblings"]
            if is_plain_name(entry["rfilename"])
        )
    except (KeyError, TypeError) as error:
        raise Unavailable(f"{host_of(url)}: its list of files lacks {error}") from None
    return commit, files


def _needed(
    hub: str, files: Sequence[RemoteFile], required: Sequence[str]
) -> tuple[RemoteFile, ...]:
    """Configuration, tokenizer, and the weights in one format: safetensors where there are any.

    Largest first, so that the disk is never fuller than the download and one file more.
    """
    weights = [file for file in files if WEIGHTS.fullmatch(file.name)]
    safe = [file for file in weights if file.name.endswith(".safetensors")]
    names = {file.name for file in files}
    missing = [name for name in required if name not in names]
    if missing or not weights:
        raise Unavailable(f"{hub}: the hub's copy lacks {', '.join(missing) or 'weights'}")
    small = [file for file in files if file.name in SMALL_FILES]
    return tuple(sorted([*(safe or weights), *small], key=lambda file: -(file.size or 0)))


def _keep(
    unfinished: Path, origin: str, needed: Sequence[RemoteFile], damaged: set[str]
) -> Contents:
    """What of an unfinished directory can be kept; everything else in it is removed."""
    with explained(unfinished, MODELS):
        unfinished.mkdir(parents=True, exist_ok=True)
        found = Contents.read(unfinished)
        if found is None or found.origin != origin:
            found = Contents(origin)
        wrong = damaged | set(found.changed(unfinished, content=False))
        wanted = {converted_name(file.name) for file in needed}
        contents = found.only(wanted - wrong)
        kept = {CHECKSUMS, *contents.files}
        for file in needed:
            if converted_name(file.name) not in contents.files:
                kept |= {file.arriving(unfinished / file.name).name, file.name} - wrong
        for path in unfinished.iterdir():
            if path.name not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        contents.write(unfinished)
    return contents


def _add(file: RemoteFile, contents: Contents, unfinished: Path, log: Log) -> Contents:
    """Fetch, convert and record one file that is not there yet."""
    name = converted_name(file.name)
    if name in contents.files:
        return contents
    arrived = unfinished / file.name
    fetch(file, arrived, log)
    came, size = {}, file.size or 0
    if name != file.name:
        convert(arrived, unfinished / name, log)
        came = {file.name: Entry(arrived.stat().st_size, file.sha256 or sha256_of(arrived))}
    with announced(f"{name}: computing its sha256", size, log) as add:
        contents = contents.adding(unfinished / name, came, add)
    contents.write(unfinished)
    if came:
        arrived.unlink()
    return contents


def _check_room(
    hub: str,
    commit: str,
    needed: Sequence[RemoteFile],
    contents: Contents,
    unfinished: Path,
    log: Log,
) -> None:
    """Say what comes and what it takes; ModelError where the disk has no room for it."""
    left = [file for file in needed if converted_name(file.name) not in contents.files]
    here = {file: _here(file, unfinished) for file in left}
    fetched = sum((file.size or 0) - here[file] for file in left)
    most = peak(left, here)
    log(
        f"{hub}: {fetched / 1e9:.2f} GB to fetch of {sum(f.size or 0 for f in needed) / 1e9:.2f},"
        f" revision {commit[:12]}; takes {most / 1e9:.2f} GB more of disk while weights are"
        f" converted, {fetched / 1e9:.2f} in the end"
    )
    free = shutil.disk_usage(unfinished).free
    if free < most:
        raise ModelError(
            f"{unfinished.parent}: {free / 1e9:.2f} GB free, {hub} needs {most / 1e9:.2f} more"
            " while its weights are converted; make room, or set VIRNUCPRO_HOME to a larger disk"
        )


def peak(files: Sequence[RemoteFile], here: dict[RemoteFile, int]) -> int:
    """Most bytes of disk that fetching and converting `files` in turn takes, beyond `here`."""
    most = taken = 0
    for file in files:
        size = file.size or 0
        taken += size - here[file]
        converted = size if converted_name(file.name) != file.name else 0
        most = max(most, taken + converted)
    return most


def _here(file: RemoteFile, unfinished: Path) -> int:
    """Bytes of a file that have arrived already."""
    paths = (unfinished / file.name, file.arriving(unfinished / file.name))
    return min(file.size or 0, sum(path.stat().st_size for path in paths if path.is_file()))
