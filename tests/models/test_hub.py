"""An encoder that `--esm-model OWNER/NAME` names: fetched once, its content checked, its disk
counted.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hub_server import COMMIT, Hub
from original_files import GOLDEN
from played_models import ESM2, SHARDS

from virnucpro.errors import ModelError
from virnucpro.models.bundle import resolve_bundle
from virnucpro.models.download import RemoteFile
from virnucpro.models.hub import peak
from virnucpro.settings import ModelSettings


def resolved(esm_model: str) -> Path:
    settings = ModelSettings(
        esm_model=esm_model,
        dna_model=str(GOLDEN / "dnabert_s"),
        classifier=str(GOLDEN / "500_model.pth"),
    )
    return resolve_bundle(settings)[0].directories["esm2"]


def test_a_hub_id_is_fetched_once_and_found_again(hub: Hub, home: Path, monkeypatch):
    place = home / ESM2.replace("/", "--")
    assert resolved(ESM2) == place
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert resolved(ESM2) == resolved(f"{ESM2}@{COMMIT}") == place
    assert len(hub.asked(SHARDS[0])) == 1


def test_a_revision_that_is_asked_for_is_not_another_one(hub: Hub, home: Path):
    resolved(ESM2)
    assert resolved(f"{ESM2}@main").name == f"{ESM2.replace('/', '--')}@main"
    with pytest.raises(ModelError, match=f"{ESM2}@v2: not on this machine, and .*404"):
        resolved(f"{ESM2}@v2")


def hub_cache(home: Path, damage: bool = False) -> Path:
    """The same model where the hub's own client keeps it: blobs by their sha256, links to them."""
    cache = home.parent / "hub_cache" / f"models--{ESM2.replace('/', '--')}"
    snapshot = cache / "snapshots" / COMMIT
    for folder in (cache / "blobs", cache / "refs", snapshot):
        folder.mkdir(parents=True)
    (cache / "refs" / "main").write_text(COMMIT)
    for file in (GOLDEN / "esm2").iterdir():
        data = file.read_bytes()
        blob = cache / "blobs" / hashlib.sha256(data).hexdigest()
        if file.suffix == ".safetensors" and damage:
            data = data[:-1] + bytes([data[-1] ^ 1])
        blob.write_bytes(data)
        (snapshot / file.name).symlink_to(blob)
    return snapshot


def test_what_the_hubs_client_has_cached_is_used(hub: Hub, home: Path):
    snapshot = hub_cache(home)
    assert resolved(ESM2) == snapshot and hub.requests == []


def test_wrong_bytes_of_the_right_size_in_that_cache_are_refused(hub: Hub, home: Path):
    hub_cache(home, damage=True)
    with pytest.raises(ModelError, match=r"model\.safetensors: another content than the hub's"):
        resolved(ESM2)


def test_what_is_no_repository_is_a_line(hub: Hub, home: Path):
    with pytest.raises(ModelError, match=r"nobody/nothing: not on this machine, and .*404"):
        resolved("nobody/nothing")


def test_the_disk_is_fullest_at_the_largest_shard():
    large = RemoteFile("pytorch_model-00001-of-00002.bin", (), "a", 100)
    small = RemoteFile("pytorch_model-00002-of-00002.bin", (), "b", 20)
    config = RemoteFile("config.json", (), "c", 1)
    nothing = dict.fromkeys((large, small, config), 0)
    assert peak([large, small, config], nothing) == 200
    assert peak([large, small, config], nothing | {large: 70}) == 130
    assert peak([small, config], nothing) == 40
    assert peak([config], nothing) == 1
