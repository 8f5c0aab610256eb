"""`virnucpro evaluate`: contigs cut from a held-out side, answered by `predict`, and measured."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from virnucpro.errors import InputError, UsageError
from virnucpro.files import write_json
from virnucpro.training.baselines import measure_baselines
from virnucpro.training.contigs import answer, cut_contigs
from virnucpro.training.evaluation import evaluate
from virnucpro.training.parts import measure_parts
from virnucpro.training.settings import EvaluateSettings
from virnucpro.training.store import read_prepared
from virnucpro.training.tables import plot, write_scores, write_table


def run_evaluation(
    settings: EvaluateSettings, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Write evaluation.json, evaluation.tsv, scores.tsv and plots into the output directory;
    returns the results.
    """
    if settings.baselines and find_spec("sklearn") is None:
        raise UsageError(
            "evaluate: the simple methods beside the model need scikit-learn; install it (pip"
            " install scikit-learn), or give --no-baselines"
        )
    store, lengths = read_prepared(settings.prepared), settings.contig_lengths
    contigs = cut_contigs(store, settings.side, lengths, settings.per_group, settings.seed)
    if contigs.virus.all() or not contigs.virus.any():
        raise InputError(
            f"{settings.prepared}: the {settings.side} side has no sequence of"
            f" {min(lengths)} bases or more of both classes; prepare more groups, or"
            " choose another --side"
        )
    say(f"{len(contigs.codes):,} contigs of the {settings.side} side")
    answered = answer(contigs, settings.output, settings.model)
    scored = answered.scored
    results: dict[str, Any] = {
        "side": settings.side,
        "model": settings.model or "default",
        "lengths": evaluate(scored, trained_prevalence(settings.model), settings.draws),
        "parts": measure_parts(answered, settings.draws),
    }
    if settings.baselines:
        results["baselines"] = measure_baselines(store, contigs, scored, settings, say)
    write_json(settings.output / "evaluation.json", results)
    write_table(settings.output / "evaluation.tsv", results)
    write_scores(settings.output / "scores.tsv", scored)
    plot(settings.output / "evaluation.png", scored)
    return results


def trained_prevalence(model: str | None) -> float:
    """Share of viruses that the model's calibration was fitted on; a half without one."""
    from virnucpro.models.bundle import resolve_bundle
    from virnucpro.settings import ModelSettings

    calibration = resolve_bundle(ModelSettings(model=model))[0].calibration
    return calibration["training_prevalence"] if calibration else 0.5
