"""The card of a bundle, from what was measured: BUNDLE/README.md, with Hugging Face's metadata.

    python -m recipes.mini.card WARM.json EVIDENCE.json BUNDLE

WARM.json is warm_report.py's, EVIDENCE.json evidence_fit.py's on its table.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from virnucpro.files import write_text
from virnucpro.training.parts import IDENTITIES

LENGTHS = ("300", "500", "1000", "3000", "10000")  # bases of the contigs
LISTED = ("500", "3000")  # of these in the metadata
HEAD = """---
license: mit
library_name: virnucpro
pipeline_tag: text-classification
tags:
- biology
- genomics
- metagenomics
- virus
- esm
model-index:
- name: mini
  results:
"""
RESULT = """  - task:
      type: text-classification
      name: viral or cellular, contigs of {length:,} bases
    dataset:
      type: {kind}
      name: "{viral} viral and {cellular} cellular groups that were left out; {how}"
    metrics:
    - type: roc_auc
      value: {auroc:.3f}
    - type: recall
      value: {recall:.3f}
      name: recall at 5 % false positives
"""
HOW = {
    "network": ("virnucpro-folds", "network alone"),
    "both": ("virnucpro-folds-with-known-proteins", "network and known proteins"),
}
MODELS = ("network", "search", "both")
TEXT = Path(__file__).with_suffix(".md")  # with places for the figures


def share(value: float) -> str:
    """A share as the card writes it."""
    return f"{100 * value:.1f} %"


def with_interval(values: list[float]) -> str:
    """A value and its limits."""
    return "{:.3f} ({:.3f}-{:.3f})".format(*values)


def called(counts: dict[str, list[int]], category: str) -> str:
    """Which of the contigs of a category are called virus."""
    n, of = counts.get(category, [0, 0])
    return f"{n} of {of}" if of else "-"


def accuracy_row(length: str, of: dict) -> str:
    """A line of the first table."""
    cells = [
        part
        for name in HOW
        for part in (
            with_interval(of[name]["auroc"]),
            f"{of[name]['recall_at_5pct'][0]:.2f}; {of[name]['recall_at_1pct'][0]:.2f}",
        )
    ]
    groups = f"{of['viral'][1]}, {of['cellular'][1]}"
    return f"| {int(length):,} | {groups} | " + " | ".join(cells) + " |"


def calls_row(length: str, of: dict) -> str:
    """A line of the second table."""
    default = of["points"]["1%"]
    kinds = [called(default["false_positives"], c) for c in ("plasmids", "bacteria", "fungi")]
    figures = [
        f"{default['point']:.2f}",
        share(default["recall"][0]),
        share(default["false_positive_rate"][0]),
        f"{of['both']['calibration_error'][0]:.3f}",
    ]
    return f"| {int(length):,} | " + " | ".join(figures + kinds) + " |"


def identity_row(name: str, of: dict) -> str:
    """A line of the third table: recall by the identity of the closest known viral protein."""
    found = [of[model]["recall_at_5pct_by_identity"].get(name) for model in MODELS]
    n = next(filter(None, found), [0, 0])[1]
    return f"| {name} | {n} | " + " | ".join(share(f[0]) if f else "-" for f in found) + " |"


def card(warm: dict, evidence: dict, version: str) -> str:
    """README.md of the bundle."""
    heads = [
        RESULT.format(
            length=int(n),
            kind=kind,
            how=how,
            viral=evidence[n]["viral"][1],
            cellular=evidence[n]["cellular"][1],
            auroc=evidence[n][name]["auroc"][0],
            recall=evidence[n][name]["recall_at_5pct"][0],
        )
        for name, (kind, how) in HOW.items()
        for n in LISTED
    ]
    worst = evidence["3000 and more"]
    took = [e["took"]["seconds"] for e in warm["log"] if e["event"] == "fold"]
    eight = ", ".join(
        f"{warm['version 8'][n]['auroc'][0]:.3f} ({int(n):,} bases; these networks "
        f"{warm['warm'][n]['auroc'][0]:.3f})"
        for n in LISTED
    )
    text = TEXT.read_text().format(
        version=version,
        rows="\n".join(accuracy_row(n, evidence[n]) for n in LENGTHS),
        calls="\n".join(calls_row(n, evidence[n]) for n in LENGTHS),
        viruses=share(worst["worst tenth of viruses"]),
        cells=share(worst["worst tenth of cells"]),
        identity="\n".join(identity_row(name, evidence["500"]) for name in IDENTITIES),
        eight=eight,
        archaea=evidence["500"]["points"]["1%"]["false_positives"]["archaea"][1],
        seconds=sum(took) / len(took),
    )
    return HEAD + "".join(heads) + "---\n\n" + text


def main(warm: Path, evidence: Path, bundle: Path) -> None:
    """Write BUNDLE/README.md."""
    version = json.loads((bundle / "bundle.json").read_text())["version"]
    text = card(json.loads(warm.read_text()), json.loads(evidence.read_text()), version)
    write_text(bundle / "README.md", [text.rstrip("\n")])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
