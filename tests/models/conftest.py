"""A models directory of its own, and the published models on a played hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub, serving
from played_models import make_hub, stand_in


@pytest.fixture
def home(tmp_path: Path, monkeypatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setenv("VIRNUCPRO_HOME", str(tmp_path / "models"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    return tmp_path / "models"


@pytest.fixture
def hub(tmp_path: Path, home: Path, monkeypatch) -> Iterator[Hub]:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(make_hub(tmp_path / "hub")) as played:
        monkeypatch.setenv("HF_ENDPOINT", played.address)
        stand_in(monkeypatch.setattr, monkeypatch.setitem, played)
        yield played
