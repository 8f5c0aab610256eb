"""The card that travels with the shipped bundle: it can be put on a hub as it is."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from transformers import EsmModel

import virnucpro

BUNDLE = Path(virnucpro.__file__).parent / "models" / "mini"
RECIPE = Path(virnucpro.__file__).parents[1] / "recipes" / "mini"


@pytest.fixture(scope="module")
def card():
    return ModelCard.load(BUNDLE / "README.md")


def test_the_metadata_name_licence_and_figures_with_their_sets(card):
    assert card.data.license == "mit" and card.data.library_name == "virnucpro"
    found = {
        (r.dataset_type, r.task_name, r.metric_type): r.metric_value for r in card.data.eval_results
    }
    measured = json.loads((RECIPE / "mini_evidence.json").read_text())
    for dataset, name in (
        ("virnucpro-folds", "network"),
        ("virnucpro-folds-with-known-proteins", "both"),
    ):
        task = "viral or cellular, contigs of 500 bases"
        assert found[dataset, task, "roc_auc"] == round(measured["500"][name]["auroc"][0], 3)


def test_the_card_is_of_the_version_and_the_accuracy_that_the_bundle_states(card):
    bundle = json.loads((BUNDLE / "bundle.json").read_text())
    assert f"# mini, version {bundle['version']}\n" in card.text
    measured = json.loads((RECIPE / "mini_warm.json").read_text())
    assert bundle["accuracy"]["auroc_500"] == measured["warm"]["500"]["auroc"]


def test_the_cards_figures_are_those_that_were_measured(card):
    measured = json.loads((RECIPE / "mini_evidence.json").read_text())
    pages = (card.text, (RECIPE.parents[1] / "docs" / "MODELS.md").read_text())
    for length in ("300", "500", "1000", "3000", "10000"):
        for name in ("network", "both"):
            value, low, high = measured[length][name]["auroc"]
            assert all(f"| {value:.3f} ({low:.3f}-{high:.3f}) |" in page for page in pages)


def test_the_protein_encoder_opens_as_the_card_says():
    assert (
        EsmModel.from_pretrained(BUNDLE / "esm2", add_pooling_layer=False).config.hidden_size == 320
    )
