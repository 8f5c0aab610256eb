"""`mini`'s encoders on a CPU at each precision: CPU seconds an encoder, and whether the answers are
those of fp32.

    python benchmarks/mini_cpu.py [--threads 1] [--precisions fp32 bf16] [FASTA ...]

Frames of the files (`examples/` without any) by mini's own policy, in batches of 4,096 tokens. CPU
seconds count: by the clock a busy machine says nothing. To hold against fp32: labels equal on
99.8 % of the frames, worst pooled cosine 0.9995.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from virnucpro.embedding.batches import PlannedBatches  # noqa: E402
from virnucpro.embedding.plan import make_plan  # noqa: E402
from virnucpro.embedding.work import TokenColumn  # noqa: E402
from virnucpro.models.bundle import MINI, Bundle  # noqa: E402
from virnucpro.models.classifier import Classifier  # noqa: E402
from virnucpro.models.encoders import EncoderEntry, read_tokenizers  # noqa: E402
from virnucpro.sequences.frame_columns import FrameRules  # noqa: E402
from virnucpro.sequences.inputs import find_inputs  # noqa: E402
from virnucpro.sequences.table import FrameTable  # noqa: E402
from virnucpro.sequences.table_cache import TablePlaces, build_or_open  # noqa: E402

TOKENS = 4096


def frames_of(files: list[str], bundle: Bundle, cache: str) -> FrameTable:
    """The tokenized frames of `files`."""
    rules = FrameRules(bundle.chunk_length, bundle.frame_policy, 1)
    tokenizers = read_tokenizers(bundle.directories)
    places = TablePlaces(cache, Path(cache))
    return build_or_open(find_inputs(files), rules, tokenizers, places, lambda *_: None)


@torch.inference_mode()
def embedded(
    table: FrameTable, entry: EncoderEntry, bundle: Bundle, precision: str
) -> tuple[torch.Tensor, float]:
    """fp32 vectors [frames, width], and the CPU seconds that they took after a first batch."""
    column, rows = TokenColumn(table, entry), np.arange(len(table))
    lengths = np.array([len(ids) for ids in column(rows)])
    plan = make_plan(rows, lengths, TOKENS)
    encoder = entry.load(bundle.directories[entry.name], torch.device("cpu"), precision, "auto")
    batches = PlannedBatches(plan, column, encoder.pad_id, int(lengths.max()))
    encoder.embed(batches[0].packed)
    found = torch.empty(len(table), encoder.width)
    begun = time.process_time()
    for i in range(len(batches)):
        found[torch.from_numpy(plan.batch(i))] = encoder.embed(batches[i].packed)
    return found, time.process_time() - begun


def main() -> None:
    """Print a line a precision."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bundle = Bundle.load(MINI)
    classifier = Classifier.load(bundle.classifier)
    files = options.files or sorted(map(str, (ROOT / "examples").glob("*.fna.gz")))
    with tempfile.TemporaryDirectory() as cache:
        table = frames_of(files, bundle, cache)
        print(f"{len(table)} frames, {options.threads} threads, torch {torch.__version__}")
        expected: dict[str, torch.Tensor] = {}
        for precision in options.precisions:
            found, words = {}, []
            for entry in bundle.encoders:
                name = entry.name
                found[name], seconds = embedded(table, entry, bundle, precision)
                expected.setdefault(name, found[name])
                cosine = torch.cosine_similarity(found[name], expected[name]).min()
                words.append(f"{name} {seconds:.2f} s of CPU, cosine {cosine:.6f}")
            labels, wanted = (
                classifier.scores(torch.cat(list(rows.values()), 1).numpy()).argmax(1)
                for rows in (found, expected)
            )
            equal = (labels == wanted).mean()
            print(f"{precision}: {'; '.join(words)}; labels equal {equal:.2%}", flush=True)


if __name__ == "__main__":
    main()
