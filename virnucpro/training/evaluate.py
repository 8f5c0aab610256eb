"""`virnucpro evaluate` and `calibrate`: contigs cut from a held-out side, answered by the shipped
pipeline, and measured.

The contigs go through `predict` as a user's would, so what is measured is the product, not a copy
of it.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from virnucpro.errors import InputError, StoreError, UsageError
from virnucpro.training.bundle.bundle import read_prepared
from virnucpro.training.evaluation import Scored, evaluate
from virnucpro.training.store import SPLITS, Store, decode

LENGTHS = (300, 500, 1000, 3000, 10000)


@dataclass(frozen=True)
class EvaluateSettings:
    """What `virnucpro evaluate PREPARED` is asked to do."""

    prepared: Path
    output: Path
    model: str | None = None
    side: str = "test"
    lengths: tuple[int, ...] = LENGTHS
    per_group: int = 100  # contigs of a length from a group, at most
    baselines: bool = True
    draws: int = 300
    seed: int = 1

    def __post_init__(self) -> None:
        if self.side not in SPLITS:
            raise UsageError(f"--side {self.side}: choose one of {', '.join(SPLITS)}")


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
    would cover them.
    """
    rng = np.random.default_rng(seed)
    lab, codes, rows = store.labels, [], []
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
    virus, category, group, length = (np.array(c) for c in zip(*rows, strict=True))
    return Contigs(codes, virus.astype(bool), category, group, length.astype(np.int64))


def answer(contigs: Contigs, directory: Path, model: str | None, ignore_calibration: bool = False):
    """`predict` on the contigs; (Scored, scored_fraction, open frames), rows by name."""
    from virnucpro import api

    directory.mkdir(parents=True, exist_ok=True)
    fasta = directory / "contigs.fna"
    with fasta.open("wb") as handle:
        for i, codes in enumerate(contigs.codes):
            handle.write(b">c%d\n%s\n" % (i, decode(codes)))
    try:
        result = api.predict(
            fasta, directory / "predicted", model=model, allow_short=True, features="none"
        )
    except StoreError as error:  # of other contigs or another model; there is no --force here
        raise StoreError(str(error).replace("--force starts over", "remove it")) from error
    if result is None:
        raise UsageError(
            "evaluate and calibrate start their own processes: run them without a launcher"
        )
    table = result.contigs.to_pydict()
    n = len(contigs.codes)
    at = np.array([int(name[1:]) for name in table["seq_name"]])
    score, probability, share, frames = (np.full(n, np.nan) for _ in range(4))
    score[at] = [_number(v) for v in table["virus_score"]]
    probability[at] = [_number(v) for v in table["virus_probability"]]
    share[at] = [_number(v) for v in table["scored_fraction"]]
    frames[:] = 0
    np.add.at(frames, [int(name[1:]) for name in result.frames.column("seq_name").to_pylist()], 1)
    if ignore_calibration:
        probability[:] = np.nan
    return (
        Scored(score, probability, contigs.virus, contigs.category, contigs.group, contigs.length),
        share,
        frames,
    )


def _number(value) -> float:
    return float("nan") if value in (None, "NA", "") else float(value)


def run_evaluation(settings: EvaluateSettings, say: Callable[[str], None] = lambda _: None) -> dict:
    """Write evaluation.json, evaluation.tsv, scores.tsv and plots into the output directory;
    returns the results.
    """
    store = read_prepared(settings.prepared)
    contigs = cut_contigs(store, settings.side, settings.lengths, settings.per_group, settings.seed)
    if contigs.virus.all() or not contigs.virus.any():
        raise InputError(
            f"{settings.prepared}: the {settings.side} side has no sequence of"
            f" {min(settings.lengths)} bases or more of both classes; prepare more groups, or"
            " choose another --side"
        )
    say(f"{len(contigs.codes):,} contigs of the {settings.side} side")
    scored, _, _ = answer(contigs, settings.output, settings.model)
    results: dict = {
        "side": settings.side,
        "model": settings.model or "default",
        "lengths": evaluate(scored, trained_prevalence(settings.model), settings.draws),
    }
    if settings.baselines:
        results["baselines"] = measure_baselines(store, contigs, scored, settings, say)
    (settings.output / "evaluation.json").write_text(json.dumps(results, indent=1) + "\n")
    write_table(settings.output / "evaluation.tsv", results)
    write_scores(settings.output / "scores.tsv", scored)
    plot(settings.output / "evaluation.png", scored)
    return results


def trained_prevalence(model: str | None) -> float:
    from virnucpro.models.bundle import resolve_bundle
    from virnucpro.settings import ModelSettings

    calibration = resolve_bundle(ModelSettings(model=model))[0].calibration
    return calibration["training_prevalence"] if calibration else 0.5


