"""What `virnucpro doctor` looks at: a verdict a line, and a fix where one is needed.

Knows the machine and what a run needs of it; changes nothing and prints nothing. Every check stands
alone: one that itself fails becomes a line as well.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from virnucpro.errors import ModelError, UsageError
from virnucpro.launch import LAUNCHER_VARIABLES, read_world
from virnucpro.tools.machine import (
    GIB,
    OK,
    PROBLEM,
    WARNING,
    Check,
    gpus,
    nccl,
    processor,
)

if TYPE_CHECKING:
    from virnucpro.models.library import Row


OLDEST_PYTHON = (3, 10)
FRAME_BYTES = 13_300  # a frame's features in float32
LEAST_FREE = 5 * GIB
PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "tokenizers",
    "safetensors",
    "pyarrow",
    "numpy",
    "biopython",
)


def check_all(directory: Path | None = None) -> list[Check]:
    """Every check, in the order in which a run would meet them.

    `directory`: where results would go (default: here).
    """
    place = directory or Path.cwd()
    checks: list[Check] = []
    looks: tuple[tuple[str, Callable[[], Iterable[Check]]], ...] = (
        ("python", python),
        ("packages", packages),
        ("processor", processor),
        ("gpu", gpus),
        ("nccl", nccl),
        ("disk", lambda: disk(place)),
        ("caches", caches),
        ("launcher", launcher),
        ("models", models),
    )
    for name, look in looks:
        try:
            checks += look()
        except Exception as error:
            checks.append(
                Check(
                    name,
                    PROBLEM,
                    f"could not be looked at ({type(error).__name__}: {error})",
                    "install VirNucPro anew",
                )
            )
    return checks


def worst(checks: Iterable[Check]) -> str:
    """The verdict over all."""
    return max((check.verdict for check in checks), key=(OK, WARNING, PROBLEM).index, default=OK)


def python() -> list[Check]:
    """Whether Python is new enough."""
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info >= OLDEST_PYTHON:
        return [Check("python", OK, found)]
    return [Check("python", PROBLEM, found, "install Python 3.10 or newer, and VirNucPro with it")]


def packages() -> list[Check]:
    """Versions against what the installed VirNucPro asks for."""
    wanted = _requirements()
    found, checks = [], []
    for name in PACKAGES:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            checks.append(
                Check("packages", PROBLEM, f"{name} is not installed", f"pip install {name}")
            )
            continue
        found.append(f"{name} {version}")
        requirement = wanted.get(name)
        if requirement is not None and not requirement.specifier.contains(
            version, prereleases=True
        ):
            fix = f'pip install "{name}{requirement.specifier}"'
            checks.append(Check("packages", PROBLEM, f"{name} {version} is too old", fix))
    return [Check("packages", OK, ", ".join(found)), *checks] if found else checks


def disk(directory: Path) -> list[Check]:
    """Room where results, temporary files and caches go, and whether locks work there."""
    checks = []
    for name, place in (("results", directory), ("temporary files", Path(tempfile.gettempdir()))):
        place = _nearest(place)
        free = shutil.disk_usage(place).free
        found = f"{name}: {free / GIB:.0f} GiB free in {place}"
        if name == "results":
            found += f", features of {free // FRAME_BYTES:,} open frames"
        problem = _writing_fails(place)
        if problem:
            fix = "choose another --output-dir, or TMPDIR"
            checks.append(
                Check("disk", PROBLEM, f"{name}: {place} cannot be written to ({problem})", fix)
            )
        elif free < LEAST_FREE:
            checks.append(
                Check("disk", WARNING, found, "make room, or keep less with --features none")
            )
        else:
            checks.append(Check("disk", OK, found))
    return checks


def caches() -> list[Check]:
    """The cache of tokenized frames and the models' directory: can they be written to, do locks
    work there.
    """
    from virnucpro.models.files import models_dir
    from virnucpro.sequences.cache import cached_tables
    from virnucpro.sequences.table_cache import cache_root, user_place

    checks = []
    tables = cached_tables(user_place(cache_root()))
    if tables:
        size = sum(table.size for table in tables) / 1e9
        found = f"tokenized frames: {len(tables)} tables, {size:.1f} GB, of the sequences of runs"
        checks.append(Check("caches", OK, f"{found}; virnucpro cache clear removes them"))
    for name, place, fix in (
        ("tokenized frames", cache_root(), "name another with --cache-dir or VIRNUCPRO_CACHE"),
        ("models", models_dir(), "name another with VIRNUCPRO_HOME"),
    ):
        nearest = _nearest(place)
        problem = _writing_fails(nearest) or _locking_fails(nearest)
        free = shutil.disk_usage(nearest).free
        if problem:
            checks.append(Check("caches", PROBLEM, f"{name}: {place} ({problem})", fix))
        elif free < LEAST_FREE:
            checks.append(
                Check(
                    "caches",
                    WARNING,
                    f"{name}: {place}, {free / GIB:.1f} GiB free",
                    f"make room, or {fix}",
                )
            )
        else:
            checks.append(Check("caches", OK, f"{name}: {place}, {free / GIB:.0f} GiB free"))
    return checks


def launcher() -> list[Check]:
    """What `accelerate launch` would add by itself, and a launcher's variables that were left
    behind.
    """
    checks = []
    left = [name for name in LAUNCHER_VARIABLES if name in os.environ]
    if left:
        try:
            believed = read_world().remark or "a run here believes that a launcher started it"
        except UsageError as error:
            believed = f"no run starts here: {error}"
        checks.append(
            Check(
                "launcher", WARNING, f"{', '.join(left)} set: {believed}", f"unset {' '.join(left)}"
            )
        )
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file

    if not Path(default_config_file).is_file():
        return [*checks, Check("launcher", OK, "no global configuration of accelerate")]
    try:
        config = load_config_from_file(default_config_file)
    except Exception as error:
        return [
            *checks,
            Check(
                "launcher",
                WARNING,
                f"{default_config_file} is not readable ({type(error).__name__})",
                "give accelerate launch one of accelerate_configs/ with --config_file",
            ),
        ]
    sections = [
        kind
        for kind in ("deepspeed_config", "fsdp_config", "megatron_lm_config", "dynamo_config")
        if getattr(config, kind, None)
    ]
    if sections:
        return [
            *checks,
            Check(
                "launcher",
                WARNING,
                f"{default_config_file} has {', '.join(sections)}, which VirNucPro does not run"
                " under",
                "give accelerate launch one of accelerate_configs/ with --config_file",
            ),
        ]
    found = (
        f"{default_config_file}: {config.num_processes} processes, mixed precision"
        f" {config.mixed_precision}"
    )
    return [*checks, Check("launcher", OK, found)]


def models() -> list[Check]:
    """Which models are here, and whether they were verified."""
    from virnucpro.models.library import PUBLISHED, list_models

    checks, rows = [], list_models()
    for row in rows:
        if row.state == "incomplete":
            fix = f"virnucpro models download {row.name if row.name in PUBLISHED else 500}"
            checks.append(Check("models", WARNING, f"{row.name}: incomplete in {row.where}", fix))
        elif row.state == "broken":
            checks.append(Check("models", WARNING, f"{row.name}: {row.what}", f"see {row.where}"))
        elif row.state == "not installed":
            fix = f"virnucpro models download {row.name}" if row.name == "500" else ""
            checks.append(
                Check("models", WARNING if fix else OK, f"{row.name}: not installed", fix)
            )
        elif row.name not in PUBLISHED:
            checks.append(Check("models", OK, f"{row.name}: {row.what}"))
        else:
            checks.append(_published(row))
    if not any(row.state == "installed" for row in rows):
        checks.append(
            Check("models", PROBLEM, "no model on this machine", "virnucpro models download 500")
        )
    return checks


def _published(row: Row) -> Check:
    """An installed published model by what `models verify` found of it."""
    from virnucpro.models.bundle import Bundle
    from virnucpro.models.files import read_verification

    found, verify = f"{row.name}: in {row.where}", f"virnucpro models verify {row.name}"
    mend = f"virnucpro models download {row.name} mends its files; then {verify}"
    try:
        result = read_verification(Bundle.load(row.where).identity())
    except ModelError as error:
        return Check("models", PROBLEM, f"{row.name}: {error}", mend)
    if result is None:
        return Check("models", WARNING, f"{found}, never verified on this machine", verify)
    when = f"{result.get('date')} on {result.get('device')}"
    if result["passed"]:
        return Check("models", OK, f"{found}, verified {when}")
    if result.get("verdict") == "near":
        return Check("models", WARNING, f"{found}, nearly as published by {when}", mend)
    return Check("models", PROBLEM, f"{found}, failed its verification of {when}", mend)


def _requirements() -> dict:
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("virnucpro") or []
    except metadata.PackageNotFoundError:  # run from a checkout
        return {}
    found = [Requirement(line) for line in lines]
    return {requirement.name: requirement for requirement in found if requirement.marker is None}


def _nearest(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.expanduser().absolute()
    while not path.exists():
        path = path.parent
    return path


def _writing_fails(directory: Path) -> str:
    try:
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".virnucpro-"):
            return ""
    except OSError as error:
        return (error.strerror or str(error)).lower()


def _locking_fails(directory: Path) -> str:
    import fcntl

    with tempfile.NamedTemporaryFile(dir=directory, prefix=".virnucpro-") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return ""
        except OSError as error:
            return f"file locks do not work there: {(error.strerror or str(error)).lower()}"
