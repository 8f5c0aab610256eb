"""`python -m virnucpro` and the console script."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """The command line.

    An interrupt while it is still being imported ends it as one later does, without a traceback.
    """
    _forget_current_directory()
    try:
        from virnucpro import cli
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    cli.main()


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
