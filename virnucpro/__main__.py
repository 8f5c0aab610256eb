"""`python -m virnucpro` and the console script."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """The command line.

    An interrupt while it is still being imported ends it as one later does, in one line.
    """
    try:
        _forget_current_directory()
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        print(
            f"virnucpro: error: the current directory cannot be read ({why}); change to another"
            " with cd and run again",
            file=sys.stderr,
        )
        raise SystemExit(1) from None
    try:
        from virnucpro import cli

        cli.main()
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":  # one process speaks for all
            print(
                "virnucpro: error: stopped by SIGINT; run the same command again", file=sys.stderr
            )
        raise SystemExit(130) from None


def _forget_current_directory() -> None:
    """`python -m` lets modules be imported from the current directory, where a file random.py would
    be taken for Python's own. It stays where this package itself lies there.
    """
    here = os.getcwd()
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if sys.path and sys.path[0] in ("", here) and here != package:
        del sys.path[0]


if __name__ == "__main__":
    main()
