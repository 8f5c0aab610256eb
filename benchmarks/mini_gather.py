"""What a campaign left, put where finish_mini.py looks for it.

    python -P benchmarks/mini_gather.py CAMPAIGN work run [PLACE]        # with PYTHONPATH=.:benchmarks

`run` gets the parts of the network and scores.npz, in which contigs are rows of work/contigs.npz (with N: of `blurred_sets`
of their side). PLACE: 2 for the second choice.
"""
from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file

from virnucpro.training.store import Store


def split_parts(final: Path, place: int, out: Path) -> None:
    """The four `.safetensors` of one network, as `saving.load_parts` reads them."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(final / f"{place}-esm2.safetensors", out / "esm2.safetensors")
    rest = load_file(final / f"{place}-rest.safetensors")
    for part in ("dnabert_s", "classifier", "heads"):
        tensors = {k.split("/", 1)[1]: v for k, v in rest.items() if k.startswith(part + "/")}
        save_file(tensors, out / f"{part}.safetensors", metadata={"format": "pt"})


def gather_scores(final: Path, place: int, contigs: Store) -> dict[str, np.ndarray]:
    """Scores of both sides, `longest_...`, `open_...` and `blurred-SIDE_...`, in the order of contig, chunk and frame."""
    together: dict = {}
    for side in ("validation", "test"):
        rows = np.flatnonzero(contigs.labels.split[contigs.record] == side)  # where the side's contigs come from
        with np.load(final / f"{place}-{side}.npz") as z:
            for key in (k for k in z.files if k != "run"):
                if key.startswith("blurred_"):
                    together[key.replace("blurred", f"blurred-{side}")] = z[key]
                    continue
                column = rows[z[key]] if key.endswith("_contig") else z[key]
                together[key] = np.concatenate([together[key], column]) if key in together else column
    for policy in ("longest", "open"):
        order = np.lexsort([together[f"{policy}_{k}"] for k in ("frame", "chunk", "contig")])
        together |= {k: v[order] for k, v in together.items() if k.startswith(policy)}
    return together


def main(campaign: Path, work: Path, out: Path, place: int = 1) -> None:
    split_parts(campaign / "final", place, out)
    np.savez_compressed(out / "scores.npz", **gather_scores(campaign / "final", place, Store.load(work / "contigs.npz")))
    for name in ("log.jsonl", "groups.npz"):
        shutil.copyfile(campaign / name, out / name)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), *map(int, sys.argv[4:]))
