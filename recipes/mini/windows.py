"""How the training windows of `mini` are drawn, and its DNA tokenizer.

PYTHONPATH=. python -m recipes.mini.windows work        # writes
work/dnabert_s, work/esm2: a minute
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from virnucpro.training.bundle.sampling import WindowRules, Windows, WindowSampler, join_windows
from virnucpro.training.bundle.vocabulary import train_dna_tokenizer, write_esm2_tokenizer
from virnucpro.training.store import Store, decode

CHUNK_LENGTH = 500
POLICY = "stretches"  # of frames
VOCABULARY = 1024
GENOME_SHARE = {
    "viral": 0.5,
    "bacteria": 0.15,
    "archaea": 0.04,
    "plasmids": 0.05,
    "fungi": 0.055,
    "protozoa": 0.055,
    "plants": 0.05,
    "invertebrates": 0.05,
    "vertebrates": 0.05,
}
MARKER_SHARE = {"viral": 0.5, "bacteria": 0.28, "fungi": 0.12, "protozoa": 0.10}
KIND_SHARE = {
    "genome": 0.62,
    "organelle": 0.13,
    "transposon": 0.08,
    "transcript": 0.07,
    "promoter": 0.10,
    "subviral": 0.02,
    "marker": 1.0,
}
MARKERS = 0.35  # of the windows
# more of what is taken for a virus
HARD_GENOMES = {
    "viral": 0.5,
    "bacteria": 0.13,
    "archaea": 0.055,
    "plasmids": 0.075,
    "fungi": 0.045,
    "protozoa": 0.045,
    "plants": 0.06,
    "invertebrates": 0.045,
    "vertebrates": 0.07,
}
HARD_KINDS = {**KIND_SHARE, "transposon": 0.25}


def draw_training(data: Path, n: int) -> Windows:
    """Training windows of 500 bases, unmutated, as the plain shares above say."""
    rng, parts = np.random.default_rng(11), []
    for name, share, categories in (
        ("genomes", 1 - MARKERS, GENOME_SHARE),
        ("markers", MARKERS, MARKER_SHARE),
    ):
        rules = WindowRules(
            CHUNK_LENGTH,
            mutated_share=0,
            full_share=1.0,
            category_share=categories,
            kind_share=KIND_SHARE,
        )
        parts.append(
            WindowSampler(Store.load(data / f"{name}.npz"), rules).draw(int(n * share), rng)
        )
    return join_windows(parts)


def write_tokenizers(data: Path) -> None:
    """Both tokenizers, the DNA one learned from training windows."""
    rules = WindowRules(
        length=200,
        shortest=200,
        full_share=1,
        mutated_share=0,
        category_share=GENOME_SHARE,
        kind_share=KIND_SHARE,
    )
    windows = WindowSampler(Store.load(data / "genomes.npz"), rules).draw(
        40_000, np.random.default_rng(5)
    )
    text = decode(windows.codes).decode()
    pieces = [text[a:b] for a, b in zip(windows.start, windows.end, strict=True)]
    train_dna_tokenizer(pieces, VOCABULARY, data / "dnabert_s")
    write_esm2_tokenizer(data / "esm2")


if __name__ == "__main__":
    write_tokenizers(Path(sys.argv[1]))
