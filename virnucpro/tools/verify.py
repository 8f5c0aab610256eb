"""Whether a bundle, on this machine, computes what its authors' program computed with the published
weights.

The published figures (scores, labels and all features of two small inputs) are in the package.
Knows how to compare; is handed the pipeline as a function, and the figures, so that it holds for
any bundle. A result is kept in the models directory under the bundle's content, and later runs say
in `run.json` that it passed.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from virnucpro import __version__
from virnucpro.errors import ModelError
from virnucpro.files import MODELS, explained, write_json
from virnucpro.models.bundle import PUBLISHED, Bundle, named_spec
from virnucpro.models.contents import Contents, check_files
from virnucpro.models.encoders import published_encoders
from virnucpro.models.files import models_dir, verification_file
from virnucpro.tools.figures import (
    NEAR,
    PASSED,
    WRONG,
    Comparison,
    Figures,
    ScoredRows,
    compare,
    read_rows,
    verdict_of,
)

# Runs the pipeline: (input file, output directory, precision) -> nothing; the output directory is
# then read.
Predict = Callable[[Path, Path, str], object]
Log = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Verification:
    """What `models verify NAME` found. wrong_files: those that changed, a line each; comparisons:
    none where nothing was published; published: whether the weights are the published ones by
    their sha256; record: where the result is kept, None where `not_kept` says why it is not.
    """

    wrong_files: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    published: bool
    record: Path | None = None
    not_kept: str = ""

    @property
    def verdict(self) -> str:
        """PASSED, NEAR or WRONG."""
        return WRONG if self.wrong_files else verdict_of(self.comparisons)

    def advice(self, name: str) -> str:
        """What to do about a verdict that is not passed."""
        if self.wrong_files:
            return f"`virnucpro models download {name}` fetches what changed, and nothing else"
        if self.verdict == NEAR and self.published:
            return (
                "the weights are the published ones by their sha256, so that this machine's"
                " arithmetic differs a little more than it should: another BLAS or driver; labels"
                " can be trusted, last digits not"
            )
        if self.published:
            return "the weights are the published ones by their sha256: please report this machine"
        origin = "nearly the published ones" if self.verdict == NEAR else "other ones"
        return (
            f"the weights are {origin}: remove the encoders' directories below {models_dir()} and"
            f" run `virnucpro models download {name}`"
        )


def verify_model(name: str, log: Log = lambda _: None) -> Verification:
    """Check the files of an installed model, and, where figures of it were published, what it
    computes in every precision this machine has; the result is kept for later runs.
    """
    spec = named_spec(name, "models verify")
    places = {kind: part.local() for kind, part in spec.parts.items()}
    if missing := [str(spec.parts[kind]) for kind, place in places.items() if place is None]:
        raise ModelError(
            f"models verify {name}: {', '.join(missing)} not whole on this machine;"
            f" `virnucpro models download {name if name in PUBLISHED else 500}` completes it"
        )
    directories = [place if place.is_dir() else place.parent for place in places.values() if place]
    kept = [d for d in directories if (d / "checksums.json").is_file()]
    wrong = tuple(line for directory in kept for line in check_files(directory, log))
    figures, published = Figures.load(), _are_published(kept)
    if wrong or spec.name != figures.model:
        return Verification(wrong, (), published)
    bundle = Bundle.load(directories[-1])
    import torch

    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name(0) if cuda else "CPU"
    log(f"{name}: {len(figures.inputs)} inputs on {device}, compared with {figures.source}")
    comparisons = verify(
        pipeline_of(bundle, "0" if cuda else "none"), figures, machine_precisions()
    )
    try:
        record = sign_off(comparisons, name, bundle.identity(), device, figures)
    except ModelError as error:  # the result counts all the same
        return Verification(wrong, comparisons, published, not_kept=str(error))
    return Verification(wrong, comparisons, published, record)


def _are_published(directories: Iterable[Path]) -> bool:
    """Whether the encoders came as the pinned revisions have them."""
    found = {contents.origin for d in directories if (contents := Contents.read(d))}
    return found >= {f"{model.id}@{model.revision}" for _, model in published_encoders()}


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

    from virnucpro.models.choices import computes_bf16

    if not torch.cuda.is_available():
        return ("fp32",)
    return (
        ("fp32", "fp16", "bf16", "int8")
        if computes_bf16(torch.device("cuda", 0))
        else ("fp32", "fp16")
    )


def verify(predict: Predict, figures: Figures, precisions: Sequence[str]) -> tuple[Comparison, ...]:
    """Run every input of `figures` in every precision and compare. fp32 comes first, whatever the
    order given: it is compared with the figures, the others with it (features) and with the figures
    (labels).
    """
    done: list[Comparison] = []
    reference: dict[str, ScoredRows] = {}
    for precision in dict.fromkeys(["fp32", *precisions]):
        found = {}
        with tempfile.TemporaryDirectory(prefix="virnucpro-verify-") as scratch:
            for given in figures.inputs:
                file, directory = Path(scratch) / f"{given.name}.fa", Path(scratch) / given.name
                file.write_text(given.fasta)
                predict(file, directory, precision)
                found[given.name] = read_rows(directory, given.name)
        reference = reference or found
        done.append(compare(precision, figures, found, reference))
    return tuple(done)


def sign_off(
    comparisons: Iterable[Comparison],
    model: str,
    identity: Mapping[str, str],
    device: str,
    figures: Figures,
) -> Path:
    """Keep a result under the bundle's content; returns the file. A failed result replaces a passed
    one. Raises ModelError where it cannot be kept.
    """
    import torch
    import transformers

    done = list(comparisons)
    content = {
        "passed": verdict_of(done) == PASSED,
        "verdict": verdict_of(done),
        "model": model,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": device,
        "precisions": {comparison.precision: asdict(comparison) for comparison in done},
        "versions": {
            "virnucpro": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "figures": figures.source,
        "identity": dict(identity),
    }
    file = verification_file(identity)
    with explained(file.parent, MODELS):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, content, MODELS)
    return file
