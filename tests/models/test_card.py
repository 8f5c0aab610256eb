"""The card that travels with the shipped bundle: it can be put on a hub as it is."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from transformers import EsmModel

import virnucpro

BUNDLE = Path(virnucpro.__file__).parent / "models" / "mini"


@pytest.fixture(scope="module")
def card():
    return ModelCard.load(BUNDLE / "README.md")


def test_the_metadata_name_licence_and_figures_with_their_sets(card):
    assert card.data.license == "mit" and card.data.library_name == "virnucpro"
    found = {
        (r.dataset_type, r.task_name, r.metric_type): r.metric_value for r in card.data.eval_results
    }
    assert (
        found["virnucpro-later-records", "viral or cellular, contigs of 500 bases", "roc_auc"]
        == 0.857
    )


def test_the_card_is_of_the_version_and_the_accuracy_that_the_bundle_states(card):
    bundle = json.loads((BUNDLE / "bundle.json").read_text())
    assert f"# mini, version {bundle['version']}\n" in card.text
    tested = [r for r in card.data.eval_results if r.dataset_type == "virnucpro-test-side"]
    assert [r.metric_value for r in tested] == [round(bundle["accuracy"]["auroc_500"][0], 3)]


def test_its_figures_on_later_records_are_those_that_were_measured(card):
    results = Path(virnucpro.__file__).parents[1] / "recipes" / "mini" / "mini_folds.json"
    measured = json.loads(results.read_text())["new_groups"]["by_source"]["later records"]
    for length, of in measured["version 8"].items():
        if length != "300":
            value, low, high = of["auroc"]
            assert f"AUROC, {int(length):,} bases" in card.text
            assert f"| {value:.3f} ({low:.3f}-{high:.3f}) |" in card.text


def test_the_protein_encoder_opens_as_the_card_says():
    assert (
        EsmModel.from_pretrained(BUNDLE / "esm2", add_pooling_layer=False).config.hidden_size == 320
    )