def measure_baselines(
    store: Store, contigs: Contigs, scored: Scored, settings: EvaluateSettings, say
) -> dict:
    """Length + GC, 6-mers, and DIAMOND where it is installed, learned on windows of the training
    side; by length.
    """
    from virnucpro.training.baselines import kmer_frequencies, length_and_gc, logistic
    from virnucpro.training.bundle.sampling import WindowRules, WindowSampler
    from virnucpro.training.evaluation import measure

    learned = store.select_records(store.labels.split == "train")
    windows = WindowSampler(learned, WindowRules(500, 200, mutated_share=0.0)).draw(
        6000, np.random.default_rng(settings.seed)
    )
    training = [windows.codes[a:b] for a, b in zip(windows.start, windows.end, strict=True)]
    found = {
        "length and GC": logistic(
            length_and_gc(training), windows.virus, length_and_gc(contigs.codes)
        ),
        "6-mers": logistic(
            kmer_frequencies(training), windows.virus, kmer_frequencies(contigs.codes), 0.001
        ),
    }
    identity = None
    if shutil.which("diamond"):
        say("protein search (DIAMOND)")
        found["protein search"], identity = protein_search(
            learned, contigs, settings.output / "search"
        )
    out: dict = {}
    for name, score in found.items():
        for length in settings.lengths:
            rows = contigs.length == length
            if rows.any() and contigs.virus[rows].any() and not contigs.virus[rows].all():
                part = scored.select(rows)
                alone = Scored(
                    score[rows],
                    np.full(rows.sum(), np.nan),
                    part.virus,
                    part.category,
                    part.group,
                    part.length,
                )
                m = measure(alone, 100)
                out.setdefault(name, {})[str(length)] = {
                    k: m[k] for k in ("auroc", "recall_at_1pct", "recall_at_5pct")
                }
    if identity is not None:
        out["recall_by_identity"] = recall_by_identity(scored, identity)
    return out


def protein_search(
    store: Store, contigs: Contigs, directory: Path
) -> tuple[np.ndarray, np.ndarray]:
    """(best viral minus best cellular bit score, identity of the best viral hit), by blastx against
    the training side's ORFs.
    """
    from virnucpro.training.baselines import long_orfs, read_hits

    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "train.faa").open("wb") as handle:
        number = 0
        for i in range(len(store)):
            kind = b"V" if store.labels.virus[store.record[i]] else b"C"
            for protein in long_orfs(store.segment(i), 60):
                handle.write(b">%s%d\n%s\n" % (kind, number, protein))
                number += 1
    with (directory / "contigs.fna").open("wb") as handle:
        for i, codes in enumerate(contigs.codes):
            handle.write(b">%d\n%s\n" % (i, decode(codes)))
    hits = directory / "hits.tsv"
    for command in (
        ["makedb", "--in", "train.faa", "-d", "train"],
        [
            "blastx",
            "-q",
            "contigs.fna",
            "-d",
            "train",
            "--sensitive",
            "-k",
            "30",
            "-e",
            "0.01",
            "-o",
            "hits.tsv",
            "-f",
            "6",
            "qseqid",
            "sseqid",
            "pident",
            "length",
            "bitscore",
            "evalue",
        ],
    ):
        done = subprocess.run(
            ["diamond", *command, "--quiet"], cwd=directory, capture_output=True, text=True
        )
        if done.returncode:
            raise UsageError(
                f"diamond {command[0]} failed: {done.stderr.strip()[-300:]}; use --no-baselines"
            )
    viral, cellular, identity = read_hits(hits, len(contigs.codes))
    return viral - cellular, identity


def recall_by_identity(s: Scored, identity: np.ndarray) -> dict:
    """Viral contigs by the identity (%) of their best hit among viral training proteins: number,
    groups, recall at 0.5.
    """
    out = {}
    called = s.deciding >= 0.5
    for name, rows in identity_strata(identity).items():
        mine = s.virus & rows
        if mine.any():
            out[name] = {
                "sequences": int(mine.sum()),
                "groups": len(set(s.group[mine])),
                "recall": round(float(called[mine].mean()), 4),
            }
    return out


def identity_strata(identity: np.ndarray) -> dict[str, np.ndarray]:
    """Masks of the strata; 0 stands for no hit."""
    return {
        "no hit": identity == 0,
        "<30": (identity > 0) & (identity < 30),
        "30-50": (identity >= 30) & (identity < 50),
        "50-70": (identity >= 50) & (identity < 70),
        ">70": identity >= 70,
    }


