"""A model bundle: the encoders and the classifier that belong together, and which one a run uses.

Knows `bundle.json`, names and places of bundles, and the identity of their files. Does not read
weights and loads no torch. `bundle.json`:

    {"name": "mini", "chunk_length": 500, "frame_policy": "stretches", "classes": ["others",
    "virus"],
     NAME OF AN ENCODER: "directory", ..., "classifier": "classifier.safetensors",
     "licence": "...", "accuracy": {...}, "calibration": {...}}

An encoder is one of encoders.py; it is a path relative to the file, a hub id, or {"hub": id,
"revision": commit, "path": where it lies}. frame_policy (then it is open), accuracy, licence and
calibration may be absent. "cpu_precision": "bf16" says that the answers of bf16 were compared with
those of fp32: then `--precision auto` computes in bf16 on CPUs that do so natively; without it in
fp32.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from virnucpro.calling.calibration import Calibration
from virnucpro.errors import ModelError, UsageError
from virnucpro.files import is_plain_name
from virnucpro.models.config import Config
from virnucpro.models.encoders import (
    ENCODERS,
    EncoderEntry,
    as_listed,
    encoders_of,
    published_encoders,
    read_tokenizers,
)
from virnucpro.models.files import directory_digest, file_digest, models_dir
from virnucpro.models.parts import CLASSIFIER, Part, parse_part
from virnucpro.models.weights import read_table
from virnucpro.sequences.tokens import Tokenizers
from virnucpro.settings import (
    FRAME_POLICIES,
    LONGEST_CHUNK,
    SHORTEST_CHUNK,
    Choice,
    ModelSettings,
    flag,
)

CLASSES = ("others", "virus")
CPU_PRECISIONS = ("fp32", "bf16")
PUBLISHED = {"500": 500, "300": 300}  # name -> chunk length
FULL_ONE = "; the full model is 500"
LARGEST_SPEC = 1 << 20  # bytes of bundle.json
LONGEST_LABEL = 200  # letters of a bundle's name or licence
ADVICE = "correct it, or take it from the bundle's source again"
MINI = Path(__file__).parent / "mini"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose parts are all on this machine: directories of encoders by their names, and the
    file of a classifier.
    """

    name: str
    chunk_length: int
    directories: Mapping[str, Path]
    classifier: Path
    frame_policy: str = "open"
    licence: str | None = None
    accuracy: Any = None
    calibration: dict[str, Any] | None = None
    cpu_precision: str = "fp32"
    sources: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, directory: Path | str) -> Bundle:
        """The bundle in `directory`. Raises ModelError."""
        return locate(read_spec(Path(directory)))

    @property
    def encoders(self) -> tuple[EncoderEntry, ...]:
        """In the order of a feature row."""
        return encoders_of(self.directories)

    @cached_property
    def tokenizers(self) -> Tokenizers:
        """Of the encoders; many samples share them, as making one takes a third of a second.
        Raises ModelError.
        """
        return read_tokenizers(self.directories)

    @property
    def widths(self) -> dict[str, int]:
        """Width of each encoder's embedding, by its config.json; in the order of a feature row."""
        return {entry.name: hidden_size(self.directories[entry.name]) for entry in self.encoders}

    def check_classifier(self, width: int) -> None:
        """Raises ModelError unless a classifier of `width` columns fits the encoders."""
        widths = self.widths
        if width != sum(widths.values()):
            given = [f"{ENCODERS[name].title} {one}" for name, one in widths.items()]
            given[0] = given[0].replace(" ", " gives ")
            *encoders, classifier = map(flag, part_settings().values())
            options = ", ".join([classifier, *encoders])
            raise ModelError(
                f"{self.classifier}: takes {width} features, but {' and '.join(given)}; choose a"
                f" classifier trained with these encoders ({options})"
            )

    def identity(self) -> dict[str, str]:
        """sha256 of each part's content (weights, configuration, tokenizer), whatever its path; in
        the order of `run.json`, from which `merge` takes it.
        """
        found = {
            entry.name: directory_digest(self.directories[entry.name], (entry.tokenizer_file,))
            for entry in self.encoders
        }
        return dict(sorted({**found, CLASSIFIER: file_digest(self.classifier)}.items()))


@dataclass(frozen=True, slots=True)
class BundleSpec:
    """What `bundle.json` says, its parts not yet looked for."""

    name: str
    chunk_length: int
    parts: dict[str, Part]
    frame_policy: str = "open"
    licence: str | None = None
    accuracy: Any = None
    calibration: dict[str, Any] | None = None
    cpu_precision: str = "fp32"


