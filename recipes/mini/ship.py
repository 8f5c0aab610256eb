"""From the files of a network to a bundle; card.py writes its card, evidence_fit.py its weights of
evidence.

    python -m recipes.mini.ship OUT PACKED RESULTS.json BUNDLE [--network mean] [--version 9]

OUT holds `mean-esm2` and `mean-rest` `.safetensors` (warm.py), RESULTS.json is what warm_report.py
wrote. The calibration is the one of the networks of the folds: this one has seen every group, so
nothing is left to fit its own on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

from recipes.mini.bench import load_state
from recipes.mini.lane import TINY
from recipes.mini.windows import CHUNK_LENGTH, POLICY
from virnucpro.training.bundle.network import Network
from virnucpro.training.bundle.save import save_parts, write_bundle
from virnucpro.training.bundle.shape import NetworkShape

REGIONS = {"opens": 0.65, "stays": 0.4}  # of version 8: no other limits were measured
LENGTHS = ("500", "1000", "3000", "10000")  # bases, of the contigs that the description tells of


def description(measured: dict, version: str) -> dict:
    """The fields of bundle.json beyond the parts."""
    return {
        "name": "mini",
        "version": version,
        "chunk_length": CHUNK_LENGTH,
        "frame_policy": POLICY,
        "cpu_precision": "bf16",
        "licence": "MIT",
        "training_data": "public INSDC, RefSeq, UniProt, phagesdb and MIBiG records; README.md",
        "accuracy": {
            "side": "networks of folds on groups that they had not seen; this one is their mean",
            **{
                f"{k}_{n}": measured[n][k]
                for n in LENGTHS
                for k in ("auroc", "recall_at_5pct", "recall_at_1pct")
            },
            "intervals": "value, then 95 % limits from drawing groups again",
        },
        "calibration": {**measured["calibration"]["calibration"], "regions": REGIONS},
    }


def main() -> None:
    """Write the bundle."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("out", "packed", "results", "bundle"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--network", default="mean")
    parser.add_argument("--version", default="9")
    parser.add_argument("--tiny", action="store_true", help="a tiny network (a trial on a CPU)")
    options = parser.parse_args()
    results = json.loads(options.results.read_text())
    measured = results["warm"] if "warm" in results else results["folds"]
    shape = TINY if options.tiny else NetworkShape()
    network = Network(shape)
    odd = network.load_state_dict(load_state(options.out, options.network), strict=False)
    if odd.unexpected_keys or any("inv_freq" not in k for k in odd.missing_keys):
        raise SystemExit(f"{options.out}: the files are not of this network")
    with TemporaryDirectory() as parts:
        save_parts(network, Path(parts))
        write_bundle(
            options.bundle,
            Path(parts),
            options.packed / "1" / "dnabert_s",
            shape,
            description(measured, options.version),
        )


if __name__ == "__main__":
    main()
