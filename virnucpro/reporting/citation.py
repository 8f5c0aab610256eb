"""What `virnucpro citation` says: the works behind a result, as text and as BibTeX."""

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

ACCELERATE = (
    "Several processes and devices",
    (
        "Gugger S, Debut L, Wolf T, Schmid P, Mueller Z, Mangrulkar S, Sun M, Bossan B. Accelerate:"
        " training and inference at scale made simple, efficient and adaptable. 2022."
    ),
    "https://github.com/huggingface/accelerate",
)

BIBTEX = r"""@article{virnucpro,
  title   = {{VirNucPro}: an identifier for the identification of viral short sequences using six-frame translation and
             large language models},
  author  = {Li, Jing and Mi, Jia and Lin, Wei and Tian, Fengjuan and Wan, Jing and Gao, Jingyang and Tong, Yigang},
  journal = {Briefings in Bioinformatics},
  volume  = {26},
  number  = {3},
  pages   = {bbaf224},
  year    = {2025},
  doi     = {10.1093/bib/bbaf224}
}

@article{esm2,
  title   = {Evolutionary-scale prediction of atomic-level protein structure with a language model},
  author  = {Lin, Zeming and Akin, Halil and Rao, Roshan and Hie, Brian and Zhu, Zhongkai and Lu, Wenting and
             Smetanin, Nikita and Verkuil, Robert and Kabeli, Ori and Shmueli, Yaniv and dos Santos Costa, Allan and
             Fazel-Zarandi, Maryam and Sercu, Tom and Candido, Salvatore and Rives, Alexander},
  journal = {Science},
  volume  = {379},
  number  = {6637},
  pages   = {1123--1130},
  year    = {2023},
  doi     = {10.1126/science.ade2574}
}

@article{dnabert_s,
  title   = {{DNABERT-S}: pioneering species differentiation with species-aware {DNA} embeddings},
  author  = {Zhou, Zhihan and Wu, Weimin and Ho, Harrison and Wang, Jiayi and Shi, Lizhen and Davuluri, Ramana V and
             Wang, Zhong and Liu, Han},
  journal = {Bioinformatics},
  volume  = {41},
  number  = {Supplement\_1},
  pages   = {i255--i264},
  year    = {2025},
  note    = {preprint arXiv:2402.08777, 2024},
  doi     = {10.1093/bioinformatics/btaf188}
}

@misc{accelerate,
  title        = {Accelerate: Training and inference at scale made simple, efficient and adaptable},
  author       = {Sylvain Gugger and Lysandre Debut and Thomas Wolf and Philipp Schmid and Zachary Mueller and
                  Sourab Mangrulkar and Marc Sun and Benjamin Bossan},
  howpublished = {\url{https://github.com/huggingface/accelerate}},
  year         = {2022}
}
"""


def text() -> str:
    """A paragraph a work: what for, reference, address."""
    return (
        "\n\n".join(
            f"{purpose}:\n  {reference}\n  {address}"
            for purpose, reference, address in (*CITATIONS, ACCELERATE)
        )
        + "\n"
    )


def bibtex() -> str:
    """All works as BibTeX."""
    return BIBTEX
