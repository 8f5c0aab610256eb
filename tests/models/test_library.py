"""Downloads from a hub on the loopback through the real clients; imports; conversion; what is said
without a network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hub_server import COMMIT, Hub, blob_id, serving
from original_files import GOLDEN
from safetensors.torch import load_file

from virnucpro.errors import ModelError
from virnucpro.models import bundle as bundles
from virnucpro.models import library as published
from virnucpro.models.classifier import Classifier
from virnucpro.models.convert import convert_directory
from virnucpro.models.model_home import check_files

ROOT = Path(__file__).parents[2]
PTH = (GOLDEN / "500_model.pth").read_bytes()

# The golden run's small parts in the published ones' place; the clients and everything else are
# real.
CHILD = """
import sys
from dataclasses import replace
from pathlib import Path
from virnucpro.errors import VirNucProError
from virnucpro.models import library as published
from virnucpro.models.classifier import Classifier
published.GITHUB = tuple(sys.argv[1].split(","))
published.PUBLISHED["500"] = replace(published.PUBLISHED["500"], blob_id=sys.argv[2])
try:
    published.download("500", to=sys.argv[3] if len(sys.argv) > 3 else None, log=print)
except VirNucProError as error:
    print("ERROR", error)
    sys.exit(1)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("VIRNUCPRO_HOME", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def hub(tmp_path: Path):
    """ESM-2 in two `.bin` shards with an index, DNABERT-S as the hub has it, and the classifier's
    file server.
    """
    esm2 = tmp_path / "hub" / "esm2"
    shutil.copytree(GOLDEN / "esm2", esm2)
    split_into_bins(esm2)
    (esm2 / "tf_model.h5").write_bytes(b"not wanted")
    dnabert_s = tmp_path / "hub" / "dnabert_s"
    shutil.copytree(GOLDEN / "dnabert_s", dnabert_s)
    repositories = {"facebook/esm2_t36_3B_UR50D": esm2, "zhihan1996/DNABERT-S": dnabert_s}
    with serving(Hub(repositories, {"raw/500_model.pth": PTH})) as server:
        yield server


def split_into_bins(directory: Path) -> None:
    weights = load_file(directory / "model.safetensors")
    names = sorted(weights)
    shards = {
        "pytorch_model-00001-of-00002.bin": names[::2],
        "pytorch_model-00002-of-00002.bin": names[1::2],
    }
    for file, part in shards.items():
        torch.save({name: weights[name] for name in part}, directory / file)
    index = {
        "metadata": {},
        "weight_map": {name: file for file, part in shards.items() for name in part},
    }
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (directory / "model.safetensors").unlink()


def download(
    hub: Hub, home: Path, *more: str, urls: str = "{address}/raw/{{name}}", expected: str = ""
) -> subprocess.CompletedProcess:
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    env |= {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(home.parent / "hf"),
        "VIRNUCPRO_HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
    command = [
        sys.executable,
        "-c",
        CHILD,
        urls.format(address=hub.address),
        expected or blob_id(PTH),
        *more,
    ]
    return subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=120, check=False
    )


def test_download_makes_a_bundle_that_loads(hub: Hub, home: Path):
    result = download(hub, home)
    assert result.returncode == 0, result.stdout + result.stderr
    bundle = bundles.Bundle.load(home / "500")
    assert (
        bundle.chunk_length == 500
        and bundle.esm2 == home / "500" / "../facebook--esm2_t36_3B_UR50D"
    )
    assert bundle.sources["esm2"] == f"facebook/esm2_t36_3B_UR50D@{COMMIT}"
    assert bundles.installed("500")
    # Weights are safetensors now, and the same values.
    assert (
        not list(home.glob("**/*.bin"))
        and not list(home.glob("**/*.pth"))
        and not list(home.glob("**/tf_model*"))
    )
    original = load_file(GOLDEN / "esm2" / "model.safetensors")
    shards = [load_file(file) for file in sorted(bundle.esm2.glob("*.safetensors"))]
    assert len(shards) == 2
    merged = {name: tensor for shard in shards for name, tensor in shard.items()}
    assert merged.keys() == original.keys() and all(
        torch.equal(merged[name], original[name]) for name in merged
    )
    # What came is on record, and a changed file shows.
    assert [
        check_files(directory) for directory in (bundle.esm2, bundle.dnabert_s, home / "500")
    ] == [[], [], []]
    hub.requests.clear()
    assert download(hub, home).returncode == 0 and hub.requests == []  # nothing is fetched twice
    (bundle.dnabert_s / "config.json").write_text("{}")
    assert "config.json: changed" in check_files(bundle.dnabert_s)[0]


def test_two_downloads_at_once_fetch_once(hub: Hub, home: Path):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: download(hub, home), range(2)))
    assert [result.returncode for result in results] == [0, 0]
    assert (
        sum(path.endswith("500_model.pth") for method, path, _ in hub.requests if method == "GET")
        == 1
    )


def test_a_cut_classifier_download_goes_on_where_it_was(hub: Hub, home: Path):
    hub.cut.add("500_model.pth")
    first = download(hub, home)
    assert first.returncode == 1 and "models import" in first.stdout
    assert (home / "500_model.pth.part").stat().st_size == len(PTH) // 2
    second = download(hub, home)
    assert second.returncode == 0, second.stdout
    ranges = [
        (path, asked)
        for method, path, asked in hub.requests
        if method == "GET" and path.endswith(".pth")
    ]
    assert ranges == [
        ("/raw/500_model.pth", None),
        ("/raw/500_model.pth", f"bytes={len(PTH) // 2}-"),
    ]
    assert bundles.installed("500")


