"""From the files of a student to a bundle with its card.

    python -m recipes.mini.ship OUT PACKED RESULTS.json BUNDLE [--version 9]

OUT holds `student-esm2` and `student-rest` `.safetensors` (recipes/mini/stages.py), RESULTS.json is
what recipes/mini/fold_report.py wrote. The calibration is the one of the folds' networks: the
student has seen every group, so nothing is left to fit its own on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

from recipes.mini.bench import load_state
from recipes.mini.lane import TINY
from recipes.mini.windows import CHUNK_LENGTH, POLICY
from virnucpro.files import write_text
from virnucpro.training.bundle.network import Network
from virnucpro.training.bundle.save import save_parts, write_bundle
from virnucpro.training.bundle.shape import NetworkShape

REGIONS = {"opens": 0.65, "stays": 0.4}  # of version 8: no other limits were measured
HEAD = """---
license: mit
library_name: virnucpro
tags: [biology, genomics, metagenomics, virus, esm]
pipeline_tag: text-classification
model-index:
- name: mini
  results:
"""
RESULT = """  - task: {{type: text-classification, name: viral contigs of {length} bases}}
    dataset: {{type: virnucpro-folds, name: five grouped folds of labelled public genomes}}
    metrics:
    - {{type: roc_auc, value: {auroc}, name: "AUROC of the folds' networks, {viral} viral groups"}}
"""
TEXT = """
# mini, version {version}

Tells viral contigs from cellular ones. A bundle of the program
[VirNucPro](https://github.com/Li-Jing-1997/VirNucPro): an ESM-2 (6 layers, 320 wide), a DNABERT-S
(4 layers, 256 wide) and an MLP, 12.2 million parameters. The folder `esm2` opens with
`transformers.EsmModel.from_pretrained`.

**Choose it** for a first look at contigs of 3,000 bases and more on a computer without a GPU. For
results take the published model `500`.

## Accuracy

Each contig by a network that has not seen its group nor anything near it; 95 % intervals from
drawing whole groups again. These are the networks of the folds, trained for {frames:.1f} million
frames each; the network in this bundle learned from all of them and from all groups, and was not
measured apart.

| contigs | viral groups, cellular groups | AUROC | recall at 5 % FP | recall at 1 % FP |
|---|---:|---:|---:|---:|
{rows}

From 3,000 bases on, where 5 % of the cells are called: {classes}; the worst tenth of the cellular
groups {worst_cells}, of the viral groups a recall of
{worst_viral}.

## Limits

Single reads and 500-base windows; plasmids and archaea; groups of viruses unlike any that was
trained on. Not for diagnosis. The probabilities are calibrated on the folds' networks.

## Data and licences

Public INSDC, RefSeq, UniProt and phagesdb records; gene clusters from MIBiG 2.0 (CC BY 4.0). The
weights: MIT.
"""


def percent(value: float | None) -> str:
    """A share as the card writes it."""
    return "unknown" if value is None else f"{100 * value:.1f} %"


def interval(values: list) -> str:
    """A value and its limits as the card writes them."""
    return f"{values[0]:.3f} ({values[1]:.3f}-{values[2]:.3f})"


def card(results: dict, version: str) -> str:
    """The bundle's README.md, with metadata as the Hugging Face hub reads them."""
    folds = results["folds"]
    lengths = [k for k in folds if k.isdigit()]
    rows = [
        f"| {int(n):,} | {folds[n]['viral'][1]}, {folds[n]['cellular'][1]} "
        + "".join(
            f"| {interval(folds[n][k])} " for k in ("auroc", "recall_at_5pct", "recall_at_1pct")
        )
        + "|"
        for n in lengths
    ]
    heads = [
        RESULT.format(length=n, auroc=folds[n]["auroc"][0], viral=folds[n]["viral"][1])
        for n in lengths
    ]
    long = folds["3000 and more"]["at 0.05"]
    trained = [e["took"]["frames"] for e in results["log"] if e["event"] == "fold"]
    classes = ", ".join(f"{c} {percent(v)}" for c, v in long["false_positives"].items())
    text = TEXT.format(
        version=version,
        rows="\n".join(rows),
        frames=sum(trained) / len(trained) / 1e6,
        classes=classes,
        worst_cells=percent(long["false_positives_of_the_worst_tenth"]),
        worst_viral=percent(long["recall_of_the_worst_tenth"]),
    )
    return HEAD + "".join(heads) + "---\n" + text


def description(results: dict, version: str) -> dict:
    """The fields of bundle.json beyond the parts."""
    folds = results["folds"]
    return {
        "name": "mini",
        "version": version,
        "chunk_length": CHUNK_LENGTH,
        "frame_policy": POLICY,
        "licence": "MIT",
        "training_data": "public INSDC, RefSeq, UniProt, phagesdb and MIBiG records",
        "accuracy": {
            "side": "networks of five folds on groups left out; not this network itself",
            **{
                f"{k}_{n}": folds[n][k]
                for n in ("500", "3000")
                for k in ("auroc", "recall_at_5pct")
            },
            "intervals": "value, then 95 % limits from drawing groups again",
        },
        "calibration": {**folds["calibration"]["calibration"], "regions": REGIONS},
    }


def main() -> None:
    """Write the bundle."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("out", "packed", "results", "bundle"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--version", default="9")
    parser.add_argument("--tiny", action="store_true", help="a tiny network (a trial on a CPU)")
    options = parser.parse_args()
    results = json.loads(options.results.read_text())
    shape = TINY if options.tiny else NetworkShape()
    network = Network(shape)
    odd = network.load_state_dict(load_state(options.out, "student"), strict=False)
    if odd.unexpected_keys or any("inv_freq" not in k for k in odd.missing_keys):
        raise SystemExit(f"{options.out}: the student's files are not of this network")
    with TemporaryDirectory() as parts:
        save_parts(network, Path(parts))
        write_bundle(
            options.bundle,
            Path(parts),
            options.packed / "1" / "dnabert_s",
            shape,
            description(results, options.version),
        )
    write_text(options.bundle / "README.md", [card(results, options.version).rstrip("\n")])


if __name__ == "__main__":
    main()
