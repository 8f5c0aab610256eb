"""Contigs cut from a held-out side, and their answers by the shipped pipeline.

They go through `predict` as a user's would, so what is measured is the product, not a copy of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from virnucpro.errors import InputError, StoreError, UsageError
from virnucpro.training.evaluation import Scored
from virnucpro.training.store import Store, decode


@dataclass(frozen=True)
class Contigs:
    """Cut contigs, [n] each."""

    codes: list[np.ndarray]
    virus: np.ndarray
    category: np.ndarray
    group: np.ndarray
    length: np.ndarray


def cut_contigs(
    store: Store, side: str, lengths: tuple[int, ...], per_group: int, seed: int
) -> Contigs:
    """Contigs of each length from each group: segments drawn by bases, places evenly, no more than
    would cover them. Errors: InputError where there is nothing of such a length.
    """
    rng = np.random.default_rng(seed)
    lab = store.labels
    codes: list[np.ndarray] = []
    rows: list[tuple[int, str, str, int]] = []
    mine = lab.split[store.record] == side
    for length in lengths:
        for virus in (0, 1):
            here = mine & (lab.virus[store.record] == virus) & (store.length >= length)
            for group in sorted(set(lab.group[store.record[here]])):
                segments = np.flatnonzero(here & (lab.group[store.record] == group))
                bases = store.length[segments].astype(float)
                n = int(min(per_group, np.ceil(bases.sum() / length)))
                for s in rng.choice(segments, n, p=bases / bases.sum()):
                    a = int(rng.integers(store.length[s] - length + 1))
                    codes.append(store.segment(s)[a : a + length])
                    rows.append((virus, lab.category[store.record[s]], group, length))
    if not rows:
        raise InputError(
            f"the {side} side has no sequence of {min(lengths)} bases or more; prepare longer ones"
        )
    viral, categories, groups, sizes = (np.array(c) for c in zip(*rows, strict=True))
    return Contigs(codes, viral.astype(bool), categories, groups, sizes.astype(np.int64))


@dataclass(frozen=True)
class Answered:
    """Contigs as `predict` answered them, [n] each, in their order."""

    scored: Scored
    fraction: np.ndarray  # of their chunks that were scored; NaN without an answer
    open_frames: np.ndarray  # number of frames
    network: np.ndarray  # the network's own probability, or its score without a calibration
    search: np.ndarray  # the probability by known proteins alone; NaN where none were searched
    identity: np.ndarray  # of the closest viral protein; NaN without a hit
    called: np.ndarray  # bool: virus


def answer(
    contigs: Contigs, directory: Path, model: str | None, reference: str | None = None
) -> Answered:
    """`predict` on the contigs, in `directory`."""
    from virnucpro import api

    directory.mkdir(parents=True, exist_ok=True)
    fasta = directory / "contigs.fna"
    write_fasta(fasta, contigs.codes, "c")
    try:
        result = api.predict(
            fasta,
            directory / "predicted",
            model=model,
            allow_short=True,
            features="none",
            reference=reference,
            quiet=False,
        )
    except StoreError as error:  # of other contigs or another model; there is no --force here
        raise StoreError(str(error).replace("--force starts over", "remove it")) from error
    if result is None:
        raise UsageError(
            "evaluate and calibrate start their own processes: run them without a launcher"
        )
    table, n = result.contigs.to_pydict(), len(contigs.codes)
    at = np.array([int(name[1:]) for name in table["seq_name"]])

    def column(name: str) -> np.ndarray:
        values = np.full(n, np.nan)
        values[at] = [_number(v) for v in table[name]]
        return values

    network = column("model_probability")
    called = np.zeros(n, bool)
    called[at] = [call == "virus" for call in table["call"]]
    frames = [int(name[1:]) for name in result.frames.column("seq_name").to_pylist()]
    return Answered(
        Scored(
            column("virus_score"),
            column("virus_probability"),
            contigs.virus,
            contigs.category,
            contigs.group,
            contigs.length,
        ),
        column("scored_fraction"),
        np.bincount(np.array(frames, dtype=np.int64), minlength=n).astype(np.float64),
        column("virus_score") if np.isnan(network).all() else network,
        column("homology_probability"),
        column("closest_identity"),
        called,
    )


def write_fasta(path: Path, codes: list[np.ndarray], prefix: str) -> None:
    """Base codes as records named by their number."""
    with path.open("wb") as handle:
        for i, sequence in enumerate(codes):
            handle.write(b">%s%d\n%s\n" % (prefix.encode(), i, decode(sequence)))


def _number(value: object) -> float:
    return float("nan") if value in (None, "NA", "") else float(str(value))
