"""The golden run's small parts in the published ones' place: on a played hub and GitHub, and in the
program's facts.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hub_server import COMMIT, Hub, blob_id
from original_files import GOLDEN
from safetensors.torch import load_file

from virnucpro.errors import VirNucProError
from virnucpro.models.encoders import ENCODERS, published_encoders

PTH = (GOLDEN / "500_model.pth").read_bytes()
ESM2, DNABERT_S = "facebook/esm2_t36_3B_UR50D", "zhihan1996/DNABERT-S"
SHAPES = {
    "esm2": {"hidden_size": 32, "num_hidden_layers": 36},
    "dnabert_s": {"hidden_size": 48, "num_hidden_layers": 3},
}
SHARDS = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")


def make_hub(directory: Path) -> Hub:
    """ESM-2 in two `.bin` shards with an index, DNABERT-S as the hub has it, and the classifier at
    three addresses.
    """
    esm2, dnabert_s = directory / "esm2", directory / "dnabert_s"
    shutil.copytree(GOLDEN / "esm2", esm2)
    split_into_bins(esm2)
    (esm2 / "tf_model.h5").write_bytes(b"not wanted")
    shutil.copytree(GOLDEN / "dnabert_s", dnabert_s)
    files = {f"{place}/500_model.pth": PTH for place in ("raw", "api", "mirror")}
    return Hub({ESM2: esm2, DNABERT_S: dnabert_s}, files)


def split_into_bins(directory: Path) -> None:
    weights = load_file(directory / "model.safetensors")
    names = sorted(weights)
    parts = {SHARDS[0]: names[: len(names) * 3 // 4], SHARDS[1]: names[len(names) * 3 // 4 :]}
    for file, part in parts.items():
        torch.save({name: weights[name] for name in part}, directory / file)
    index = {"metadata": {}, "weight_map": {n: file for file, part in parts.items() for n in part}}
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (directory / "model.safetensors").unlink()


def stand_in(
    change: Callable[[object, str, object], None],
    put: Callable[[dict, str, object], None],
    hub: Hub,
) -> None:
    """Put the facts of the played models into the program; `change` sets an attribute, `put` an
    item.
    """
    from virnucpro.models import download, importing, library

    for entry, model in published_encoders():
        files = hub.repositories[model.id].glob("*.bin") if model.id in hub.repositories else ()
        weights = tuple(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
        played = replace(model, revision=COMMIT, weights=weights, shape=SHAPES[entry.name])
        put(ENCODERS, entry.name, replace(entry, hub=played))
    published = library.PUBLISHED | {"500": replace(library.PUBLISHED["500"], blob_id=blob_id(PTH))}
    addresses = tuple(hub.other_server + f"/{place}/{{name}}" for place in ("raw", "api", "mirror"))
    for module in (library, importing):
        change(module, "PUBLISHED", published)
    change(library, "ADDRESSES", addresses)
    change(download, "WAITS", (0.01,) * 6)


def play(directory: str | Path, address: str, home: str | Path) -> None:
    """Make this process take the hub served at `address` for the published one, and `home` for the
    models directory.
    """
    os.environ.update(HF_ENDPOINT=address, VIRNUCPRO_HOME=str(home))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        os.environ.pop(name, None)
    served = {ESM2: Path(directory, "esm2"), DNABERT_S: Path(directory, "dnabert_s")}
    stand_in(setattr, dict.__setitem__, Hub(served, address=address))


def download_in_child(
    directory: Path, address: str, home: Path, user: int = 0, said: Any = None
) -> None:
    """`models download 500` in a process of its own, which a test may kill, perhaps as another
    user; `said` (a queue) then gets the error's line, or "".
    """
    play(directory, address, home)
    torch.set_num_threads(1)
    from virnucpro.models import library

    if user:
        library.download(
            "500", home.parent / f"own_{os.getpid()}"
        )  # Python may not be readable later
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    line = ""
    try:
        library.download("500")
    except VirNucProError as error:
        line = str(error)
    if said is not None:
        said.put(line)
