"""From the weights and scores of a training run to the bundle: calibration on validation, then the
test side, once.

    python -m recipes.mini.finish --data work --packed PACKED --run run --bundle
    virnucpro/models/mini [--hits hits.tsv]

Run with PYTHONPATH=.. Writes the bundle and `mini_evaluation.json`, which docs/MODELS.md
and STUDY.md quote. `--run`: what gather.py wrote, with folds and learning curve in
groups.npz where they were made. `--hits`: DIAMOND's blastx of the test windows against the training
proteins (queries named by their row in contigs.npz, targets V... or C...).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from recipes.mini.contig_sets import blurred_sets
from recipes.mini.splices import region_scores
from recipes.mini.windows import CHUNK_LENGTH, POLICY, draw_training
from virnucpro.calling.calibration import Calibration
from virnucpro.calling.regions import RegionLimits
from virnucpro.settings import FRAME_POLICIES
from virnucpro.training.bundle.save import write_bundle
from virnucpro.training.bundle.scoring import FrameScores, call_contigs
from virnucpro.training.bundle.shape import NetworkShape
from virnucpro.training.calibrate import FEATURES, choose_features, even_weights, fit
from virnucpro.training.evaluation import Scored, by_class, evaluate, macro, measure
from virnucpro.training.metrics import auroc, recall_at
from virnucpro.training.store import Store


def frame_scores(path: Path, prefix: str) -> FrameScores | None:
    """Scores kept under `prefix`: a frame policy, or a fold."""
    with np.load(path) as z:
        if f"{prefix}_logit" not in z:
            return None
        return FrameScores(*(z[f"{prefix}_{f}"] for f in FrameScores._fields))


def needed_scores(path: Path, prefix: str) -> FrameScores:
    """The same, which must be there."""
    scores = frame_scores(path, prefix)
    if scores is None:
        raise SystemExit(f"{path}: has no scores of {prefix}; run the stages before this one")
    return scores


def policy_of(path: Path) -> str:
    """The frame policy of a run's main scores: versions up to 5 had the longest stretch alone."""
    with np.load(path) as z:
        return POLICY if f"{POLICY}_logit" in z else "longest"


def taken(path: Path, prefix: str, contigs: Store) -> np.ndarray:
    """bool [contigs]: which of them the scores kept under `prefix` are of; all, if nothing else is
    said.
    """
    with np.load(path) as z:
        return (
            np.isin(np.arange(len(contigs)), z[f"{prefix}_taken"])
            if f"{prefix}_taken" in z
            else np.ones(len(contigs), bool)
        )


def table(contigs: Store, columns: tuple, rows: np.ndarray, fitted=None) -> Scored:
    """The contigs `rows` with score and, by `fitted`, probability."""
    score, share, frames = (c[rows] for c in columns)
    lab, length = contigs.labels, contigs.length[rows]
    probability = np.full(len(rows), np.nan)
    known = ~np.isnan(score)
    if fitted is not None:
        probability[known] = fitted.probability(
            score[known], length[known], share[known], frames[known]
        )
    return Scored(
        score,
        probability,
        lab.virus[rows].astype(bool),
        lab.category[rows],
        lab.group[rows],
        length,
    )


def policies(run: Path, contigs: Store) -> dict:
    """The frame policies on the 500-base validation windows."""
    lab, out = contigs.labels, {}
    rows = np.flatnonzero((lab.split == "validation") & (lab.kind == "contig500"))
    y = lab.virus[rows].astype(bool)
    for policy in FRAME_POLICIES:
        scores = frame_scores(run / "scores.npz", policy)
        if scores is None or not np.isin(rows, scores.contig).any():
            continue
        score = call_contigs(scores, contigs.length, CHUNK_LENGTH, policy)[1].virus_score[rows]
        ok = ~np.isnan(score)
        out[policy] = {
            "answered": {"all": ok.mean(), "viruses": ok[y].mean(), "cellular": ok[~y].mean()},
            "auroc_all": auroc(score, y),
            "auroc_answered": auroc(score[ok], y[ok]),
            "recall_at_5pct_all": recall_at(score, y, 0.05),
        }
    return rounded(out)


