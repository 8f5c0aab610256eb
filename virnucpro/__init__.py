"""VirNucPro: which of these nucleotide sequences are viral?

import virnucpro
result = virnucpro.predict("contigs.fna", output_dir="out")
result.contigs.to_pandas()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "1.0.0"
__all__ = ["Bundle", "Result", "VirNucProError", "__version__", "embed", "predict", "summarize"]

if TYPE_CHECKING:
    from virnucpro.api import Result, embed, predict, summarize
    from virnucpro.errors import VirNucProError
    from virnucpro.models.bundle import Bundle

_HOMES = {
    "predict": "virnucpro.api",
    "embed": "virnucpro.api",
    "summarize": "virnucpro.api",
    "Result": "virnucpro.api",
    "Bundle": "virnucpro.models.bundle",
    "VirNucProError": "virnucpro.errors",
}


def __getattr__(name: str) -> Any:
    """Import on first use: `import virnucpro` alone loads nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'virnucpro' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
