"""`models import`: what was brought by hand makes the same bundle, and what is not the published
content is told apart.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hub_server import COMMIT, Hub
from original_files import GOLDEN
from played_models import DNABERT_S, ESM2

from virnucpro.errors import ModelError, VirNucProError
from virnucpro.models import bundle as bundles
from virnucpro.models import library
from virnucpro.models.classifier import Classifier
from virnucpro.models.contents import Contents
from virnucpro.models.importing import import_model


def bring_by_hand(hub: Hub) -> list[str]:
    lines: list[str] = []
    for path in (GOLDEN / "500_model.pth", *hub.repositories.values()):
        import_model(path, log=lines.append)
    return lines


def test_files_brought_by_hand_make_the_same_bundle(hub: Hub, home: Path):
    assert not bundles.installed("500")
    lines = bring_by_hand(hub)
    bundle = bundles.Bundle.load(home / "500")
    assert bundles.installed("500") and bundle.widths == {"dnabert_s": 48, "esm2": 32}
    assert {row.name: row.state for row in library.list_models()}["500"] == "installed"
    assert not any(path.name.startswith(".") and path.is_dir() for path in home.iterdir())
    # the published content is known as such, so that a download would fetch nothing
    assert not any("warning" in line for line in lines)
    assert bundle.sources["esm2"] == f"{ESM2}@{COMMIT}"
    hub.requests.clear()
    library.download("500")
    assert hub.requests == []


def test_a_converted_directory_of_another_machine_is_known_too(hub: Hub, home: Path, tmp_path):
    bring_by_hand(hub)
    folder = shutil.move(home / ESM2.replace("/", "--"), tmp_path / "stick")
    lines: list[str] = []
    import_model(folder, log=lines.append)
    assert not any("warning" in line for line in lines)
    assert Contents.read(home / ESM2.replace("/", "--")).origin == f"{ESM2}@{COMMIT}"


def test_other_weights_of_the_same_shape_come_with_a_warning(hub: Hub, home: Path, tmp_path: Path):
    lines: list[str] = []
    import_model(GOLDEN / "esm2", log=lines.append)  # safetensors, which were not published
    assert [line for line in lines if line.startswith("warning") and "sha256" in line]
    assert "imported from" in Contents.read(home / ESM2.replace("/", "--")).origin


def test_another_classifier_becomes_a_bundle_of_its_own(hub: Hub, home: Path, tmp_path: Path):
    bring_by_hand(hub)
    Classifier.load(GOLDEN / "500_model.pth").save(tmp_path / "marine_300.safetensors")
    import_model(tmp_path / "marine_300.safetensors")
    assert bundles.Bundle.load(home / "marine_300").chunk_length == 300
    shutil.copy(tmp_path / "marine_300.safetensors", tmp_path / "500_model.safetensors")
    with pytest.raises(ModelError, match="not the published classifier"):
        import_model(tmp_path / "500_model.safetensors")


@pytest.mark.parametrize(
    "name",
    [
        "mini",
        "verified",
        "sha256.json",
        DNABERT_S.replace("/", "--"),
        "../x",
        ".x",
        "-x",
        "",
        "a\nb",
    ],
)
def test_a_name_that_is_taken_or_none_is_refused(hub: Hub, home: Path, tmp_path: Path, name: str):
    bring_by_hand(hub)
    before = {path.name for path in home.iterdir()}
    Classifier.load(GOLDEN / "500_model.pth").save(tmp_path / "mine.safetensors")
    if name:
        with pytest.raises(VirNucProError, match="--name"):
            import_model(tmp_path / "mine.safetensors", name)
        assert {path.name for path in home.iterdir()} == before
    else:  # an empty one is none: the file's own
        assert import_model(tmp_path / "mine.safetensors", name) == home / "mine"


def test_the_users_own_model_is_not_replaced_by_another(hub: Hub, home: Path, tmp_path: Path):
    bring_by_hand(hub)
    mine = Classifier.load(GOLDEN / "500_model.pth")
    mine.save(tmp_path / "mine.safetensors")
    import_model(tmp_path / "mine.safetensors")
    import_model(tmp_path / "mine.safetensors")  # the same once more
    mine.tensors["output_layer.bias"] += 1
    (tmp_path / "other").mkdir()
    mine.save(tmp_path / "other" / "mine.safetensors")
    with pytest.raises(VirNucProError, match="another model of this name"):
        import_model(tmp_path / "other" / "mine.safetensors")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path / "nowhere.pth", "no such file"),
        (lambda path: path, r"config\.json: .*give the directory of ESM-2"),
        (lambda path: _encoder(path, "{}"), "neither facebook/esm2_t36_3B_UR50D"),
        (lambda path: _encoder(path, "[]"), r"config\.json: .*give the directory of ESM-2"),
        (lambda path: _pipe(path), r"config\.json: it is not a regular file; give the directory"),
        (
            lambda path: _encoder(path, "[" * 100_000),
            r"config\.json: .*give the directory of ESM-2",
        ),
    ],
)
def test_what_cannot_be_imported_is_said_in_a_line(home: Path, tmp_path: Path, make, message):
    with pytest.raises(ModelError, match=message):
        import_model(make(tmp_path))


def _pipe(path: Path) -> Path:
    os.mkfifo(path / "config.json")
    return path


def _encoder(path: Path, config: str) -> Path:
    (path / "encoder").mkdir()
    (path / "encoder" / "config.json").write_text(config)
    return path / "encoder"


def test_a_classifier_of_other_encoders_is_not_taken(home: Path, tmp_path: Path):
    shutil.copy(GOLDEN / "500_model.pth", tmp_path / "mine.pth")
    with pytest.raises(ModelError, match="takes 80 features, the published encoders give 3328"):
        import_model(tmp_path / "mine.pth")
    assert not (home / "mine").exists()
