"""What to cite when results of this program are published."""

from __future__ import annotations

CITATIONS: tuple[tuple[str, str, str], ...] = (
    (
        "The method and the published classifiers",
        (
            "Li J, Mi J, Lin W, Tian F, Wan J, Gao J, Tong Y. VirNucPro: an identifier for the"
            " identification of viral short sequences using six-frame translation and large"
            " language models. Briefings in Bioinformatics 2025; 26(3): bbaf224."
        ),
        "https://doi.org/10.1093/bib/bbaf224",
    ),
    (
        "ESM-2",
        (
            "Lin Z, Akin H, Rao R, et al. Evolutionary-scale prediction of atomic-level protein"
            " structure with a language model. Science 2023; 379: 1123-1130."
        ),
        "https://doi.org/10.1126/science.ade2574",
    ),
    (
        "DNABERT-S",
        (
            "Zhou Z, Wu W, Ho H, Wang J, Shi L, Davuluri RV, Wang Z, Liu H. DNABERT-S: pioneering"
            " species differentiation with species-aware DNA embeddings. Bioinformatics 2025; 41:"
            " i255-i264."
        ),
        "https://arxiv.org/abs/2402.08777",
    ),
)
"""(what for, reference, address) of each work."""
