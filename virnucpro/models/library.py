"""The published models: which parts they have, bringing them here, taking them from files, checking
them.

Knows names, places and content ids of what was published, and the layout of the models directory:

    models_dir()/facebook--esm2_t36_3B_UR50D/   config.json vocab.txt model*.safetensors
    checksums.json models_dir()/zhihan1996--DNABERT-S/         config.json tokenizer.json
    model.safetensors checksums.json models_dir()/500/                           bundle.json
    classifier.safetensors checksums.json

A directory is filled beside, under a lock, and renamed when it is whole. Loads torch only to
convert weights.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from virnucpro.errors import ModelError, UsageError
from virnucpro.models.bundle import MINI, installed, read_spec
from virnucpro.models.download import (
    HubFile,
    NotToBeHad,
    fetch,
    fetch_hub,
    git_blob_id,
    hub_files,
    locked,
)
from virnucpro.models.files import models_dir
from virnucpro.models.model_home import entry_of, is_whole, origin_of, put_in_place, write_checksums
from virnucpro.models.parts import FILES, PATTERNS

Log = Callable[[str], object]

GITHUB = (
    "https://raw.githubusercontent.com/Li-Jing-1997/VirNucPro/HEAD/{name}",
    "https://api.github.com/repos/Li-Jing-1997/VirNucPro/git/blobs/{blob_id}",
)


@dataclass(frozen=True, slots=True)
class Hub:
    """An encoder as published; `shape` is what its config.json must say."""

    kind: str
    hub: str
    shape: dict[str, int]
    size: str

    @property
    def folder(self) -> str:
        return self.hub.replace("/", "--")

    @property
    def wanted(self) -> str:
        return (
            f"{', '.join(FILES[self.kind])} and model.safetensors or pytorch_model.bin (every shard"
            f" and its index) of {self.hub}"
        )


@dataclass(frozen=True, slots=True)
class Published:
    """A classifier of the original repository, by git's id of its content, and the chunk length it
    was trained with.
    """

    name: str
    file: str
    blob_id: str
    chunk_length: int


ESM2 = Hub(
    "esm2", "facebook/esm2_t36_3B_UR50D", {"hidden_size": 2560, "num_hidden_layers": 36}, "11 GB"
)
DNABERT_S = Hub(
    "dnabert_s", "zhihan1996/DNABERT-S", {"hidden_size": 768, "num_hidden_layers": 12}, "0.5 GB"
)
ENCODERS = (ESM2, DNABERT_S)
PUBLISHED = {
    "500": Published("500", "500_model.pth", "fc35d5ef9f1f4564eea7036f34f4f8ec6000d33d", 500),
    "300": Published("300", "300_model.pth", "a0b5b85e7c1e44f00cde146d091beb82b2c8e855", 300),
}
LICENCE = "MIT (VirNucPro, ESM-2); DNABERT-S: see its page on the hub"


@dataclass(frozen=True, slots=True)
class Row:
    """A line of `models list`."""

    name: str
    state: str  # installed, incomplete, not installed
    chunk_length: int
    where: str
    what: str


def list_models() -> list[Row]:
    """mini, the published ones, and every other bundle of the models directory."""
    rows = []
    for name in PUBLISHED:
        directory = models_dir() / name
        state = (
            "installed"
            if installed(name)
            else "incomplete"
            if directory.is_dir()
            else "not installed"
        )
        hint = (
            "the published model"
            if state == "installed"
            else f"the published model; virnucpro models download {name}"
        )
        rows.append(
            Row(
                name,
                state,
                PUBLISHED[name].chunk_length,
                str(directory) if directory.is_dir() else "-",
                hint,
            )
        )
    if (MINI / "bundle.json").is_file():
        rows.append(
            Row(
                "mini",
                "installed",
                read_spec(MINI).chunk_length,
                str(MINI),
                "small, shipped with the program",
            )
        )
    for file in sorted(models_dir().glob("*/bundle.json")):
        name = file.parent.name
        if name not in PUBLISHED:
            state = "installed" if installed(name) else "incomplete"
            hint = (
                "your own"
                if state == "installed"
                else "your own; virnucpro models download 500 brings the encoders"
            )
            rows.append(
                Row(name, state, read_spec(file.parent).chunk_length, str(file.parent), hint)
            )
    return rows


def download(name: str, to: Path | str | None = None, log: Log = lambda line: None) -> Path:
    """Bring a published model to the models directory, or to `to`; what is there already is kept.
    Its bundle directory.

    Interrupted, it goes on where it was when called again. Without a network: ModelError naming the
    files to bring.
    """
    if name not in PUBLISHED:
        raise UsageError(
            f"models download {name}: no such published model; there are {' and '.join(PUBLISHED)}"
        )
    home = Path(to) if to is not None else models_dir()
    with locked(home / ".lock"):
        for part in ENCODERS:
            if not is_whole(home / part.folder):
                _download_hub(part, name, home, log)
        if not is_whole(home / name):
            _download_classifier(PUBLISHED[name], home, log)
        _write_bundle(PUBLISHED[name].name, PUBLISHED[name].chunk_length, home)
    log(f"{name}: complete in {home / name}")
    return home / name


def import_model(path: Path | str, name: str | None = None, log: Log = lambda line: None) -> Path:
    """Take a classifier's file or an encoder's directory, brought by other means, into the models
    directory.

    A published classifier is recognised by its content, an encoder by its config.json. Another
    classifier becomes a bundle of its own: `name`, else the file's stem; its chunk length is 300
    where the name says so, else 500.
    """
    path = Path(path)
    with locked(models_dir() / ".lock"):
        if path.is_dir():
            return _import_encoder(path, log)
        if not path.is_file():
            raise ModelError(
                f"{path}: no such file or directory; give 500_model.pth, 300_model.pth, or an"
                " encoder's directory"
            )
        known = next((p for p in PUBLISHED.values() if p.blob_id == git_blob_id(path)), None)
        if known is None and (name or path.stem) in (
            *PUBLISHED,
            *(Path(p.file).stem for p in PUBLISHED.values()),
            "mini",
        ):
            raise ModelError(
                f"{path}: not the published classifier of this name, its content differs; "
                "get it again, or import it under another --name"
            )
        bundle = known.name if known else name or path.stem
        if Path(bundle).name != bundle or bundle.startswith("."):
            raise UsageError(f"--name {bundle}: a plain name, without slashes or a leading dot")
        length = known.chunk_length if known else 300 if "300" in bundle else 500
        _check_width(path)
        _place_classifier(path, bundle, models_dir(), known.blob_id if known else "imported", log)
        _write_bundle(bundle, length, models_dir())
        missing = [part.folder for part in ENCODERS if not is_whole(models_dir() / part.folder)]
        log(
            f"{bundle}: chunks of {length} bases, in {models_dir() / bundle}"
            + (f"; still wanted: {', '.join(missing)}" if missing else "")
        )
        return models_dir() / bundle


def offline_help(name: str, home: Path) -> str:
    """What to bring, and where it goes: the end of a line."""
    file = PUBLISHED[name].file
    return (
        f"without a network here, bring {ESM2.wanted}, {DNABERT_S.wanted}, and {file} of"
        " Li-Jing-1997/VirNucPro on GitHub, then run `virnucpro models import` on each of the two"
        f" directories and on {file} (they go to {home})"
    )


def _download_hub(part: Hub, name: str, home: Path, log: Log) -> None:
    beside = home / f".{part.folder}.part"
    try:
        commit, files = hub_files(part.hub, None)
        wanted = _needed(part, files)
        _check_room(home, sum(file.size for file in wanted), part.hub)
        log(
            f"{part.hub}: {sum(file.size for file in wanted) / 1e9:.1f} GB, revision {commit[:12]},"
            f" to {home / part.folder}"
        )
        beside.mkdir(parents=True, exist_ok=True)
        fetch_hub(part.hub, commit, wanted, beside)
    except NotToBeHad as error:
        raise ModelError(
            f"models download {name}: {part.hub} is not to be had ({error});"
            f" {offline_help(name, home)}"
        ) from None
    _finish(part, beside, home / part.folder, f"{part.hub}@{commit}", log)


def _needed(part: Hub, files: tuple[HubFile, ...]) -> tuple[HubFile, ...]:
    """Configuration and tokenizer, and the weights in one format: safetensors where there
    are any.
    """
    names = {file.name for file in files}
    safe = any(name.endswith(".safetensors") for name in names)
    ends = (".safetensors", ".safetensors.index.json") if safe else (".bin", ".bin.index.json")
    starts = "model" if safe else "pytorch_model"
    wanted = tuple(
        f
        for f in files
        if f.name in PATTERNS or (f.name.startswith(starts) and f.name.endswith(ends))
    )
    missing = [name for name in FILES[part.kind] if name not in names]
    if missing or not any(file.name.endswith(ends[0]) for file in wanted):
        raise NotToBeHad(f"the hub's copy lacks {', '.join(missing) or 'weights'}")
    return wanted


def _check_room(home: Path, size: int, what: str) -> None:
    """Twice the size: the download and, for a while, its conversion."""
    free = shutil.disk_usage(home).free
    if free < 2 * size:
        raise ModelError(
            f"{home}: {free / 1e9:.1f} GB free, {what} needs {2 * size / 1e9:.1f} while it is"
            " converted; make room, or set VIRNUCPRO_HOME to a larger disk"
        )


def _import_encoder(source: Path, log: Log) -> Path:
    try:
        config = json.loads((source / "config.json").read_text())
    except (OSError, ValueError):
        raise ModelError(
            f"{source}: no readable config.json; give the directory of ESM-2 or DNABERT-S as the"
            " hub serves it"
        ) from None
    fits = [
        part
        for part in ENCODERS
        if all(config.get(key) == value for key, value in part.shape.items())
    ]
    if not fits:
        shapes = " or ".join(
            f"{part.hub} ({part.shape['num_hidden_layers']} layers of {part.shape['hidden_size']})"
            for part in ENCODERS
        )
        raise ModelError(
            f"{source}: neither {shapes}; use another encoder with --esm-model or --dna-model"
            " instead"
        )
    part = fits[0]
    missing = [name for name in FILES[part.kind] if not (source / name).is_file()]
    if missing:
        raise ModelError(
            f"{source}: {' and '.join(missing)} missing; copy it there from {part.hub}"
        )
    from virnucpro.models.weights import weight_files

    weights = weight_files(source)
    _check_room(models_dir(), sum(file.stat().st_size for file in weights), part.hub)
    beside = models_dir() / f".{part.folder}.part"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    indices = [source / f"{stem}.index.json" for stem in ("model.safetensors", "pytorch_model.bin")]
    for file in [*weights, *(source / name for name in PATTERNS), *indices]:
        if file.is_file():
            shutil.copyfile(file, beside / file.name)
    return _finish(
        part,
        beside,
        models_dir() / part.folder,
        f"{part.hub}, imported from {source.resolve()}",
        log,
    )


def _finish(part: Hub, beside: Path, target: Path, origin: str, log: Log) -> Path:
    """Convert, write checksums, rename into place."""
    from virnucpro.models.convert import convert_directory

    as_came = {
        file.name: entry_of(file) for file in sorted(beside.iterdir()) if file.suffix == ".bin"
    }
    if convert_directory(beside):
        log(f"{part.hub}: weights converted to safetensors")
    # the hub client's notes; what an interrupted end left
    for left in (beside / ".cache", *beside.glob("pytorch_model*")):
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    write_checksums(beside, origin, {"converted_from": as_came} if as_came else {})
    put_in_place(beside, target)
    return target


def _download_classifier(model: Published, home: Path, log: Log) -> None:
    arrived = home / model.file
    try:
        fetch(
            [url.format(name=model.file, blob_id=model.blob_id) for url in GITHUB],
            arrived,
            model.blob_id,
            log,
        )
    except NotToBeHad as error:
        raise ModelError(
            f"models download {model.name}: {model.file} is not to be had ({error}); "
            f"{offline_help(model.name, home)}"
        ) from None
    _place_classifier(arrived, model.name, home, model.blob_id, log)
    arrived.unlink()


def _check_width(source: Path) -> None:
    """Raises ModelError where a classifier was trained with other encoders than the
    published ones.
    """
    from virnucpro.models.classifier import Classifier

    given, wanted = (
        Classifier.load(source).width,
        sum(part.shape["hidden_size"] for part in ENCODERS),
    )
    if given != wanted:
        raise ModelError(
            f"{source}: takes {given} features, the published encoders give {wanted}; use it with"
            " its own encoders (--classifier, --esm-model, --dna-model)"
        )


def _place_classifier(source: Path, name: str, home: Path, origin: str, log: Log) -> None:
    """The tensors of a `.pth` (read without executing it) or `.safetensors`, as the classifier of
    bundle `name`.
    """
    from virnucpro.models.classifier import Classifier

    classifier = Classifier.load(source)
    beside = home / f".{name}.part"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    classifier.save(beside / "classifier.safetensors")
    write_checksums(
        beside,
        f"{source.name}, git id {origin}",
        {"converted_from": {source.name: entry_of(source)}},
    )
    put_in_place(beside, home / name)
    log(f"{name}: classifier of {classifier.width} features converted to safetensors")


def _write_bundle(name: str, length: int, home: Path) -> None:
    """`bundle.json`, which names the encoders by hub id, commit, and place beside it (so that DIR
    can be moved).
    """
    parts = {}
    for part in ENCODERS:
        origin = origin_of(home / part.folder)
        revision = origin.removeprefix(f"{part.hub}@") if origin.startswith(f"{part.hub}@") else ""
        parts[part.kind] = {
            "hub": part.hub,
            "path": f"../{part.folder}",
            **({"revision": revision} if revision else {}),
        }
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
    beside = file.with_name(".bundle.json.part")
    beside.write_text(json.dumps(bundle, indent=1) + "\n")
    os.replace(beside, file)
