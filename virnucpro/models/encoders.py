"""The encoders: one entry each, from which the rest of the program takes all that it needs to know
of one.

To add an encoder, write its network as a subclass of `Encoder` and add an entry here. Loads no
torch: networks and tokenizers are imported when they are made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virnucpro.models.config import LONGEST_TOKENS

if TYPE_CHECKING:
    import torch

    from virnucpro.models.encoder import Encoder
    from virnucpro.sequences.tokens import Tokenizer, Tokenizers

PROTEIN, NUCLEOTIDE = "protein", "nucleotide"  # what an encoder reads
COLUMNS = {PROTEIN: "protein", NUCLEOTIDE: "nucleotides"}  # of the table of frames
SPECIAL_TOKENS = 2  # of a sequence, one at each end

# directory, device, precision, --compile -> the encoder; raises ModelError
Load = Callable[[Path, "torch.device", str, str], "Encoder"]


@dataclass(frozen=True, slots=True)
class HubModel:
    """An encoder as published: its repository on the Hugging Face hub, the revision that the
    published models were made with, the sha256 of its weights, what its config.json says.
    """

    id: str
    revision: str
    weights: tuple[str, ...]
    shape: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class EncoderEntry:
    """What the program knows of an encoder. Several may be in a bundle, one after another in a
    row of features.
    """

    name: str  # in bundle.json, the table of frames, the shards and run.json
    title: str  # for readers
    reads: str  # PROTEIN or NUCLEOTIDE
    tokenizer_file: str
    id_type: str  # of a token: uint8 or uint16
    read_tokenizer: Callable[[Path], Tokenizer]  # of a directory; raises ModelError
    load: Load
    longest: int | None = None  # tokens of a sequence, special ones included; None: no limit
    tiles: int = 1  # rows of a batch on a GPU, in tiles for each multiprocessor
    setting: str | None = None  # the option that replaces it, as Python calls it
    hub: HubModel | None = None
    older_kinds: tuple[str, ...] = ()  # how older programs call it in names of files
    optional: bool = False  # a bundle may go without it

    @property
    def column(self) -> str:
        """The column of the table of frames that it reads."""
        return COLUMNS[self.reads]

    @property
    def sequences(self) -> str:
        """What it reads, in the plural."""
        return f"{self.reads}s"

    @property
    def key(self) -> str:
        """The columns `..._hi` and `..._lo` tell equal sequences."""
        return f"{self.reads}_key"

    @property
    def files(self) -> tuple[str, ...]:
        """What its directory has beside the weights."""
        return "config.json", self.tokenizer_file

    @property
    def limit(self) -> str:
        """The longest sequence, in words."""
        if self.longest is None:
            return "sequences of any length"
        if self.reads == PROTEIN:
            return f"{self.longest - SPECIAL_TOKENS:,} residues"
        return f"{self.longest:,} tokens"

    @property
    def task(self) -> str:
        """What is going on while it computes."""
        return f"embedding {self.sequences} with {self.title}"


def _load_dnabert_s(*asked: Any) -> Encoder:
    from virnucpro.models.dnabert_s import DnabertEncoder

    return DnabertEncoder.load(*asked)


def _load_esm2(*asked: Any) -> Encoder:
    from virnucpro.models.esm2 import Esm2Encoder

    return Esm2Encoder.load(*asked)


def _read_bpe(directory: Path) -> Tokenizer:
    from virnucpro.sequences.tokens import BpeTokenizer

    return BpeTokenizer(directory)


def _read_residues(directory: Path) -> Tokenizer:
    from virnucpro.sequences.tokens import ResidueTokenizer

    return ResidueTokenizer(directory)


DNABERT_S = EncoderEntry(
    name="dnabert_s",
    title="DNABERT-S",
    reads=NUCLEOTIDE,
    tokenizer_file="tokenizer.json",
    id_type="uint16",
    read_tokenizer=_read_bpe,
    load=_load_dnabert_s,
    # it is narrow: to everything that the host does for a batch, waiting for Python's lock while a
    # thread loads the next encoder, there is little work on the GPU
    tiles=4,
    setting="dna_model",
    hub=HubModel(
        "zhihan1996/DNABERT-S",
        "00e47f96cdea35e4b6f5df89e5419cbe47d490c6",
        ("f3cfc3d0541859df64759e758cc4bc40fe1d5760799a7d098a9f9f09501c1e5f",),
        {"hidden_size": 768, "num_hidden_layers": 12},
    ),
    older_kinds=("DNABERT_S", "DNABERT"),
)
ESM2 = EncoderEntry(
    name="esm2",
    title="ESM-2",
    reads=PROTEIN,
    tokenizer_file="vocab.txt",
    id_type="uint8",
    read_tokenizer=_read_residues,
    load=_load_esm2,
    longest=LONGEST_TOKENS,
    setting="esm_model",
    hub=HubModel(
        "facebook/esm2_t36_3B_UR50D",
        "476b639933c8baad5ad09a60ac1a87f987b656fc",
        (
            "0f971f11c449d21422aa982b791619c10351972992c735f4c3cd43fe09790412",
            "7560b46fc383c691fb74b915b7d4bcef40d3df181447f16ba4b298845e308d0c",
        ),
        {"hidden_size": 2560, "num_hidden_layers": 36},
    ),
    older_kinds=("ESM",),
)
# in the order of the columns of a row of features
ENCODERS: dict[str, EncoderEntry] = {entry.name: entry for entry in (DNABERT_S, ESM2)}


def encoders_of(parts: Collection[str]) -> tuple[EncoderEntry, ...]:
    """The encoders that a bundle with these parts has, in the order of the features; those that no
    bundle goes without are among them.
    """
    return tuple(e for e in ENCODERS.values() if e.name in parts or not e.optional)


def as_listed(entries: Iterable[EncoderEntry]) -> list[EncoderEntry]:
    """In the order in which files and messages name them: what reads proteins comes first."""
    return sorted(entries, key=lambda entry: entry.reads != PROTEIN)


def published_encoders() -> list[tuple[EncoderEntry, HubModel]]:
    """The encoders that the published models consist of."""
    return [(e, e.hub) for e in as_listed(ENCODERS.values()) if e.hub is not None]


def limits(entries: Iterable[EncoderEntry]) -> str:
    """What a frame must not be longer than, in words."""
    return " or ".join(f"{e.title}'s {e.limit}" for e in entries if e.longest is not None)


def longest_protein(entries: Iterable[EncoderEntry]) -> float:
    """Residues of the longest protein that all of them read; infinite where any is read."""
    limits = [e.longest - SPECIAL_TOKENS for e in entries if e.longest and e.reads == PROTEIN]
    return min(limits, default=math.inf)


def read_tokenizers(directories: Mapping[str, Path | str]) -> Tokenizers:
    """The tokenizers of encoders, by name, always in the order of the features: it is that of the
    columns of the table of frames. Raises ModelError.
    """
    named = [entry for entry in ENCODERS.values() if entry.name in directories]
    return {entry.name: entry.read_tokenizer(Path(directories[entry.name])) for entry in named}
