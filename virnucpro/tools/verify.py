"""Whether a bundle, on this machine, computes what its authors' program computed with the published
weights.

The published figures (scores, labels, norms and some components of the features of two small
inputs) are in the package. Knows how to compare; is handed the pipeline as a function, and the
figures, so that it holds for any bundle. A result is kept in the models directory under the
bundle's content, and later runs say in `run.json` that it passed.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro import __version__
from virnucpro.errors import ModelError
from virnucpro.models.bundle import Bundle, named_spec
from virnucpro.models.contents import check_files
from virnucpro.models.figures import Rows, columns_of, load_figures, places, read_rows
from virnucpro.models.files import models_dir

FEATURE_TOLERANCE = 2e-5  # fp32 (SPEC 5)
SCORE_TOLERANCE = 1e-4
LEAST_COSINE = 0.999  # 16 bits and less, against fp32 on the same machine

# Runs the pipeline: (input file, output directory, precision) -> nothing; the output directory is
# then read.
Predict = Callable[[Path, Path, str], object]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One precision: what deviated most, and whether all of it is within its tolerance."""

    precision: str
    passed: bool
    frames: int
    labels_equal: int
    max_score_deviation: float
    max_feature_deviation: float | None  # of the kept components, against the figures; fp32 only
    max_norm_deviation: float | None
    least_cosine: float | None  # against fp32, of whole rows; the others only
    problem: str = ""

    def line(self) -> str:
        against = (
            f"features within {self.max_feature_deviation:.1e}, norms within"
            f" {self.max_norm_deviation:.1e}"
            if self.max_feature_deviation is not None
            else (
                f"cosine to fp32 at least {self.least_cosine:.6f}"
                if self.least_cosine is not None
                else ""
            )
        )
        text = (
            f"{self.precision}: {self.labels_equal} of {self.frames} labels equal, scores within"
            f" {self.max_score_deviation:.1e}"
        )
        return (
            f"{text}{', ' if against else ''}{against}:"
            f" {'passed' if self.passed else 'FAILED, ' + self.problem}"
        )


@dataclass(frozen=True, slots=True)
class Verification:
    """What `models verify NAME` found: files that changed, comparisons (none where nothing was
    published), and the record.
    """

    wrong_files: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    record: Path | None

    @property
    def passed(self) -> bool:
        return not self.wrong_files and all(comparison.passed for comparison in self.comparisons)


def verify_model(name: str, log: Callable[[str], object] = lambda line: None) -> Verification:
    """Check the files of an installed model, and, where figures of it were published, what it
    computes in every precision this machine has; the result is kept for later runs.
    """
    spec = named_spec(name, "models verify")
    bundle = Bundle.load(spec.parts["classifier"].path.parent)
    kept = [
        d
        for d in (bundle.esm2, bundle.dnabert_s, bundle.classifier.parent)
        if (d / "checksums.json").is_file()
    ]
    wrong = tuple(line for directory in kept for line in check_files(directory))
    figures = load_figures()
    if wrong or bundle.name != figures["model"]:
        return Verification(wrong, (), None)
    import torch

    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name(0) if cuda else "CPU"
    log(f"{name}: {len(figures['inputs'])} inputs on {device}, compared with {figures['source']}")
    comparisons = verify(
        pipeline_of(bundle, "0" if cuda else "none"), figures, machine_precisions()
    )
    return Verification(
        wrong, comparisons, sign_off(comparisons, name, bundle.identity(), device, figures)
    )


def pipeline_of(bundle: Bundle, gpus: str) -> Predict:
    """`virnucpro predict` with this bundle, on one device, without touching the user's cache."""

    def predict(file: Path, directory: Path, precision: str) -> None:
        from virnucpro import api

        api.predict(
            file,
            output_dir=directory,
            model=str(bundle.classifier.parent),
            precision=precision,
            gpus=gpus,
            cache_dir=file.parent / "cache",
        )

    return predict


def machine_precisions() -> tuple[str, ...]:
    """The precisions `--precision` has on this machine's first device."""
    import torch

    from virnucpro.models.precision import computes_bf16

    if not torch.cuda.is_available():
        return ("fp32",)
    return (
        ("fp32", "fp16", "bf16", "int8")
        if computes_bf16(torch.device("cuda", 0))
        else ("fp32", "fp16")
    )


def verify(
    predict: Predict, figures: Mapping[str, Any], precisions: Sequence[str]
) -> tuple[Comparison, ...]:
    """Run every input of `figures` in every precision and compare. fp32 comes first, whatever the
    order given: it is compared with the figures, the others with it (features) and with the figures
    (labels).
    """
    done: list[Comparison] = []
    reference: dict[str, Rows] = {}
    for precision in dict.fromkeys(["fp32", *precisions]):
        with tempfile.TemporaryDirectory(prefix="virnucpro-verify-") as scratch:
            found = {}
            for given in figures["inputs"]:
                file = Path(scratch) / f"{given['name']}.fa"
                file.write_text(given["fasta"])
                directory = Path(scratch) / given["name"]
                predict(file, directory, precision)
                found[given["name"]] = read_rows(directory, given["name"])
        if precision == "fp32":
            reference = found
        done.append(_compare(precision, figures, found, None if precision == "fp32" else reference))
    return tuple(done)


