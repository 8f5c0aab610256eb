"""VirNucPro: which of these nucleotide sequences are viral?"""
from __future__ import annotations

__version__ = "1.0.0"