def read_spec(directory: Path) -> BundleSpec:
    """Parse and check `directory`/bundle.json. Raises ModelError naming the field."""
    file = directory / "bundle.json"
    if not file.is_file():
        raise ModelError(
            f"{file}: no such file; a bundle is a directory with bundle.json, directories of"
            f" {' and '.join(e.title for e in as_listed(encoders_of(())))}, and"
            " classifier.safetensors"
        )
    stored = read_table(file, ADVICE, LARGEST_SPEC)

    def wrong(what: str) -> ModelError:
        return ModelError(f"{file}: {what}; {ADVICE}")

    names = part_names(stored)
    missing = [name for name in ("name", "chunk_length", *names) if name not in stored]
    if missing:
        raise wrong(f"lacks {', '.join(missing)}")
    length, policy = stored["chunk_length"], stored.get("frame_policy", "open")
    licence, calibration = stored.get("licence"), stored.get("calibration")
    precision = stored.get("cpu_precision", "fp32")
    label = f"is not a text of up to {LONGEST_LABEL} letters"
    lengths = f"a whole number of {SHORTEST_CHUNK} to {LONGEST_CHUNK:,} bases"
    in_range = type(length) is int and SHORTEST_CHUNK <= length <= LONGEST_CHUNK
    for is_right, what in (
        (is_label(stored["name"]), f"name {label}"),
        (licence is None or is_label(licence), f"licence {label}"),
        (in_range, f"chunk_length {repr(length)[:40]} is not {lengths}"),
        (policy in FRAME_POLICIES, _not_one_of("frame_policy", policy, FRAME_POLICIES)),
        (precision in CPU_PRECISIONS, _not_one_of("cpu_precision", precision, CPU_PRECISIONS)),
        (
            stored.get("classes", list(CLASSES)) == list(CLASSES),
            f"classes must be {list(CLASSES)}, in this order",
        ),
        (
            calibration is None or isinstance(calibration, dict),
            "calibration is not a table of fields",
        ),
    ):
        if not is_right:
            raise wrong(what)
    try:
        if calibration:
            Calibration.from_json(calibration)  # now, and not when everything has been embedded
        parts = {part: parse_part(part, stored[part], directory) for part in names}
    except (ValueError, ModelError) as error:
        raise wrong(str(error)) from None
    accuracy = stored.get("accuracy")
    return BundleSpec(
        stored["name"], length, parts, policy, licence, accuracy, calibration, precision
    )


def part_names(stored: Collection[str] = ()) -> tuple[str, ...]:
    """The parts of a bundle with the fields `stored`, with those that none goes without."""
    return *(entry.name for entry in as_listed(encoders_of(stored))), CLASSIFIER


def part_settings() -> dict[str, str]:
    """The settings that replace a part, by its name."""
    entries = as_listed(ENCODERS.values())
    settings = {entry.name: entry.setting for entry in entries if entry.setting is not None}
    return {**settings, CLASSIFIER: CLASSIFIER}


def part_option(name: str) -> str:
    """The option that replaces the part `name`."""
    return flag(part_settings()[name])


def _not_one_of(field: str, value: object, known: Collection[str]) -> str:
    return f"{field} {repr(value)[:40]} is not one of {', '.join(known)}"


def is_label(value: object) -> bool:
    """Whether `value` is a text that can stand in a table and on the terminal."""
    return isinstance(value, str) and 0 < len(value) <= LONGEST_LABEL and value.isprintable()


def locate(spec: BundleSpec) -> Bundle:
    """The bundle with every part found on this machine (hub parts are fetched if need be) and
    fitting the others.
    """
    paths = {name: part.locate() for name, part in spec.parts.items()}
    classifier = paths.pop(CLASSIFIER)
    sources = {name: str(part) for name, part in spec.parts.items()}
    bundle = Bundle(
        spec.name,
        spec.chunk_length,
        paths,
        classifier,
        frame_policy=spec.frame_policy,
        licence=spec.licence,
        accuracy=spec.accuracy,
        calibration=spec.calibration,
        cpu_precision=spec.cpu_precision,
        sources=sources,
    )
    if bundle.classifier.suffix == ".safetensors":
        bundle.check_classifier(classifier_width(bundle.classifier))
    return bundle


