"""What 16 and 8 bits change: embeddings and labels of the whole `predict` at each precision,
against fp32.

    python benchmarks/precisions.py --model mini examples/*.fna.gz
    python benchmarks/precisions.py --model BUNDLE --frames 600             # generated sequences of
    150 to 500 bases

Prints for each precision the worst and the mean cosine of the frames' vectors, an encoder each, and
the share of frames whose label is that of fp32. To hold: 0.999 and 99.8 % in bf16 and fp16, 0.9995
and 99.8 % in int8.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
LEAST = {"bf16": 0.999, "fp16": 0.999, "int8": 0.9995}
LABELS = 0.998


def run(
    inputs: list[str], model: str, precision: str, out: Path
) -> tuple[list[str], torch.Tensor, list[str]]:
    """(frame ids, features [frames, width], labels) of a run."""
    command = [
        sys.executable,
        "-m",
        "virnucpro",
        "predict",
        *inputs,
        "--model",
        model,
        "--precision",
        precision,
        "-o",
        str(out),
        "-q",
        "--cache-dir",
        str(out.parent / "cache"),
    ]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    }
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    features = torch.load(out / "merged_features.pt", weights_only=True)
    with open(out / "frames.tsv", newline="") as file:
        return (
            features["ids"],
            features["data"].double(),
            [row["prediction"] for row in csv.DictReader(file, delimiter="\t")],
        )


def main() -> int:
    """Print the table; 0 if all is within the bounds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("inputs", nargs="*")
    parser.add_argument("--model", required=True)
    parser.add_argument("--precisions", nargs="+", default=list(LEAST), choices=list(LEAST))
    parser.add_argument(
        "--frames",
        type=int,
        default=0,
        help="generate about this many sequences instead of reading inputs",
    )
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from virnucpro.models.bundle import resolve_bundle
    from virnucpro.settings import ModelSettings
    from virnucpro.tools.benchmark import write_sequences

    widths = resolve_bundle(ModelSettings(options.model))[0].widths
    good = True
    with tempfile.TemporaryDirectory() as directory:
        place, inputs = Path(directory), list(options.inputs)
        if options.frames:
            inputs.append(str(place / "generated.fna"))
            write_sequences(place / "generated.fna", options.frames, "mix", seed=7)
        ids, expected, labels = run(inputs, options.model, "fp32", place / "fp32")
        for precision in options.precisions:
            found_ids, found, found_labels = run(
                inputs, options.model, precision, place / precision
            )
            assert found_ids == ids
            equal = sum(a == b for a, b in zip(labels, found_labels, strict=True)) / len(labels)
            words = [f"labels equal on {equal:.2%} of {len(ids)} frames"]
            good &= equal >= LABELS
            for name, mine, theirs in zip(
                widths,
                found.split(list(widths.values()), 1),
                expected.split(list(widths.values()), 1),
                strict=True,
            ):
                cosine = torch.cosine_similarity(mine, theirs)
                words.append(
                    f"{name} cosine {cosine.min():.6f} at worst, {cosine.mean():.6f} on average"
                )
                good &= bool(cosine.min() >= LEAST[precision])
            print(f"{precision}: {'; '.join(words)}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