def robustness(
    contigs: Store,
    columns: tuple,
    fitted,
    scored: np.ndarray,
    splits: tuple = ("test", "validation"),
) -> dict:
    """Shares called virus at the default point in the harder sets, and what substitutions cost."""
    lab, out = contigs.labels, {}
    for split in splits:
        for kind in sorted(set(lab.kind[scored & (lab.split == split)])):
            if kind.startswith(("contig", "spliced")):
                continue
            rows = np.flatnonzero((lab.split == split) & (lab.kind == kind) & scored)
            s = table(contigs, columns, rows, fitted)
            called = s.deciding >= 0.5  # NaN, no frame at all: not called
            entry = {
                "called_virus": {
                    n: float(called[m].mean())
                    for n, m in (("of_viral", s.virus), ("of_cellular", ~s.virus))
                    if m.any()
                },
                "sequences": len(rows),
                "groups": len(set(s.group)),
            }
            if s.virus.any() and not s.virus.all():
                entry["auroc"] = auroc(s.deciding, s.virus)
            out[f"{split} {kind}"] = entry
    return rounded(out)


def blurred(
    contigs: Store,
    columns: tuple,
    run: Path,
    fitted,
    splits: tuple = ("test", "validation"),
    as_in: Path | None = None,
) -> dict:
    """The same for windows with N, and for these windows without (`n0pct`); `as_in`: for those that
    this run has scores of.
    """
    out: dict = {}
    for split in splits:
        store, prefix = (
            blurred_sets(contigs.select_records(contigs.labels.split == split)),
            f"blurred-{split}",
        )
        scored = taken((as_in or run) / "scores.npz", prefix, store)
        out |= robustness(
            store, columns_of(needed_scores(run / "scores.npz", prefix), store), fitted, scored
        )
        plain = np.flatnonzero(
            (contigs.labels.split == split) & (contigs.labels.kind == "substituted0pct")
        )
        same = plain[scored[: len(plain)]]
        if not np.isnan(columns[0][same]).all():
            without = robustness(
                contigs, columns, fitted, np.isin(np.arange(len(contigs)), same), (split,)
            )
            out[f"{split} n0pct"] = without[f"{split} substituted0pct"]
    return out


def columns_of(scores: FrameScores, contigs: Store) -> tuple:
    """(score, scored share, number of frames) of every contig.

    Where a chunk has one frame, as in older runs, POLICY changes nothing.
    """
    answers = call_contigs(scores, contigs.length, CHUNK_LENGTH, POLICY)[1]
    return answers.virus_score, answers.scored_fraction, answers.n_open_frames.astype(np.float64)


def fit_validation(contigs: Store, columns: tuple) -> tuple:
    """(calibration, its name, what the others came to), of the validation side's contigs."""
    lab = contigs.labels
    rows = np.flatnonzero(
        np.char.startswith(lab.kind, "contig") & (lab.split == "validation") & ~np.isnan(columns[0])
    )
    s = table(contigs, columns, rows)
    weight = even_weights(s)
    name, compared = choose_features(s, columns[1][rows], columns[2][rows], weight)
    return (
        fit(FEATURES[name], s.score, s.length, columns[1][rows], columns[2][rows], s.virus, weight),
        name,
        compared,
    )


def spliced(
    contigs: Store,
    scores: FrameScores,
    split: str,
    limits: RegionLimits,
    kinds: tuple = ("spliced",),
) -> dict:
    """Phages of 5-15 kb inside 40 kb of bacterium: the regions `calling.regions` finds against
    where they are.
    """
    lab = contigs.labels
    rows = np.flatnonzero(
        np.isin(lab.kind, kinds)
        & (lab.split == split)
        & np.isin(np.arange(len(contigs)), scores.contig)
    )
    return rounded(region_scores(contigs, rows, scores, CHUNK_LENGTH, POLICY, limits))