def write_table(path: Path, results: dict) -> None:
    """All of evaluation.json but recall by viral group, one figure a line: value, 95 % limits, and
    the groups it rests on.
    """
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle, delimiter="\t", lineterminator="\n")
        writer.writerow(["length", "sequences", "figure", "value", "low", "high", "groups"])
        for length, found in results["lengths"].items():
            groups = found["all"]["viral_groups"] + found["all"]["cellular_groups"]
            parts = {
                w: (found[w], found[w]["viral_groups"] + found[w]["cellular_groups"])
                for w in ("all", "scored")
                if w in found
            }
            parts |= {
                f"class {name}": (figures, figures["groups"])
                for name, figures in found["classes"].items()
            }
            parts["mean of classes"] = found["macro"], groups
            parts |= {
                f"prevalence {p}": (figures, groups) for p, figures in found["prevalence"].items()
            }
            parts |= {
                f"baseline {name}": (of[length], groups)
                for name, of in results.get("baselines", {}).items()
                if length in of
            }
            for part, (figures, n) in parts.items():
                for name, value in figures.items():
                    if isinstance(value, list | float) or value is None:
                        limits = value if isinstance(value, list) else [value, None, None]
                        writer.writerow(
                            [
                                length,
                                part,
                                name,
                                *("NA" if v is None else f"{v:.4f}" for v in limits),
                                n,
                            ]
                        )


def write_scores(path: Path, s: Scored) -> None:
    with path.open("w") as handle:
        handle.write("seq_name\tlabel\tcategory\tgroup\tlength\tvirus_score\tvirus_probability\n")
        for i in range(len(s)):
            numbers = "\t".join(
                "NA" if np.isnan(v) else f"{v:.4f}" for v in (s.score[i], s.probability[i])
            )
            label = "virus" if s.virus[i] else "others"
            handle.write(
                f"c{i}\t{label}\t{s.category[i]}\t{s.group[i]}\t{s.length[i]}\t{numbers}\n"
            )


def plot(path: Path, s: Scored) -> None:
    """ROC curves by length, and how calibrated the probabilities are."""
    from matplotlib.figure import Figure

    from virnucpro.training.metrics import auroc, curve

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for length in sorted(set(s.length.tolist())):
        part = s.select(s.length == length)
        if part.virus.any() and not part.virus.all():
            c = curve(part.deciding, part.virus)
            left.plot(
                c.false_positive,
                c.true_positive,
                label=f"{length:,} bases: {auroc(part.deciding, part.virus):.3f}",
            )
    left.set(xlabel="false positives", ylabel="recall", title="by length (AUROC)")
    left.legend(frameon=False)
    known = ~np.isnan(s.probability)
    if known.any():
        bins = np.clip((s.probability[known] * 10).astype(int), 0, 9)
        n = np.bincount(bins, minlength=10)
        ok = n > 0
        right.plot(
            np.bincount(bins, s.probability[known], 10)[ok] / n[ok],
            np.bincount(bins, s.virus[known], 10)[ok] / n[ok],
            "o-",
        )
    right.plot([0, 1], [0, 1], color="0.7", zorder=0)
    right.set(xlabel="probability", ylabel="share of viruses", title="calibration")
    figure.savefig(path, dpi=120)


def calibrate(
    bundle: Path,
    prepared: Path,
    output: Path,
    side: str = "validation",
    per_group: int = 100,
    seed: int = 1,
    say: Callable[[str], None] = lambda _: None,
) -> dict:
    """Fit a calibration of `bundle` on a held-out side and write it into its bundle.json; returns
    what was compared.
    """
    from virnucpro.calling.calibration import fit
    from virnucpro.training.calibrate import FEATURES, choose_features, even_weights

    description = bundle / "bundle.json"
    if not description.is_file():
        raise InputError(
            f"{description}: no such file; calibrate writes into a bundle directory of yours"
        )
    store = read_prepared(prepared)
    contigs = cut_contigs(store, side, LENGTHS, per_group, seed)
    say(f"{len(contigs.codes):,} contigs of the {side} side")
    scored, share, frames = answer(contigs, output, str(bundle), ignore_calibration=True)
    known = np.flatnonzero(~np.isnan(scored.score))
    s = scored.select(known)
    viral, others = (len(set(s.group[s.virus == virus].tolist())) for virus in (True, False))
    if min(viral, others) < 2:  # one is left out in turn, and what is left needs both
        raise InputError(
            f"{prepared}: the {side} side has scored sequences of {viral} viral and {others} other"
            " groups; a calibration takes at least 2 of each"
        )
    weight = even_weights(s)
    chosen, compared = choose_features(s, share[known], frames[known], weight)
    fitted = fit(FEATURES[chosen], s.score, s.length, share[known], frames[known], s.virus, weight)
    content = json.loads(description.read_text())
    content["calibration"] = fitted.to_json()
    beside = description.with_suffix(".part")
    beside.write_text(json.dumps(content, indent=2) + "\n")
    beside.replace(description)
    return {"sequences": len(known), "chosen": chosen, "crossvalidated": compared}
