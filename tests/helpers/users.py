"""The command line as other users, in processes forked by root from one that has imported all it
needs: Python's own files may lie where no other user may look.

    echo STEPS | python users.py

STEPS: a JSON list of groups, each a list of steps that run at the same time; a step has `user`
(its user and group id), `umask`, `arguments`, and `variables`. Prints a JSON list of groups of
[exit code, standard output, standard error].
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

TEAM = 65000  # a group that all of them are in


class User:
    """A forked process that ends with the exit code of `work`."""

    def __init__(self, work: Callable[[], int]):
        self._out: list[IO[bytes]] = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115
        self._pid = os.fork()
        if self._pid == 0:
            code = 99
            try:
                for number, file in enumerate(self._out, start=1):
                    os.dup2(file.fileno(), number)
                code = work()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

    def result(self) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        texts = []
        for file in self._out:
            file.seek(0)
            texts.append(file.read().decode())
            file.close()
        return code, *texts


def command(step: dict[str, Any]) -> int:
    """In a process of its own: become the user and run the command line."""
    from virnucpro import cli

    os.environ.update(step["variables"])
    os.umask(step["umask"])
    os.setgroups([TEAM])
    os.setgid(step["user"])
    os.setuid(step["user"])
    os.chdir("/")
    return cli.run(step["arguments"])


def modules_of(step: dict[str, Any]) -> int:
    """As `command`, and print what has been imported."""
    code = command(step)
    print("\nmodules:", *sys.modules)
    return code


def play() -> None:
    """Take the golden run's small model for the published one, figures included."""
    from hub_server import Hub
    from original_files import GOLDEN, golden_rows
    from played_models import DNABERT_S, ESM2, stand_in

    from virnucpro.tools.figures import Figures, Given, ScoredRows

    hub = Hub({ESM2: GOLDEN / "esm2", DNABERT_S: GOLDEN / "dnabert_s"}, address="http://none")
    stand_in(setattr, dict.__setitem__, hub)
    records, rows = (GOLDEN / "input.fa").read_text().split(">")[1:5], golden_rows()
    names = {record.split()[0] for record in records}
    kept = [i for i, name in enumerate(rows.ids) if name.rpartition("_chunk_")[0] in names]
    some = ScoredRows(
        *([rows.ids[i] for i in kept], rows.features[kept], rows.scores[kept]),
        [rows.labels[i] for i in kept],
    )
    given = Given("input", "".join(f">{record}" for record in records), some)
    figures = Figures("golden", "500", {"dnabert_s": 48, "esm2": 32}, (given,))
    Figures.load = classmethod(lambda cls: figures)  # type: ignore[method-assign,assignment]


def main() -> None:
    import virnucpro.pipeline  # noqa: F401

    play()
    groups = json.load(sys.stdin)
    for group in groups[:1]:  # as root, which may read everything
        for step in group:
            code, said, wrong = User(lambda step=step: modules_of(step)).result()
            assert code in (0, 1, 2), wrong
            for name in said.rpartition("\nmodules:")[2].split():
                with suppress(Exception):
                    importlib.import_module(name)
    found = []
    for group in groups[1:]:
        users = [User(lambda step=step: command(step)) for step in group]
        found.append([user.result() for user in users])
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