def choose_limits(contigs: Store, scores: FrameScores) -> tuple[RegionLimits, dict]:
    """The limits of regions with the best base-wise F1 on validation phages, and what each came to.

    Of those within 0.005 of the best the one with the fewest regions elsewhere.
    """
    found = {}
    for opens in (0.55, 0.6, 0.65, 0.7, 0.75, 0.8):
        for stays in (0.4, 0.45, 0.5):
            found[opens, stays] = spliced(
                contigs,
                scores,
                "validation",
                RegionLimits(opens, stays),
                ("spliced", "spliced_choice"),
            )
    good = [k for k in found if found[k]["f1"] > max(v["f1"] for v in found.values()) - 0.005]
    best = min(good, key=lambda k: (found[k]["elsewhere"], -found[k]["f1"]))
    return RegionLimits(*best), {f"{o:g} {s:g}": v for (o, s), v in found.items()}


def baselines(data: Path, contigs: Store, rows: np.ndarray, hits: Path | None) -> dict:
    """Length and GC, 6-mers and a protein search on the 500-base test windows."""
    from virnucpro.training.baselines import kmer_frequencies, length_and_gc, logistic, read_hits

    s = table(contigs, (np.zeros(len(contigs)),) * 3, rows)
    train = draw_training(data, 24_000)
    sequences = [train.codes[a:b] for a, b in zip(train.start, train.end, strict=True)]
    test = [contigs.segment(i) for i in rows]
    found = {}
    for name, features in (("length and GC", length_and_gc), ("6-mers", kmer_frequencies)):
        strength = 1.0 if name == "length and GC" else 0.001
        found[name] = logistic(features(sequences), train.virus, features(test), strength)
    if hits is not None:
        viral, cellular, _ = read_hits(hits, len(contigs))
        found["protein search (DIAMOND)"] = (viral - cellular)[rows]
    out = {}
    for name, score in found.items():
        alone = Scored(score, np.full(len(rows), np.nan), s.virus, s.category, s.group, s.length)
        m = measure(alone, 200)
        out[name] = {k: m[k] for k in ("auroc", "recall_at_1pct", "recall_at_5pct")}
    return out


def by_identity(contigs: Store, rows: np.ndarray, s: Scored, hits: Path) -> dict:
    """Recall of viral test windows by the identity of the nearest training protein of a virus."""
    from virnucpro.training.baselines import read_hits

    _, _, identity = read_hits(hits, len(contigs))
    near, out = identity[rows], {}
    cut = np.quantile(s.deciding[~s.virus], 0.95)
    for name, low, high in (
        ("no hit", -1, 0),
        ("<30", 1e-9, 30),
        ("30-50", 30, 50),
        ("50-70", 50, 70),
        (">70", 70, 101),
    ):
        mine = (
            s.virus
            & (near > low if low == -1 else near >= low)
            & (near <= high if high == 0 else near < high)
        )
        if mine.any():
            out[name] = {
                "windows": int(mine.sum()),
                "groups": len(set(s.group[mine])),
                "recall": float((s.deciding >= 0.5)[mine].mean()),
                "recall_at_5pct": float((s.deciding > cut)[mine].mean()),
            }
    return rounded(out)


def folds(packed: Path, run: Path) -> dict:
    """AUROC of each held-out fold, and of the fixed split's validation side after as many steps."""
    from recipes.mini.folds import fold_contigs

    contigs, fold_of = fold_contigs(packed)
    validation, out = Store.load(packed / "validation.npz"), {}
    tasks = [
        (
            "fixed 0",
            validation,
            np.flatnonzero(np.char.startswith(validation.labels.kind, "contig")),
        )
    ]
    tasks += [
        (f"{kind} {f}", contigs, np.flatnonzero(of == f))
        for kind, of in fold_of.items()
        for f in np.unique(of)
    ]
    for name, store, rows in tasks:
        scores = frame_scores(run / "groups.npz", name.replace(" ", "_"))
        if scores is None:
            continue
        answers = call_contigs(
            scores._replace(logit=scores.logit.astype(np.float32)),
            store.length,
            CHUNK_LENGTH,
            POLICY,
        )[1]
        lab, score, length = (
            store.labels.select(store.record[rows]),
            answers.virus_score[rows],
            store.length[rows],
        )
        virus, every, long, classes = lab.virus.astype(bool), length == 500, length >= 3000, {}
        for category in sorted(set(lab.category[~virus])):
            mine = every & (virus | (lab.category == category))
            if (mine & ~virus).sum() >= 30:
                classes[category] = auroc(score[mine], virus[mine])
        out[name] = {
            "viral_groups": len(set(lab.group[virus])),
            "cellular_classes": len(set(lab.category[~virus])),
            "windows_500": int(every.sum()),
            "auroc_500": auroc(score[every], virus[every]),
            "auroc_500_by_class": classes,
            "contigs_3000_and_more": int(long.sum()),
            "auroc_3000_and_more": auroc(score[long], virus[long]),
        }
    return rounded(out)