def resolve_bundle(settings: ModelSettings) -> tuple[Bundle, Choice]:
    """The bundle `settings` ask for, and why it is that one.

    A replaced part or another chunk length drops the calibration, which holds for the whole only.
    Raises ModelError when a part is missing, UsageError when the chunk length is impossible.
    """
    asked = {name: getattr(settings, setting) for name, setting in part_settings().items()}
    replaced = {name: value for name, value in asked.items() if value is not None}
    parts = {name: parse_option(name, value) for name, value in replaced.items()}
    spec, reason = base_spec(settings.model, parts)
    if parts:
        spec = replace(
            spec,
            parts=spec.parts | parts,
            calibration=None,
            accuracy=None,
            cpu_precision="fp32",
            name=spec.name if spec.name == "custom" else f"{spec.name} (modified)",
        )
        reason += "; " + " ".join(
            f"{part_option(name)} {value}" for name, value in replaced.items()
        )
    if settings.chunk_length is not None and settings.chunk_length != spec.chunk_length:
        if not SHORTEST_CHUNK <= settings.chunk_length <= LONGEST_CHUNK:
            raise UsageError(
                f"--chunk-length {settings.chunk_length}: at least {SHORTEST_CHUNK} bases, at most"
                f" {LONGEST_CHUNK:,}"
            )
        spec = replace(spec, chunk_length=settings.chunk_length, calibration=None, accuracy=None)
        reason += f"; --chunk-length {settings.chunk_length}"
    bundle = locate(spec)
    return bundle, Choice("model", bundle.name, reason)


def base_spec(model: str | None, parts: dict[str, Part]) -> tuple[BundleSpec, str]:
    """The bundle to start from, and the reason."""
    if set(part_names()) <= set(parts) and (model is None or model in PUBLISHED):
        length = PUBLISHED[model or "500"]
        return BundleSpec("custom", length, parts), "all parts given" + (
            f", chunks of --model {model}" if model else ""
        )
    pinned = os.environ.get("VIRNUCPRO_MODEL")
    if model is not None:
        return named_spec(model), "as asked for" + (FULL_ONE if model == "mini" else "")
    if pinned:
        return named_spec(pinned, "VIRNUCPRO_MODEL"), "VIRNUCPRO_MODEL" + (
            FULL_ONE if pinned == "mini" else ""
        )
    if installed("500"):
        return named_spec("500"), "the full model is installed"
    if os.path.lexists(models_dir() / "500" / "bundle.json"):  # mini would be a silent change
        raise ModelError(
            f"{models_dir() / '500'}: the full model was brought here and is not whole, damaged or"
            " not readable; `virnucpro models download 500` mends it, `virnucpro doctor` says more,"
            " or choose --model mini"
        )
    return (
        named_spec("mini"),
        "shipped with the package; `virnucpro models download 500` gets the full model",
    )


def named_spec(model: str, said: str = "--model") -> BundleSpec:
    """A bundle by name (`mini`, `500`, `300`, any in the models directory) or by directory.

    said: where it was asked for.
    """
    if model == "mini":
        return read_spec(MINI)
    if is_plain_name(model) and (models_dir() / model / "bundle.json").is_file():
        return read_spec(models_dir() / model)
    if model in PUBLISHED:
        brought = [f"{hub.id} ({' '.join(e.files)} and weights)" for e, hub in published_encoders()]
        raise ModelError(
            f"{said} {model}: not on this machine; `virnucpro models download {model}` fetches it."
            f" Without a network bring {', '.join(brought)} and {model}_model.pth, then"
            f" `virnucpro models import` puts them into {models_dir()}"
        )
    with suppress(OSError, ValueError):  # no name of a directory
        if Path(model).is_dir():
            return read_spec(Path(model))
    raise ModelError(
        f"{said} {model}: neither a known name nor a directory;"
        " give 500, 300, mini, or the path of a bundle"
    )


def installed(name: str) -> bool:
    """Whether the bundle `name` lies in the models directory with all its parts; fetches
    nothing.
    """
    try:
        spec = read_spec(models_dir() / name)
    except ModelError:
        return False
    return all(part.local() is not None for part in spec.parts.values())


def parse_option(name: str, value: str) -> Part:
    """The part that an option names. Raises ModelError."""
    try:
        return parse_part(name, value, Path())
    except ValueError as error:
        raise ModelError(f"{part_option(name)} {value}: {error}") from None


def hidden_size(directory: Path) -> int:
    """Width of an encoder's embedding, by its config.json. Raises ModelError."""
    return Config(directory).number("hidden_size")


def classifier_width(file: Path) -> int:
    """Columns of a classifier's first layer, from the header of its safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as opened:
            return int(opened.get_slice("hidden_layer.weight").get_shape()[1])
    except (OSError, ValueError, IndexError, SafetensorError) as error:
        raise ModelError(
            f"{file}: not a classifier in safetensors format ({error}); give another --classifier"
        ) from None
