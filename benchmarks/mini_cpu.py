"""`mini`'s ESM-2 on a CPU: our packed way against the stock EsmModel in padded batches, over the
same frames.

    python benchmarks/mini_cpu.py [--threads 2] [--batches 1 8 32 128]      # some minutes

Frames of `examples/` by mini's own policy. Prints seconds of CPU and by the clock; on a busy
machine the former counts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
if TYPE_CHECKING:
    from virnucpro.embedding.extract import PlannedBatches

ESM2_PAD = 1  # id of the token


def timed(work) -> tuple[list[torch.Tensor], str]:
    """The rows, and what they took the second time."""
    work()
    cpu, clock = time.process_time(), time.perf_counter()
    rows = work()
    return (
        rows,
        (
            f"{time.process_time() - cpu:6.1f} s of CPU, {time.perf_counter() - clock:6.1f} s by"
            " the clock"
        ),
    )


def padded(model, tokenizer, proteins: list[str], batch: int) -> list[torch.Tensor]:
    """Mean residue vectors, as a plain loop over the stock model gives them."""
    rows = []
    for begin in range(0, len(proteins), batch):
        tokens = tokenizer(proteins[begin : begin + batch], padding=True, return_tensors="pt")
        hidden = model(**tokens).last_hidden_state
        rows += [
            line[1 : length - 1].mean(0)
            for line, length in zip(hidden, tokens["attention_mask"].sum(1).tolist(), strict=True)
        ]
    return rows


@torch.inference_mode()
def main() -> None:
    """Print both ways."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--batches",
        type=int,
        nargs="+",
        default=[1, 8, 32, 128],
        help="sequences of a padded batch",
    )
    options = parser.parse_args()
    from virnucpro.embedding.extract import PlannedBatches
    from virnucpro.embedding.plan import make_plan
    from virnucpro.embedding.work import TokenColumn
    from virnucpro.models.bundle import MINI, Bundle
    from virnucpro.sequences.frame_columns import FrameRules
    from virnucpro.sequences.inputs import find_inputs
    from virnucpro.sequences.table_cache import TablePlaces, build_or_open
    from virnucpro.sequences.tokens import Tokenizers

    torch.set_num_threads(options.threads)
    bundle = Bundle.load(MINI)
    with tempfile.TemporaryDirectory() as cache:
        inputs = find_inputs(sorted(map(str, (ROOT / "examples").glob("*.fna.gz"))))
        rules = FrameRules(bundle.chunk_length, bundle.frame_policy, 1)
        table = build_or_open(
            inputs,
            rules,
            Tokenizers(bundle.esm2, bundle.dnabert_s),
            TablePlaces(cache, Path(cache)),
            lambda *_: None,
        )
        column = TokenColumn(table, "esm2")
        lengths = np.array(list(map(len, column(np.arange(len(table))))))
        proteins = [
            bytes(protein).decode()
            for protein in table.frames.data.table["protein"].cast("binary").to_pylist()
        ]
        plan = make_plan(np.arange(len(table)), lengths, 4096)
        batches = PlannedBatches(plan, column, ESM2_PAD, int(lengths.max()))
        print(
            f"{len(table)} frames, {lengths.mean():.0f} tokens on average, {options.threads}"
            f" threads, torch {torch.__version__}"
        )
        compare(bundle.esm2, batches, proteins, options.batches)


def compare(model_at: Path, batches: PlannedBatches, proteins: list[str], sizes: list[int]) -> None:
    """Print what our batches take, and padded ones of each of the sizes."""
    from transformers import EsmModel, EsmTokenizer

    from virnucpro.models.esm2 import load_esm2

    encoder, plan = load_esm2(model_at, "cpu", "fp32"), batches.plan
    packed, took = timed(lambda: [encoder.embed(batches[i].packed) for i in range(len(batches))])
    print(f"packed      {took}", flush=True)
    found = torch.empty(len(proteins), encoder.width)
    found[np.concatenate([plan.batch(i) for i in range(len(plan))])] = torch.cat(packed)
    model = EsmModel.from_pretrained(model_at, add_pooling_layer=False, dtype=torch.float32).eval()
    tokenizer = EsmTokenizer.from_pretrained(model_at)
    for size in sizes:
        rows, took = timed(lambda size=size: padded(model, tokenizer, proteins, size))
        print(
            f"padded {size:4} {took}; largest difference"
            f" {(torch.stack(rows) - found).abs().max():.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
