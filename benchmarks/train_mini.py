"""The two runs of version 1 of `mini`, on one GPU; mini_again.sh goes on from them to what is shipped.

    export PYTHONPATH=.:benchmarks
    python -P benchmarks/train_mini.py vocabulary --data work        # CPU, a minute: the DNA tokenizer
    python -P benchmarks/train_mini.py train --data work --out run1 --dna-share 1 --until 485 --compile
    python -P benchmarks/train_mini.py train --data work --out run2 --warm run1 --until 338 --compile

`train` writes weights as it goes, so a run that is stopped leaves its last ones.
"""
from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from virnucpro.sequences.tokens import Tokenizers
from virnucpro.training.bases import decode
from virnucpro.training.batches import Augmentation, BatchMaker, BatchShape
from virnucpro.training.sampling import FragmentSampler, WindowRules, WindowSampler
from virnucpro.training.store import Store
from virnucpro.training.vocabulary import train_dna_tokenizer, write_esm2_tokenizer

CHUNK_LENGTH = 500
GENOME_SHARE = {
    "viral": 0.5, "bacteria": 0.15, "archaea": 0.04, "plasmids": 0.05, "fungi": 0.055, "protozoa": 0.055,
    "plants": 0.05, "invertebrates": 0.05, "vertebrates": 0.05,
}  # fmt: skip
MARKER_SHARE = {"viral": 0.5, "bacteria": 0.28, "fungi": 0.12, "protozoa": 0.10}
KIND_SHARE = {"genome": 0.62, "organelle": 0.13, "transposon": 0.08, "transcript": 0.07, "promoter": 0.10,
              "subviral": 0.02, "marker": 1.0}  # fmt: skip
MARKERS = 0.35  # of the windows


def vocabulary(data: Path) -> None:
    genomes = Store.load(data / "genomes.npz")
    rules = WindowRules(length=200, shortest=200, full_share=1, mutated_share=0, category_share=GENOME_SHARE,
                        kind_share=KIND_SHARE)  # fmt: skip
    windows = WindowSampler(genomes, rules).draw(40_000, np.random.default_rng(5))
    text = decode(windows.codes).decode()
    pieces = [text[a:b] for a, b in zip(windows.start, windows.end, strict=True)]
    train_dna_tokenizer(pieces, 1024, data / "dnabert_s")
    write_esm2_tokenizer(data / "esm2")


def batch_maker(data: Path, shape: BatchShape, tokenizers: Tokenizers,
                augmentation: Augmentation = Augmentation()) -> BatchMaker:
    samplers = []
    for name, share, categories in (("genomes", 1 - MARKERS, GENOME_SHARE), ("markers", MARKERS, MARKER_SHARE)):
        if (data / f"{name}.npz").exists():
            rules = WindowRules(length=CHUNK_LENGTH, category_share=categories, kind_share=KIND_SHARE)
            samplers.append((share, WindowSampler(Store.load(data / f"{name}.npz"), rules)))
    proteins = [Store.load(p) for p in sorted(data.glob("proteins*.npz"))]
    fragments = FragmentSampler(Store.concatenate(proteins)) if proteins else None
    return BatchMaker(samplers, fragments, tokenizers, shape, 1024, augmentation)