def read_log(run: Path) -> list[dict]:
    """The events of a campaign."""
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def curve_of_groups(packed: Path, run: Path) -> dict:
    """AUROC and recall of the networks that were trained on a part of the groups, with intervals
    over the validation groups.
    """
    validation, out = Store.load(packed / "validation.npz"), {}
    lab, length = validation.labels.select(validation.record), validation.length
    plain = np.char.startswith(lab.kind, "contig")
    for e in (
        e
        for e in read_log(run)
        if e["event"] == "groups" and e["task"].startswith("curve") and e["whole"]
    ):
        scores = needed_scores(run / "groups.npz", e["task"])
        score = call_contigs(
            scores._replace(logit=scores.logit.astype(np.float32)), length, CHUNK_LENGTH, POLICY
        )[1].virus_score
        of = {}
        for name, rows in (
            ("500", plain & (length == 500)),
            ("3000 and more", plain & (length >= 3000)),
        ):
            s = Scored(
                score[rows],
                np.full(rows.sum(), np.nan),
                lab.virus[rows].astype(bool),
                lab.category[rows],
                lab.group[rows],
                length[rows],
            )
            m = measure(s, 200)
            of[name] = {k: m[k] for k in ("auroc", "recall_at_5pct")}
        out[e["task"].removeprefix("curve_")] = {
            "groups": e["groups"],
            "frames": e["took"]["frames"],
            **of,
        }
    return rounded(out)


def of_500(validation: dict) -> dict:
    """AUROC and recall of 500-base windows."""
    return {"auroc": validation["500"]["auroc"], "recall_at_5pct": validation["500"]["recall5"]}


def campaign(log: list[dict]) -> dict:
    """Validation AUROC of every network of a campaign in order, and their learning curves."""
    networks, curve = {}, []
    for e in log:
        if e["event"] == "run":
            v, took = e["validation"], e.get("took", {})
            networks[e["run"]] = {
                **of_500(v),
                "auroc_3000_and_more": v.get("3000 and more", {}).get("auroc"),
                "called": v.get("called"),
                "frames": took.get("frames", e.get("frames")),
                "seconds": took.get("seconds"),
                "mean_of": e.get("runs"),
                "start": e.get("recipe", {}).get("start"),
            }
        elif e["event"] == "train" and "validation" in e:
            curve.append(
                {
                    "run": e["run"],
                    "frames": e["frames"],
                    "seconds": e.get("seconds"),
                    **of_500(e["validation"]),
                }
            )
    chosen = next(
        (e["run"] for e in reversed(log) if e["event"] == "finished" and e["place"] == 1), None
    )
    return {"chosen": chosen, "networks": networks, "learning_curve": curve}


def rounded(x):
    """Numbers of nested results with four decimals; None for what is not finite."""
    if isinstance(x, dict):
        return {str(k): rounded(v) for k, v in x.items()}
    if isinstance(x, float | np.floating):
        return round(float(x), 4) if np.isfinite(x) else None
    return x


