"""`python -m virnucpro` and the console script."""
from __future__ import annotations

from virnucpro.cli import main

if __name__ == "__main__":
    main()
