"""The Python interface: `predict`, `summarize`, `embed`, and what they give back. The command line
is a binding of it.

Everything heavy is imported when a call needs it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virnucpro.errors import UsageError
from virnucpro.launch import read_world
from virnucpro.reporting.result import Result
from virnucpro.reporting.samples import SamplesResult
from virnucpro.run.home import ensure_home
from virnucpro.run.processes import allow_for_fork
from virnucpro.run.start import run, run_samples
from virnucpro.settings import Options

if TYPE_CHECKING:
    import numpy as np


def predict(
    paths: Path | str | Iterable[Path | str],
    output_dir: Path | str | None = None,
    model: str | None = None,
    **options: Any,
) -> Result | None:
    """Say for every sequence of `paths` whether it is viral, and write all results to `output_dir`.

    paths: FASTA or FASTQ files, or directories of them. options: the other fields of `Options`,
    which are the options of the command line. Raises VirNucProError, whose message is one line.
    With several GPUs a process each is started, and inside a launcher's processes this one takes
    its share: there, only the main process gets a Result.
    """
    return run(
        _listed(paths),
        _options(output_dir=output_dir, model=model, **{"quiet": True, **options}),
        own_process=False,
    )


def predict_samples(
    samples: Path | str | Iterable[Path | str],
    output_dir: Path | str,
    model: str | None = None,
    **options: Any,
) -> SamplesResult | None:
    """As `predict`, for many samples with the models loaded once, each in a directory of its own
    below `output_dir`. samples: a samplesheet, or a list of files that are a sample each.
    """
    given, more = _listed(samples), {"quiet": True, **options}
    if isinstance(samples, (str, Path)):
        given, more = [], {**more, "samplesheet": samples}
    else:
        more["per_input"] = True
    chosen = _options(output_dir=output_dir, model=model, **more)
    return run_samples(given, chosen, own_process=False)


def embed(
    paths: Path | str | Iterable[Path | str], model: str | None = None, **options: Any
) -> tuple[list[str], np.ndarray]:
    """Frame ids and features float32 [frames, width] of `paths`; writes nothing but the cache of
    tokenized frames.
    """
    import numpy as np

    if read_world().launched:
        raise UsageError(
            "embed starts its own processes: call it without a launcher, with gpus= or"
            " num_processes="
        )
    with tempfile.TemporaryDirectory(prefix="virnucpro-") as directory:
        result = predict(paths, output_dir=Path(directory) / "out", model=model, **options)
        assert result is not None  # there is no launcher, so this is the main process
        ids, matrix = result.features()
        return ids, np.array(matrix)


def summarize(
    directory: Path | str,
    classifier: Path | str | None = None,
    output_dir: Path | str | None = None,
    force: bool = False,
    **options: Any,
) -> Result:
    """New tables, FASTA and report from the stored features of `directory`, in it or in
    `output_dir`; nothing is embedded again.

    force: what is in `output_dir` may be replaced. classifier: another one, `.safetensors` or the
    original's `.pth`. options: min_score, conservative, relaxed, max_fdr, false_positives,
    allow_short, prevalence, reference, call_by, table_format, cache_dir as for `predict`.
    """
    from virnucpro.summary import copied
    from virnucpro.summary import summarize as again

    ensure_home()
    given = _options(**options)
    allow_for_fork(cpu=True)
    another = None if classifier is None else Path(classifier)
    cache_dir = None if given.cache_dir is None else Path(given.cache_dir)
    if output_dir is None:
        return again(Path(directory), another, given.call_settings(), cache_dir)
    with copied(Path(directory), Path(output_dir), force):
        return again(Path(output_dir), another, given.call_settings(), cache_dir)


def merge(
    directories: Iterable[Path | str],
    output_dir: Path | str,
    partial_ok: bool = False,
    force: bool = False,
    reference: str | None = None,
) -> Result:
    """Write to `output_dir` what one run would have written, from the directories of all its
    shards (`predict` with shard="i/n"); nothing is embedded again.
    """
    from virnucpro.run.merge import merge as join

    ensure_home()
    allow_for_fork(cpu=True)
    shards = [Path(directory) for directory in directories]
    return join(shards, Path(output_dir), partial_ok, force, reference)


def _options(**given: Any) -> Options:
    known = {option.name for option in fields(Options)}
    unknown = sorted(set(given) - known)
    if unknown:
        raise UsageError(f"{unknown[0]}: no such option; there are {', '.join(sorted(known))}")
    return Options(**given)


def _listed(paths: Path | str | Iterable[Path | str]) -> list[str]:
    return [str(paths)] if isinstance(paths, (str, Path)) else [str(path) for path in paths]
