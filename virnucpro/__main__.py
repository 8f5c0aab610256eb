"""`python -m virnucpro` and the console script."""

from __future__ import annotations


def main() -> None:
    """The command line.

    An interrupt while it is still being imported ends it as one later does, without a traceback.
    """
    try:
        from virnucpro import cli
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    cli.main()


if __name__ == "__main__":
    main()
