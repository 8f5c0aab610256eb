"""Test contigs scored with the network a campaign chose, and everything put where finish_mini.py looks for it.

    python -P benchmarks/mini_score.py score --final OUT/final --contigs work/contigs.npz --out test_scores.npz   # GPU 20 s, CPU an hour
    python -P benchmarks/mini_score.py gather --final OUT/final --campaign OUT --data work --test test_scores.npz --out run

Run with PYTHONPATH=.:benchmarks. `score` shows nothing of what it finds; `--place` takes the second choice instead of the first.
"""
from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
from mini_campaign import BUNDLE
from train_mini import CHUNK_LENGTH

from virnucpro.sequences.tokens import Tokenizers
from virnucpro.training.batches import BatchShape
from virnucpro.training.store import Store


def split_parts(final: Path, place: int, out: Path) -> None:
    """The four `.safetensors` of one network, as `saving.load_parts` reads them."""
    from safetensors.torch import load_file, save_file

    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(final / f"{place}-esm2.safetensors", out / "esm2.safetensors")
    rest = load_file(final / f"{place}-rest.safetensors")
    for part in ("dnabert_s", "classifier", "heads"):
        tensors = {k.split("/", 1)[1]: v for k, v in rest.items() if k.startswith(part + "/")}
        save_file(tensors, out / f"{part}.safetensors", metadata={"format": "pt"})


def score(options: argparse.Namespace) -> None:
    import torch

    from virnucpro.training.network import Network, NetworkShape
    from virnucpro.training.saving import load_parts
    from virnucpro.training.scoring import score_contigs

    parts = options.out.with_suffix(".parts")
    split_parts(options.final, options.place, parts)
    network = Network(NetworkShape())
    load_parts(network, parts, ("esm2", "dnabert_s", "classifier", "heads"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device).eval()
    torch.backends.cuda.matmul.allow_tf32 = False
    contigs = Store.load(options.contigs)
    contigs = contigs.select_records(contigs.labels.split == "test")
    shape = BatchShape(640, 0, 384, 312, 168) if device.type == "cuda" else BatchShape(128, 0, 192, 90, 60)
    scores = score_contigs(network, contigs, np.arange(len(contigs)), Tokenizers(BUNDLE / "esm2", BUNDLE / "dnabert_s"), shape,
                           CHUNK_LENGTH, "longest", device, options.workers)  # fmt: skip
    np.savez_compressed(options.out, **{f"longest_{k}": v for k, v in scores._asdict().items()})
    print(f"{len(scores.contig):,} frames scored")


def gather(options: argparse.Namespace) -> None:
    split_parts(options.final, options.place, options.out)
    contigs = Store.load(options.data / "contigs.npz")
    together: dict = {}
    for side, file in (("validation", options.final / f"{options.place}-scores.npz"), ("test", options.test)):
        rows = np.flatnonzero(contigs.labels.split[contigs.record] == side)  # where the packed side's contigs come from
        with np.load(file) as z:
            for key in (k for k in z.files if k != "run"):
                column = rows[z[key]] if key.endswith("_contig") else z[key]
                together[key] = np.concatenate([together[key], column]) if key in together else column
    for policy in ("longest", "open"):
        if f"{policy}_contig" in together:
            order = np.lexsort([together[f"{policy}_{k}"] for k in ("frame", "chunk", "contig")])
            together |= {k: v[order] for k, v in together.items() if k.startswith(policy)}
    np.savez_compressed(options.out / "scores.npz", **together)
    for name in ("log.jsonl", "folds.npz"):
        shutil.copyfile(options.campaign / name, options.out / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("score", "gather"))
    parser.add_argument("--final", type=Path, required=True)
    parser.add_argument("--place", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--contigs", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--campaign", type=Path, help="its log.jsonl and folds.npz go along")
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    {"score": score, "gather": gather}[options.stage](options)


if __name__ == "__main__":
    main()
