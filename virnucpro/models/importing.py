"""Models that were brought by other means: a classifier's file or an encoder's directory -> the
models directory.

Recognises the published ones by their content, and says where another takes their place. Loads
torch only to read and convert weights.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from virnucpro.errors import ModelError, UsageError
from virnucpro.files import MODELS, explained, git_blob_id, is_plain_name
from virnucpro.models.contents import Contents, Entry, announced, is_whole, put_directory_in_place
from virnucpro.models.convert import convert, converted_name, write_index
from virnucpro.models.encoders import EncoderEntry, HubModel, published_encoders
from virnucpro.models.files import models_dir
from virnucpro.models.hub import SMALL_FILES, folder_name, lock
from virnucpro.models.library import (
    PUBLISHED,
    place_classifier,
    write_bundle,
)
from virnucpro.models.weights import read_table, weight_files

RESERVED = ("mini", "verified", "sha256.json")  # names in the models directory, or of the program

Log = Callable[[str], object]


def import_model(path: Path | str, name: str | None = None, log: Log = lambda _: None) -> Path:
    """Take a classifier's file or an encoder's directory, brought by other means, into the models
    directory.

    A published classifier is recognised by its content, an encoder by its config.json. Another
    classifier becomes a bundle of its own: `name`, else the file's stem; its chunk length is 300
    where the name says so, else 500.
    """
    path = Path(path)
    with lock(models_dir()):
        if path.is_dir():
            return _import_encoder(path, log)
        if not path.is_file():
            raise ModelError(
                f"{path}: no such file or directory; give 500_model.pth, 300_model.pth, or an"
                " encoder's directory"
            )
        return _import_classifier(path, name, log)


def _import_classifier(path: Path, name: str | None, log: Log) -> Path:
    known = next((p for p in PUBLISHED.values() if p.blob_id == git_blob_id(path)), None)
    bundle = known.name if known else name or path.stem
    if known is None:
        _check_name(bundle, path)
    length = known.chunk_length if known else 300 if "300" in bundle else 500
    _check_width(path)
    place_classifier(path, bundle, models_dir(), known.blob_id if known else "imported", log)
    write_bundle(bundle, length, models_dir())
    folders = [folder_name(model.id) for _, model in published_encoders()]
    missing = [folder for folder in folders if not is_whole(models_dir() / folder)]
    log(
        f"{bundle}: chunks of {length} bases, in {models_dir() / bundle}"
        + (f"; still wanted: {', '.join(missing)}" if missing else "")
    )
    return models_dir() / bundle


def _check_name(name: str, path: Path) -> None:
    """Raises an error where a user's own bundle cannot have this name."""
    if name in (*PUBLISHED, *(Path(p.file).stem for p in PUBLISHED.values())):
        raise ModelError(
            f"{path}: not the published classifier of this name, its content differs; get it"
            " again, or import it under another --name"
        )
    if not is_plain_name(name) or not name.isprintable() or name[0] in ".-":
        raise UsageError(f"--name {name!r}: a plain name, without slashes or a leading dot or dash")
    place = models_dir() / name
    came = Contents.read(place)
    if came and Entry.of(path) not in came.converted_from.values():
        raise UsageError(
            f"--name {name}: there is another model of this name in {place}; take another name, or"
            " remove that directory"
        )
    other = place.exists() and not (place / "bundle.json").exists()
    if other or name in RESERVED or "--" in name:
        raise UsageError(f"--name {name}: kept for something else in {models_dir()}; take another")


def _import_encoder(source: Path, log: Log) -> Path:
    entry, model = _recognised(source)
    folder = folder_name(model.id)
    missing = [name for name in entry.files if not (source / name).is_file()]
    if missing:
        raise ModelError(
            f"{source}: {' and '.join(missing)} missing; copy it there from {model.id}"
        )
    weights = weight_files(source)
    size = sum(file.stat().st_size for file in weights)
    if shutil.disk_usage(models_dir()).free < size:
        raise ModelError(f"{models_dir()}: {size / 1e9:.1f} GB needed for {model.id}; make room")
    with announced(
        f"{source}: reading it, to compare it with what was published", size, log
    ) as add:
        came = {file.name: Entry.of(file, add) for file in weights}
    contents = Contents(_origin(model, source, came, log))
    unfinished = models_dir() / f".{folder}.part"
    with explained(unfinished, MODELS):
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        for file in (*weights, *(source / name for name in SMALL_FILES)):
            target = unfinished / converted_name(file.name)
            if target.name != file.name:
                convert(file, target, log)
                contents = contents.adding(target, {file.name: came[file.name]})
            elif file.is_file():
                shutil.copyfile(file, target)
                contents = contents.adding(target)
    if (index := write_index(unfinished)) is not None:
        contents = contents.adding(index)
    contents.write(unfinished)
    put_directory_in_place(unfinished, models_dir() / folder)
    for name, published in PUBLISHED.items():
        if (models_dir() / name / "bundle.json").is_file():  # it tells the revision
            write_bundle(name, published.chunk_length, models_dir())
    return models_dir() / folder


def _recognised(source: Path) -> tuple[EncoderEntry, HubModel]:
    """The published encoder that the config.json of `source` describes."""
    advice = "give the directory of ESM-2 or DNABERT-S as the hub serves it"
    config = read_table(source / "config.json", advice)
    fits = [
        (entry, model)
        for entry, model in published_encoders()
        if all(config.get(key) == value for key, value in model.shape.items())
    ]
    if fits:
        return fits[0]
    shapes = " or ".join(
        f"{model.id} ({model.shape['num_hidden_layers']} layers of {model.shape['hidden_size']})"
        for _, model in published_encoders()
    )
    raise ModelError(
        f"{source}: neither {shapes}; use another encoder with --esm-model or --dna-model instead"
    )


def _origin(model: HubModel, source: Path, came: dict[str, Entry], log: Log) -> str:
    """Where imported weights are from, by their sha256; a warning where they are not the published
    ones.
    """
    before = Contents.read(source)
    original = {entry.sha256 for entry in came.values()}
    if before and all(before.files.get(name) == entry for name, entry in came.items()):
        original = {
            entry.sha256 for entry in before.converted_from.values()
        }  # ours, from elsewhere
    if original == set(model.weights):
        return f"{model.id}@{model.revision}"
    log(
        f"warning: {source}: not the published weights of {model.id} by their sha256 (files"
        " converted elsewhere differ too); `virnucpro models verify 500` compares what they compute"
    )
    return f"{model.id}, imported from {source.resolve()}"


def _check_width(source: Path) -> None:
    """Raises ModelError where a classifier was trained with other encoders than the
    published ones.
    """
    from virnucpro.models.classifier import Classifier

    given = Classifier.load(source).width
    wanted = sum(model.shape["hidden_size"] for _, model in published_encoders())
    if given != wanted:
        raise ModelError(
            f"{source}: takes {given} features, the published encoders give {wanted}; use it with"
            " its own encoders (--classifier, --esm-model, --dna-model)"
        )