def sign_off(
    comparisons: Iterable[Comparison],
    model: str,
    identity: Mapping[str, str],
    device: str,
    figures: Mapping[str, Any],
) -> Path:
    """Keep a result under the bundle's content; returns the file. A failed result replaces a passed
    one.
    """
    import torch
    import transformers

    done = list(comparisons)
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    content = {
        "passed": all(comparison.passed for comparison in done),
        "model": model,
        "date": date,
        "device": device,
        "precisions": {comparison.precision: asdict(comparison) for comparison in done},
        "versions": {
            "virnucpro": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "figures": figures["source"],
        "identity": dict(identity),
    }
    file = _result_file(identity)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_name(f".{file.name}.part")
        beside.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(beside, file)
    except OSError as error:
        raise ModelError(
            f"{file}: the result cannot be kept ({error.strerror}); set VIRNUCPRO_HOME to a place"
            " that can be written to"
        ) from None
    return file


def read_verification(identity: Mapping[str, str]) -> dict[str, Any] | None:
    """What is known of a bundle of this content: for `run.json`. None where it was never verified
    here.
    """
    try:
        found = json.loads(_result_file(identity).read_text())
    except (OSError, ValueError):
        return None
    return found if found.get("identity") == dict(identity) else None


def _result_file(identity: Mapping[str, str]) -> Path:
    key = hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()
    return models_dir() / "verified" / f"{key[:24]}.json"


def _compare(
    precision: str,
    figures: Mapping[str, Any],
    found: Mapping[str, Rows],
    reference: Mapping[str, Rows] | None,
) -> Comparison:
    widths = figures["widths"]
    frames = labels = 0
    score = feature = norm = 0.0
    cosine = 1.0
    for given in figures["inputs"]:
        rows = found[given["name"]]
        expected = {frame["id"]: frame for frame in given["frames"]}
        frames += len(expected)
        if (
            set(rows.ids) != set(expected)
            or len(rows.ids) != len(expected)
            or rows.features.shape[1] != sum(widths.values())
        ):
            problem = (
                f"{given['name']}: other frames ({len(rows.ids)}, not {len(expected)}) or another"
                " width"
            )
            return Comparison(
                precision, False, frames, labels, float("inf"), None, None, None, problem
            )
        for i, name in enumerate(rows.ids):
            frame = expected[name]
            labels += rows.labels[i] == frame["label"]
            score = _most(
                score, abs(rows.others[i] - frame["others"]), abs(rows.virus[i] - frame["virus"])
            )
            for part, columns in columns_of(widths).items():
                values = rows.features[i, columns].astype(np.float64)
                feature = _most(feature, *np.abs(values[places(len(values))] - frame[part]))
                norm = _most(norm, abs(np.linalg.norm(values) - frame[f"{part}_norm"]))
        if reference is not None:
            cosine = min(cosine, _least_cosine(rows, reference[given["name"]], widths))
    if reference is None:
        # The norms of two vectors differ at most by the norm of their difference.
        norm_tolerance = FEATURE_TOLERANCE * max(widths.values()) ** 0.5
        limits = {
            "labels": labels == frames,
            "scores": score <= SCORE_TOLERANCE,
            "features": feature <= FEATURE_TOLERANCE,
            "norms": norm <= norm_tolerance,
        }
        shown = (feature, norm, None)
    else:
        limits = {"labels": labels == frames, "cosine": cosine >= LEAST_COSINE}
        shown = (None, None, cosine)
    failed = [name for name, good in limits.items() if not good]
    problem = f"{', '.join(failed)} out of tolerance" if failed else ""
    return Comparison(precision, not failed, frames, labels, score, *shown, problem)


def _least_cosine(rows: Rows, reference: Rows, widths: Mapping[str, int]) -> float:
    order = [reference.ids.index(name) for name in rows.ids]
    least = 1.0
    for columns in columns_of(widths).values():
        a, b = (
            rows.features[:, columns].astype(np.float64),
            reference.features[order][:, columns].astype(np.float64),
        )
        with np.errstate(invalid="ignore"):
            cosines = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
        least = min(least, float(np.where(np.isfinite(cosines), cosines, -1.0).min(initial=1.0)))
    return least


def _most(*values: float) -> float:
    """The largest; infinite where one is no number."""
    return float(max(value if np.isfinite(value) else np.inf for value in values))