def train(options: argparse.Namespace) -> None:
    import torch
    from accelerate import Accelerator

    from virnucpro.training.metrics import auroc, recall_at
    from virnucpro.training.network import Network, NetworkShape
    from virnucpro.training.saving import load_parts, save_parts
    from virnucpro.training.scoring import ContigFrames, FrameScores, score_batches, score_contigs
    from virnucpro.training.trainer import Batches, TrainRules, loader, settle_batch_norm
    from virnucpro.training.trainer import train as run

    began = time.time()
    data, out = options.data, options.out
    out.mkdir(parents=True, exist_ok=True)
    on_gpu = torch.cuda.is_available()
    torch.manual_seed(1)

    def say(**facts) -> None:
        line = json.dumps({"at": round(time.time() - began, 1), **facts})
        print(line, flush=True)
        with (out / "log.jsonl").open("a") as handle:
            handle.write(line + "\n")

    tokenizers = Tokenizers(data / "esm2", data / "dnabert_s")
    batch = BatchShape(640, 320, 384, 312, 168) if options.warm else BatchShape()
    batch = batch if not options.tiny else BatchShape(64, 16, 384, 32, 24)
    shape = NetworkShape() if not options.tiny else NetworkShape(2, 64, 4, 128, 2, 64, 4, 128, 1024, 64)
    maker = batch_maker(data, batch, tokenizers)
    contigs = Store.load(data / "contigs.npz")
    lab = contigs.labels
    workers = options.workers
    accelerator = Accelerator(mixed_precision="bf16" if on_gpu else "no", cpu=not on_gpu)
    device = accelerator.device
    scoring = BatchShape(batch.frames, 0, batch.row_length, batch.esm2_rows, batch.dnabert_s_rows)

    watched = np.flatnonzero((lab.split == "validation") & (lab.kind == "contig500"))
    if options.few:
        watched = watched[:: len(watched) // options.few + 1]
    frames = ContigFrames(contigs, watched, tokenizers, scoring, CHUNK_LENGTH, "longest")
    validation = list(loader(frames, min(workers, len(frames.blocks))))
    y, category = lab.virus[watched].astype(bool), lab.category[watched]
    network = Network(shape)
    if options.warm:  # ESM-2 goes on, DNABERT-S and the classifier start again
        load_parts(network, options.warm, ("esm2", "heads"))
        torch.nn.init.normal_(network.dnabert_s_only.weight, std=0.02)
    say(event="ready", parameters=sum(v.numel() for p in network.parts().values() for v in p.values()),
        validation_windows=len(watched), sources=[len(s.store) for _, s in maker.samplers],
        fragments=maker.fragments is not None)  # fmt: skip

    def full(scores: FrameScores, which: str) -> np.ndarray:
        column = np.full(len(lab), np.nan)
        column[scores.contig] = getattr(scores, which)
        return column[watched]

    def measure() -> dict:
        with accelerator.autocast():
            scores = score_batches(network, validation, device)
        out = {n: round(auroc(full(scores, n), y), 4) for n in ("logit", "esm2_logit", "dnabert_s_logit")}
        out["recall5"] = round(recall_at(full(scores, "logit"), y, 0.05), 4)
        out["by_class"] = {c: round(auroc(full(scores, "logit")[y | (category == c)], y[y | (category == c)]), 3)
                           for c in sorted(set(category)) if c != "viral"}  # fmt: skip
        return out

    saved = [time.time()]

    def report(p, live, mean) -> None:
        facts = {k: round(v, 4) for k, v in p.parts.items()}
        if p.step > 10:
            mean.swap()
            facts["validation"] = measure()
            if time.time() - saved[0] > 100:
                save_parts(network, out)
                saved[0] = time.time()
            mean.swap()
        say(event="train", step=p.step, seconds=round(p.seconds, 1), frames=p.frames, rate=round(p.rate), **facts)

    seconds = options.seconds or options.until - (time.time() - began)
    rules = TrainRules(seconds=seconds, steps=options.steps, workers=workers, report_every=options.report,
                       compile=options.compile and on_gpu, learning_rate=options.rate,
                       esm2_rate=0.6 if options.warm else 1.0,
                       dnabert_s_share=options.dna_share)  # fmt: skip
    mean = run(network, maker, rules, accelerator=accelerator, report=report)
    mean.swap()
    say(event="trained", steps=mean.steps)
    plain = batch_maker(data, scoring, tokenizers, Augmentation(mask_share=0.0))
    settling = iter(loader(Batches(plain, 99), workers))
    settle_batch_norm(network, [next(settling) for _ in range(options.settle)], device)
    del settling
    save_parts(network, out)
    say(event="saved")
    network = accelerator.unwrap_model(network, keep_fp32_wrapper=False)  # the shipped weights, in fp32
    network.round_to_half()
    torch.backends.cuda.matmul.allow_tf32 = False
    everything = {}
    for policy in ("longest", "open"):
        rows = np.flatnonzero((lab.split == "validation") | (policy == "longest"))
        if options.few:
            rows = rows[:: len(rows) // options.few + 1]
        scores = score_contigs(network, contigs, rows, tokenizers, scoring, CHUNK_LENGTH, policy, device, workers)
        for field in FrameScores._fields:
            everything[f"{policy}_{field}"] = getattr(scores, field)
        np.savez_compressed(out / "scores.npz", **everything)
        say(event="scored", policy=policy, frames=len(scores.contig))
    say(event="done")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("vocabulary", "train"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=0.0, help="of training, compiling apart (default: --until)")
    parser.add_argument("--until", type=float, default=460.0, help="train until this many seconds after the start")
    parser.add_argument("--steps", type=int, default=10**9)
    parser.add_argument("--rate", type=float, default=7e-4)
    parser.add_argument("--warm", type=Path, help="an earlier run whose ESM-2 goes on learning")
    parser.add_argument("--dna-share", type=float, default=0.3, help="of the time in which DNABERT-S learns")
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--report", type=float, default=40.0)
    parser.add_argument("--settle", type=int, default=48, help="batches for the batch-norm statistics")
    parser.add_argument("--few", type=int, default=0, help="score only about this many contigs (a trial)")
    parser.add_argument("--tiny", action="store_true", help="a tiny network (a trial on a CPU)")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    if options.stage == "vocabulary":
        vocabulary(options.data)
    else:
        train(options)


if __name__ == "__main__":
    main()
