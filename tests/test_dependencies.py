"""What pyproject.toml declares is what the package imports, and what requirements.txt installs."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

from lowest_versions import ROOT, declared

# part of torch's own wheels for GPUs; and what a benchmark compares with
NOT_DECLARED = {"triton", "fair-esm"}


def names(requirements: list[str]) -> set[str]:
    return {plain(re.match(r"[\w.-]+", word)[0]) for word in requirements}


def plain(name: str) -> str:
    return name.lower().replace("_", "-")


@cache
def distributions() -> Mapping[str, list[str]]:
    """By module, the distributions that hold it: found once, by reading all that is installed."""
    return packages_distributions()


def imported(file: Path) -> set[str]:
    """Distributions whose modules a file imports, within functions too."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: a relative import"
            modules.add(node.module.partition(".")[0])
    modules -= {"virnucpro", *sys.stdlib_module_names}
    homes = distributions()
    return {plain(homes.get(module, [module])[0]) for module in modules} - NOT_DECLARED


def test_what_is_imported_is_declared_and_nothing_else():
    training = ROOT / "virnucpro" / "training"
    used, by_training = set(), set()
    for file in (ROOT / "virnucpro").rglob("*.py"):
        (by_training if training in file.parents else used).update(imported(file))
    assert used - names(declared("crate")) == names(declared())
    assert by_training - used == names(declared("train"))


def test_requirements_txt_repeats_it_but_for_the_version_of_torch():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    wanted = [*declared(), next(word for word in declared("test") if word.startswith("pytest"))]
    assert [re.sub("^torch==.*", "torch", line) for line in lines] == [
        re.sub("^torch>=.*", "torch", word) for word in wanted
    ]
