"""The `config.json` of an encoder: its numbers within what can be, and nothing in it that would
silently be computed in another way.

Knows what encoders have in common; which fields they have, they say themselves.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from virnucpro.errors import ModelError
from virnucpro.models.weights import ADVICE, read_table

LARGEST_CONFIG = 1 << 20  # bytes
# of a protein with <cls> and <eos>, as ESM-2 was trained; what has no limit of its own has buffers
# of at least as many
LONGEST_TOKENS = 1024
MOST = {
    "vocab_size": 1 << 16,
    "hidden_size": 1 << 14,
    "num_hidden_layers": 256,
    "num_attention_heads": 256,
    "intermediate_size": 1 << 17,
    "type_vocab_size": 16,
    "max_position_embeddings": 1 << 16,
    "pad_token_id": (1 << 16) - 1,
}  # far above every published encoder; what is larger is refused before anything is allocated


class Config:
    """The fields of one config.json; each is checked when it is asked for. Raises ModelError."""

    def __init__(self, directory: Path):
        self.file = directory / "config.json"
        advice = "an encoder's directory holds config.json, its tokenizer and its weights"
        self._fields = read_table(self.file, advice, LARGEST_CONFIG)

    def number(self, name: str, default: int | None = None) -> int:
        """A whole number of at most MOST[name], and at least 1 unless it is a token's id."""
        value = self._fields.get(name, default)
        least = 0 if name.endswith("_id") else 1
        if type(value) is not int or not least <= value <= MOST[name]:
            raise self._wrong(name, f"not a whole number of {least} to {MOST[name]:,}")
        return value

    def epsilon(self, name: str, default: float) -> float:
        """A small positive number."""
        value = self._fields.get(name, default)
        if type(value) not in (int, float) or not 0 < value < 0.1:
            raise self._wrong(name, "not a small positive number")
        return float(value)

    def expect(self, name: str, wanted: Collection[Any]) -> None:
        """Raise ModelError unless a field is one of `wanted`; None stands for an absent one."""
        value = self._fields.get(name)
        if not any(type(value) is type(one) and value == one for one in wanted):
            raise self._wrong(name, f"where this encoder has {next(iter(wanted))!r}")

    def head_width(self, hidden: int, heads: int) -> int:
        """Width of one attention head, an even number."""
        if hidden % heads or hidden // heads % 2:
            raise self._wrong("num_attention_heads", f"no even part of hidden_size {hidden}")
        return hidden // heads

    def _wrong(self, name: str, what: str) -> ModelError:
        value = self._fields.get(name)
        short = repr(value)[:40] if isinstance(value, str | int | float | None) else "a table"
        return ModelError(f"{self.file}: {name} is {short}, {what}; {ADVICE}")