def test_a_classifier_of_other_content_is_refused_and_the_next_address_tried(hub: Hub, home: Path):
    hub.files["bad/500_model.pth"] = PTH[:-1] + b"x"
    bad = "{address}/bad/{{name}}"
    result = download(hub, home, urls=bad)
    assert result.returncode == 1 and "another content than the published one" in result.stdout
    assert not (home / "500").exists() and not (home / "500_model.pth.part").exists()
    assert download(hub, home, urls=f"{bad},{{address}}/raw/{{{{name}}}}").returncode == 0


def test_damaged_weights_from_the_hub_are_refused(hub: Hub, home: Path):
    hub.corrupt.add("pytorch_model.bin")
    result = download(hub, home)
    assert (
        result.returncode == 1
        and "zhihan1996/DNABERT-S" in result.stdout
        and not (home / "zhihan1996--DNABERT-S").exists()
    )
    hub.corrupt.clear()
    assert download(hub, home).returncode == 0


def test_download_to_a_directory_can_be_moved(hub: Hub, home: Path, tmp_path: Path):
    assert download(hub, home, str(tmp_path / "stick")).returncode == 0
    (tmp_path / "stick").rename(tmp_path / "elsewhere")
    assert bundles.Bundle.load(tmp_path / "elsewhere" / "500").dnabert_s.is_dir()
    assert not home.exists()


def test_without_a_network_one_line_names_files_and_places(home: Path, tmp_path: Path):
    hub = Hub({}, address="http://127.0.0.1:9")
    result = download(hub, home)
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("ERROR")]
    for wanted in (
        "facebook/esm2_t36_3B_UR50D",
        "zhihan1996/DNABERT-S",
        "500_model.pth",
        "models import",
        str(home),
        "config.json",
    ):
        assert wanted in line
    assert "Traceback" not in result.stderr


def golden_shapes(monkeypatch) -> None:
    shapes = {
        "esm2": {"hidden_size": 32, "num_hidden_layers": 36},
        "dnabert_s": {"hidden_size": 48, "num_hidden_layers": 3},
    }
    monkeypatch.setattr(
        published,
        "ENCODERS",
        tuple(replace(part, shape=shapes[part.kind]) for part in published.ENCODERS),
    )
    known = replace(published.PUBLISHED["500"], blob_id=blob_id(PTH))
    monkeypatch.setattr(published, "PUBLISHED", published.PUBLISHED | {"500": known})


def test_files_brought_by_hand_make_the_same_bundle(home: Path, monkeypatch):
    golden_shapes(monkeypatch)
    assert not bundles.installed("500")
    for path in (GOLDEN / "500_model.pth", GOLDEN / "dnabert_s", GOLDEN / "esm2"):
        published.import_model(path)
    bundle = bundles.Bundle.load(home / "500")
    assert bundles.installed("500") and bundle.widths == {"dnabert_s": 48, "esm2": 32}
    assert {row.name: row.state for row in published.list_models()}["500"] == "installed"
    assert not any(path.name.startswith(".") and path.is_dir() for path in home.iterdir())


def test_another_classifier_becomes_a_bundle_of_its_own(home: Path, monkeypatch, tmp_path: Path):
    golden_shapes(monkeypatch)
    for path in (GOLDEN / "dnabert_s", GOLDEN / "esm2"):
        published.import_model(path)
    Classifier.load(GOLDEN / "500_model.pth").save(tmp_path / "marine_300.safetensors")
    published.import_model(tmp_path / "marine_300.safetensors")
    assert bundles.Bundle.load(home / "marine_300").chunk_length == 300
    shutil.copy(tmp_path / "marine_300.safetensors", tmp_path / "500_model.safetensors")
    with pytest.raises(ModelError, match="not the published classifier"):
        published.import_model(tmp_path / "500_model.safetensors")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path / "nowhere.pth", "no such file"),
        (lambda path: path, "no readable config.json"),
        (
            lambda path: shutil.copytree(GOLDEN / "esm2", path / "esm2"),
            "neither facebook/esm2_t36_3B_UR50D",
        ),
    ],
)
def test_what_cannot_be_imported_is_said_in_a_line(home: Path, tmp_path: Path, make, message):
    with pytest.raises(ModelError, match=message):
        published.import_model(make(tmp_path))


def test_conversion_keeps_kinds_and_shapes(tmp_path: Path):
    weights = {
        "half": torch.arange(7, dtype=torch.bfloat16),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "scalar": torch.tensor(3),
        "empty": torch.empty(0, 4),
        "flags": torch.tensor([True, False]),
    }
    torch.save(weights, tmp_path / "pytorch_model.bin")
    assert convert_directory(tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    assert written.keys() == weights.keys()
    for name, tensor in weights.items():
        assert written[name].dtype == tensor.dtype and torch.equal(written[name], tensor)
    assert not convert_directory(tmp_path)


def test_conversion_executes_nothing(tmp_path: Path):
    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    torch.save({"weight": Hostile()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="refused"):
        convert_directory(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_classifier_of_other_encoders_is_not_taken(home: Path, tmp_path: Path):
    shutil.copy(GOLDEN / "500_model.pth", tmp_path / "mine.pth")
    with pytest.raises(ModelError, match="takes 80 features, the published encoders give 3328"):
        published.import_model(tmp_path / "mine.pth")
    assert not (home / "mine").exists()
