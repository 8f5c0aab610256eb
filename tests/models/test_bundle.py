from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from golden_run import GOLDEN

from virnucpro.errors import ModelError, UsageError
from virnucpro.models.bundle import MINI, Bundle, resolve_bundle
from virnucpro.settings import ModelSettings
from virnucpro.tools.random_models import random_bundle
from virnucpro.tools.verify import verify_model


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return random_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty models directory, an empty hub cache, and no network."""
    monkeypatch.setenv("VIRNUCPRO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("VIRNUCPRO_MODEL", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "home"


@pytest.fixture
def copy(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "copy"))


def edit(directory: Path, **fields) -> None:
    stored = json.loads((directory / "bundle.json").read_text()) | fields
    (directory / "bundle.json").write_text(
        json.dumps({k: v for k, v in stored.items() if v is not ...})
    )


GOLDEN_PARTS = ModelSettings(
    esm_model=str(GOLDEN / "esm2"),
    dna_model=str(GOLDEN / "dnabert_s"),
    classifier=str(GOLDEN / "500_model.pth"),
)


def test_a_bundle_knows_its_parts(written):
    bundle = Bundle.load(written)
    assert (bundle.name, bundle.chunk_length, bundle.frame_policy) == ("random-tiny", 500, "open")
    assert bundle.widths == {"dnabert_s": 48, "esm2": 32}
    assert (bundle.directories["esm2"], bundle.classifier) == (
        written / "esm2",
        written / "classifier.safetensors",
    )


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"esm2": ...}, "lacks esm2"),
        ({"chunk_length": "500"}, "chunk_length '500'"),
        ({"chunk_length": 2}, "chunk_length 2 is not a whole number of 30 to 100,000"),
        ({"chunk_length": 10**30}, "chunk_length 1000000"),
        ({"classes": 5}, "in this order"),
        ({"frame_policy": ["open"]}, "frame_policy"),
        ({"calibration": {"method": "logistic", "features": "x"}}, "not a list of names"),
        ({"calibration": {"method": "spline"}}, "'spline', not 'logistic'"),
        ({"esm2": "~nobody_of_this_name/x"}, "is not a path"),
        ({"esm2": "a\0b"}, "is not a path"),
        ({"esm2": "\ud800"}, "is not a path"),
        ({"esm2": "x" * 5000}, "is not a path .File name too long"),
        ({"esm2": {"hub": "a/b", "revision": "../main"}}, "not a revision"),
        ({"esm2": {"hub": "a/b", "revision": 3}}, "not a revision"),
        ({"esm2": {"hub": "a/b", "path": 3}}, "esm2: 3 is neither a path"),
        ({"esm2": {"path": "esm2"}}, "None is not a hub id"),
        ({"classifier": {"hub": "a/b"}}, "classifier"),
        ({"name": "a\x1b[31mb"}, "name is not a text"),
        ({"licence": 3}, "licence is not a text"),
        ({"chunk_length": True}, "chunk_length True"),
        ({"frame_policy": "best"}, "frame_policy 'best'"),
        ({"cpu_precision": "fp8"}, "cpu_precision 'fp8'"),
        ({"classes": ["virus", "others"]}, "in this order"),
        ({"calibration": [1]}, "calibration"),
        ({"esm2": 3}, "esm2: 3"),
        ({"esm2": {"hub": "no slash"}}, "not a hub id"),
        ({"name": ""}, "name"),
        ({"esm2": "nowhere"}, "no such model directory"),
        ({"classifier": "nowhere.pth"}, "no such classifier file"),
    ],
)
def test_a_wrong_field_is_named(copy, fields, says):
    edit(copy, **fields)
    with pytest.raises(ModelError, match=says) as caught:
        Bundle.load(copy)
    assert str(copy) in str(caught.value)


def test_what_is_no_bundle_says_so(tmp_path):
    with pytest.raises(ModelError, match=r"bundle\.json: no such file"):
        Bundle.load(tmp_path)
    (tmp_path / "bundle.json").write_text("{")
    with pytest.raises(ModelError, match="not readable as JSON"):
        Bundle.load(tmp_path)


def test_a_classifier_of_another_width_does_not_fit(copy):
    bundle = Bundle.load(copy)
    with pytest.raises(
        ModelError, match="takes 3328 features, but DNABERT-S gives 48 and ESM-2 32"
    ):
        bundle.check_classifier(3328)
    shutil.rmtree(copy / "esm2")
    shutil.copytree(copy / "dnabert_s", copy / "esm2")
    (copy / "esm2" / "vocab.txt").touch()
    with pytest.raises(ModelError, match="takes 80 features"):
        Bundle.load(copy)


def test_a_missing_tokenizer_is_named(copy):
    (copy / "esm2" / "vocab.txt").unlink()
    with pytest.raises(ModelError, match=r"vocab\.txt missing"):
        Bundle.load(copy)


def test_by_directory_with_a_part_replaced(copy):
    calibration = {
        "method": "logistic",
        "features": ["intercept", "logit_score"],
        "coefficients": [0.5, 1.0],
        "training_prevalence": 0.5,
    }
    edit(copy, calibration=calibration, cpu_precision="bf16")
    whole, choice = resolve_bundle(ModelSettings(model=str(copy)))
    assert whole.calibration == calibration and choice.value == "random-tiny"
    assert whole.cpu_precision == "bf16"
    other, choice = resolve_bundle(
        ModelSettings(model=str(copy), dna_model=str(GOLDEN / "dnabert_s"))
    )
    assert other.directories == {**whole.directories, "dnabert_s": GOLDEN / "dnabert_s"}
    assert other.calibration is None and "--dna-model" in choice.reason
    assert other.cpu_precision == "fp32"  # nobody has compared this one's answers
    longer, choice = resolve_bundle(ModelSettings(model=str(copy), chunk_length=300))
    assert (
        longer.chunk_length == 300
        and longer.calibration is None
        and "--chunk-length 300" in choice.reason
    )
    with pytest.raises(UsageError, match="at least 30"):
        resolve_bundle(ModelSettings(model=str(copy), chunk_length=3))


def test_three_parts_need_no_bundle():
    bundle, choice = resolve_bundle(GOLDEN_PARTS)
    assert (bundle.name, bundle.chunk_length, bundle.frame_policy) == ("custom", 500, "open")
    assert bundle.widths == {"dnabert_s": 48, "esm2": 32} and "all parts given" in choice.reason
    from dataclasses import replace

    assert resolve_bundle(replace(GOLDEN_PARTS, model="300"))[0].chunk_length == 300


def test_the_best_installed_answers(home, written, monkeypatch):
    if (MINI / "bundle.json").is_file():
        assert resolve_bundle(ModelSettings())[1].value == "mini"
    shutil.copytree(written, home / "500")
    assert resolve_bundle(ModelSettings())[1] == resolve_bundle(ModelSettings())[1]
    bundle, choice = resolve_bundle(ModelSettings())
    assert (
        bundle.directories["esm2"] == home / "500" / "esm2"
        and choice.reason == "the full model is installed"
    )
    shutil.copytree(written, home / "mine")
    monkeypatch.setenv("VIRNUCPRO_MODEL", "mine")
    bundle, choice = resolve_bundle(ModelSettings())
    assert (
        bundle.directories["esm2"] == home / "mine" / "esm2" and choice.reason == "VIRNUCPRO_MODEL"
    )
    monkeypatch.setenv("VIRNUCPRO_MODEL", "nine")
    with pytest.raises(ModelError, match=r"^VIRNUCPRO_MODEL nine: neither a known name"):
        resolve_bundle(ModelSettings())


def test_the_small_model_does_not_answer_for_a_damaged_full_one(home, written):
    shutil.copytree(written, home / "500")
    (home / "500" / "bundle.json").write_text("{")
    with pytest.raises(ModelError, match="500: the full model was brought here and is not whole"):
        resolve_bundle(ModelSettings())
    assert resolve_bundle(ModelSettings(model="mini"))[1].value == "mini"


def test_a_model_that_is_not_there_says_what_to_bring(home):
    with pytest.raises(
        ModelError, match=r"models download 500.*facebook/esm2_t36_3B_UR50D.*500_model\.pth"
    ) as caught:
        resolve_bundle(ModelSettings(model="500"))
    assert str(home) in str(caught.value)
    with pytest.raises(ModelError, match=r"^models verify 500: not on this machine"):
        verify_model("500")
    with pytest.raises(ModelError, match="--model nonsense: neither a known name"):
        resolve_bundle(ModelSettings(model="nonsense"))


def test_hub_parts_come_from_the_models_directory_without_a_network(home, copy):
    edit(copy, esm2={"hub": "somebody/some-esm", "revision": "abc"})
    with pytest.raises(
        ModelError, match=r"somebody/some-esm@abc: not on this machine.*vocab\.txt"
    ) as caught:
        Bundle.load(copy)
    assert str(home / "somebody--some-esm") in str(caught.value) and "\n" not in str(caught.value)
    home.mkdir(exist_ok=True)
    shutil.move(copy / "esm2", home / "somebody--some-esm")
    assert Bundle.load(copy).directories["esm2"] == home / "somebody--some-esm"


def test_hub_parts_come_from_the_hub_cache(copy, tmp_path):
    edit(copy, esm2="somebody/some-esm")
    snapshot = tmp_path / "hub" / "models--somebody--some-esm" / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    shutil.move(copy / "esm2", snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    assert Bundle.load(copy).directories["esm2"] == snapshot


def test_identity_follows_content_not_place(written, copy):
    assert Bundle.load(written).identity() == Bundle.load(copy).identity()
    before = Bundle.load(copy).identity()
    (copy / "esm2" / "README.md").write_text("nothing that matters")
    assert Bundle.load(copy).identity() == before
    with (copy / "dnabert_s" / "tokenizer.json").open("a") as opened:
        opened.write("\n")
    after = Bundle.load(copy).identity()
    assert {name for name in before if before[name] != after[name]} == {"dnabert_s"}


def test_hashes_are_kept_and_a_directory_that_cannot_be_written_costs_only_time(
    home, written, tmp_path, monkeypatch
):
    monkeypatch.setattr("virnucpro.models.files.SETTLED", 3600)
    first = Bundle.load(written).identity()
    assert not (home / "sha256.json").exists()  # the files are too new to be sure of their times
    monkeypatch.setattr("virnucpro.models.files.SETTLED", -1)
    assert Bundle.load(written).identity() == first
    kept = json.loads((home / "sha256.json").read_text())
    weights = str((written / "esm2" / "model.safetensors").resolve())
    monkeypatch.setattr("virnucpro.models.files.sha256_of", lambda path, add: "0" * 64)
    assert Bundle.load(written).identity() == first  # nothing is read
    kept[weights][-2] = "1" * 64  # damaged, and so not believed
    (home / "sha256.json").write_text(json.dumps(kept))
    assert Bundle.load(written).identity()["esm2"] != first["esm2"]
    monkeypatch.undo()
    monkeypatch.setenv("VIRNUCPRO_HOME", str(home))
    os.utime(weights, ns=(1, 1))
    assert Bundle.load(written).identity() == first
    for damaged in ("[]", json.dumps({weights: [1]}), "{", "[" * 100_000):
        (home / "sha256.json").write_text(damaged)
        assert Bundle.load(written).identity() == first
    blocked = tmp_path / "a file, no directory"
    blocked.touch()
    monkeypatch.setenv("VIRNUCPRO_HOME", str(blocked))
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert Bundle.load(written).identity() == first


@pytest.mark.parametrize("replaced", [True, False])
def test_a_file_replaced_by_one_of_equal_size_and_time_is_hashed_anew(
    copy, tmp_path, monkeypatch, replaced
):
    monkeypatch.setattr("virnucpro.models.files.SETTLED", -1)
    first = Bundle.load(copy).identity()
    file = copy / "esm2" / "model.safetensors"
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    if replaced:
        file.rename(tmp_path / "old")  # keeps its inode, so that the new file has another
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns and file.stat().st_size == before.st_size
    assert Bundle.load(copy).identity()["esm2"] != first["esm2"]


def test_loads_no_torch():
    code = "import sys, virnucpro.models.bundle; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]
        ).returncode
        == 0
    )
