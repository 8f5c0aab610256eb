"""Two real users in one cache, one tree of results and one models directory: neither harms the
other, sees wrong answers from him, or waits for him.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import GOLDEN, environment
from users import TEAM

import virnucpro

A, B = 65001, 65002


def unreadable(path: Path) -> bool:
    """Whether other users cannot read files below a directory."""
    return not all(folder.stat().st_mode & 0o005 == 0o005 for folder in (path, *path.parents))


pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="setuid as Linux has it"),
    pytest.mark.skipif(
        unreadable(Path(virnucpro.__file__).parent), reason="other users cannot read this package"
    ),
]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory that other users can read, with directories that they share."""
    directory = Path(tempfile.mkdtemp(prefix="virnucpro-users-"))
    directory.chmod(0o755)
    for name, mode in {"cache": 0o1777, "tree": 0o1777, "team": 0o2775, "models": 0o755}.items():
        (directory / name).mkdir()
        os.chown(directory / name, A if name == "models" else 0, TEAM if name == "team" else A)
        (directory / name).chmod(mode)
    for user in (0, A, B):
        (directory / f"home{user}").mkdir(mode=0o700)
        os.chown(directory / f"home{user}", user, user)
    for name in ("esm2", "dnabert_s"):
        shutil.copytree(GOLDEN / name, directory / name)
    shutil.copy(GOLDEN / "500_model.pth", directory)
    records = (GOLDEN / "input.fa").read_text().split(">")[1:]
    for name, some in {"a.fa": records[:4], "b.fa": records[2:6]}.items():
        (directory / name).write_text("".join(f">{record}" for record in some))
    yield directory
    shutil.rmtree(directory)


class Users:
    """Runs commands as users; root runs the first group before, to have all imported."""

    def __init__(self, place: Path):
        self.place = place

    def step(self, user: int, *arguments: str | Path, umask: int = 0o022, **variables) -> dict:
        variables = {
            "HOME": f"{self.place}/home{user}",
            "VIRNUCPRO_HOME": f"{self.place}/models",
            "HF_HOME": f"{self.place}/home{user}",
            "HF_DATASETS_CACHE": f"{self.place}/cache",
        } | variables
        words = [str(word) for word in arguments]
        return {"user": user, "umask": umask, "arguments": words, "variables": variables}

    def predict(self, user: int, name: str, out: str, *more: str | Path, **others) -> dict:
        words = ["predict", self.place / name, "-o", self.place / out, "--gpus", "none"]
        return self.step(user, *words, *more, **others)

    def run(self, *groups: list[dict]) -> list[list[tuple[int, str, str]]]:
        result = subprocess.run(
            [sys.executable, Path(__file__).parent / "helpers" / "users.py"],
            input=json.dumps(groups).encode(),
            env=environment(self.place / "home0"),
            capture_output=True,
            check=False,
            timeout=300,
        )
        assert result.returncode == 0, result.stderr.decode()
        return json.loads(result.stdout)


def content(directory: Path) -> dict[str, bytes]:
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != "lock"]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def errors(group: list[tuple[int, str, str]]) -> list[str]:
    """The one line of each step, which has failed."""
    lines = [[line for line in said.splitlines() if "error:" in line] for _, _, said in group]
    assert [code for code, _, _ in group] == [1] * len(group), group
    assert all(len(found) == 1 for found in lines), group
    return [found[0] for found in lines]


def test_two_users_share_everything(place: Path):
    users = Users(place)
    model = ["--esm-model", place / "esm2", "--dna-model", place / "dnabert_s"]
    model += ["--classifier", place / "500_model.pth"]
    closed = ["--cache-dir", place / "tree" / "closed"]  # A makes it, and nobody else may write
    own = {"HF_DATASETS_CACHE": f"{place}/home0", "VIRNUCPRO_HOME": f"{place}/home0"}
    warm = [users.predict(0, "a.fa", "home0/out", *model, **own)]
    parts = ("500_model.pth", "esm2", "dnabert_s")
    warm += [users.step(0, "models", "import", place / name, **own) for name in parts]
    warm += [users.step(0, "models", "verify", "500", **own)]
    first, _, *rest = users.run(
        warm,
        [
            users.predict(A, "a.fa", "tree/a", *model, *closed),
            users.predict(A, "a.fa", "team/a", *model, umask=0o002),
        ],
        [users.step(A, "models", "import", place / name) for name in parts],
        [
            users.predict(B, "b.fa", "tree/a", *model),  # into the results of A
            users.predict(B, "a.fa", "team/a", "--force", *model, umask=0o002),
            users.step(B, "summarize", place / "team" / "a", umask=0o002),
            users.step(B, "models", "import", place / "500_model.pth"),
        ],
        [
            users.predict(B, "a.fa", "tree/b", *closed),  # with the model that A has brought
            users.step(B, "models", "verify", "500"),
        ],
        [users.predict(user, "b.fa", f"tree/b{user}", *model) for user in (A, B)],
        [users.predict(user, "b.fa", f"tree/again{user}", *model) for user in (A, B)],
    )
    assert [code for code, _, _ in first] == [0, 0], first
    refused, (answered, verified), built, reused = rest
    into, forced, again, brought = errors(refused)
    assert "tree/a/.virnucpro: cannot be written (it belongs to another user)" in into
    assert "team/a/.virnucpro: cannot be written (it belongs to another user)" in forced
    assert "team/a/run.json: written by another user" in again and "cp -r" in again
    assert "models/.500.part: cannot be written (permission denied)" in brought
    # what A has is what A has made: as root alone makes it
    for name in ("contigs.tsv", "frames.tsv", "merged_features.pt", "virus.fna"):
        alone = (place / "home0" / "out" / name).read_bytes()
        for folder in ("tree/a", "team/a", "tree/b"):
            if (folder, name) != ("tree/b", "merged_features.pt"):  # it names the model
                assert (place / folder / name).read_bytes() == alone, (folder, name)
    assert all(path.stat().st_uid == A for path in (place / "team" / "a").rglob("*"))

    assert answered[0] == 0 and "the full model is installed" in answered[2]
    warnings = [line for line in answered[2].splitlines() if "tokenized frames (" in line]
    assert len(warnings) == 1 and "permission denied" in warnings[0] and "1777" in warnings[0]
    assert verified[0] == 0, verified
    assert "500: passed; later runs will not know of it" in verified[1]
    assert all(path.stat().st_uid == A for path in (place / "models").rglob("*"))

    # in a cache that is open to both, each has tables of his own and finds them again
    assert [code for code, _, _ in (*built, *reused)] == [0] * 4, (built, reused)
    assert ["reused" in said for _, _, said in (*built, *reused)] == [False, False, True, True]
    for user in (A, B):
        kept = (place / "cache" / "virnucpro" / f"user-{user}").stat()
        assert kept.st_uid == user and kept.st_mode & 0o777 == 0o700
    tables = {
        (place / "tree" / f"{name}{user}" / "contigs.tsv").read_bytes()
        for name in ("b", "again")
        for user in (A, B)
    }
    assert len(tables) == 1