def split_results(contigs: Store, columns: tuple, fitted, scores: FrameScores, split: str) -> dict:
    """Every figure of one side."""
    rows = np.flatnonzero(
        np.char.startswith(contigs.labels.kind, "contig") & (contigs.labels.split == split)
    )
    long = table(contigs, columns, rows[contigs.length[rows] >= 3000], fitted)
    classes = by_class(long)
    return {
        **evaluate(table(contigs, columns, rows, fitted)),
        "3000 and more": {"all": measure(long), "classes": classes, "macro": macro(classes)},
        "spliced": spliced(contigs, scores, split, fitted.regions),
    }


def headline(test: dict) -> dict:
    """What bundle.json says of the accuracy."""
    long = test["3000 and more"]
    return {
        "side": "test: viral families, phage components and cellular species not trained on",
        "auroc_500": test["500"]["all"]["auroc"],
        "recall_at_5pct_500": test["500"]["all"]["recall_at_5pct"],
        "auroc_3000_and_more": long["all"]["auroc"],
        "false_positive_rate_3000_and_more": {
            k: v["false_positive_rate"][0] for k, v in long["classes"].items()
        },
        "calibration_error_3000_and_more": long["all"]["calibration_error"],
        "intervals": "value, then 95 % limits from drawing groups again",
    }


def all_results(options: argparse.Namespace, contigs: Store) -> tuple[dict, Calibration]:
    """(what mini_evaluation.json says, the calibration that ships)."""
    lab, path = contigs.labels, options.run / "scores.npz"
    scores = needed_scores(path, POLICY)
    columns = columns_of(scores, contigs)
    fitted, features, compared = fit_validation(contigs, columns)
    limits, tried = choose_limits(contigs, scores)
    fitted = replace(fitted, regions=limits)
    results: dict = {
        "counts": json.loads((options.data / "counts.json").read_text()),
        "policies": policies(options.run, contigs),
        "calibration": {"chosen": features, "crossvalidated": rounded(compared)},
        "regions": {"chosen": [limits.opens, limits.stays], "validation": tried},
    }
    for split in ("validation", "test"):
        results[split] = split_results(contigs, columns, fitted, scores, split)
    scored = taken(path, POLICY, contigs)
    results["robustness"] = robustness(contigs, columns, fitted, scored) | blurred(
        contigs, columns, options.run, fitted
    )
    windows = np.flatnonzero((lab.split == "test") & (lab.kind == "contig500"))
    results["baselines"] = baselines(options.data, contigs, windows, options.hits)
    if options.hits:
        answered = table(contigs, columns, windows, fitted)
        results["by_identity"] = by_identity(contigs, windows, answered, options.hits)
    results["campaign"] = campaign(read_log(options.run))
    if (share := options.run / "protein_share.json").exists():
        results["campaign"]["share_of_the_proteins_classifier"] = json.loads(share.read_text())
    if (options.run / "groups.npz").exists():
        results["groups"] = curve_of_groups(options.packed, options.run)
        results["folds"] = folds(options.packed, options.run)
    return results, fitted


def main() -> None:
    """Measure, and write the results and the bundle."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--packed", type=Path, required=True, help="what folds.py packed")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--hits", type=Path)
    parser.add_argument("--version", default="8", help="of the bundle")
    parser.add_argument("--results", type=Path, default=Path("recipes/mini/mini_evaluation.json"))
    options = parser.parse_args()
    results, fitted = all_results(options, Store.load(options.data / "contigs.npz"))
    options.results.write_text(json.dumps(results, indent=1) + "\n")
    accuracy = headline(results["test"])
    description = {
        "name": "mini",
        "version": options.version,
        "chunk_length": CHUNK_LENGTH,
        "frame_policy": POLICY,
        "licence": "MIT",
        "training_data": (
            "public INSDC, RefSeq, UniProt and phagesdb records; counts and split in docs/MODELS.md"
        ),
        "accuracy": accuracy,
        "calibration": fitted.to_json(),
    }
    tokenizer = options.data / "dnabert_s"
    write_bundle(options.bundle, options.run, tokenizer, NetworkShape(), description)
    print(json.dumps({"test": accuracy, "policies": results["policies"]}, indent=1))


if __name__ == "__main__":
    main()
