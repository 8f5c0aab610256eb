"""Files of weights -> named tensors, without executing anything found in them.

Knows file names, shards and prefixes of published checkpoints; does not know what the tensors are
for. Tensors are memory mapped: nothing is read until it is used. torch is loaded only when weights
are.
"""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from virnucpro.errors import ModelError

if TYPE_CHECKING:
    import torch

WEIGHT_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def weight_files(path: Path) -> tuple[Path, ...]:
    """The files that hold the weights at `path`: a file itself, or a model directory's, shards in
    order.
    """
    path = Path(path)
    if path.is_file():
        return (path,)
    if not path.is_dir():
        raise ModelError(
            f"{path}: no such model directory or file; name one, or a hub id (owner/name)"
        )
    found = next((path / name for name in WEIGHT_NAMES if (path / name).is_file()), None)
    if found is None:
        raise ModelError(
            f"{path}: no weights there; put model.safetensors (or its shards with "
            "model.safetensors.index.json) or pytorch_model.bin into it"
        )
    if found.suffix != ".json":
        return (found,)
    try:
        shards = sorted(set(json.loads(found.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, OSError) as error:
        raise ModelError(
            f"{found}: not an index of weight shards ({error!r}); download it again"
        ) from None
    if any(Path(shard).name != shard for shard in shards):
        raise ModelError(f"{found}: names shards outside its directory; download it again")
    missing = [shard for shard in shards if not (path / shard).is_file()]
    if missing:
        raise ModelError(
            f"{path}: weights incomplete, missing {', '.join(missing)}; download them into it"
        )
    return tuple(path / shard for shard in shards)


def read_state_dict(path: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """Named CPU tensors of a file or model directory; `prefix` is cut off where every name but a
    head's carries it.
    """
    tensors: dict[str, torch.Tensor] = {}
    for file in weight_files(path):
        tensors.update(
            read_safetensors(file) if file.suffix == ".safetensors" else read_pickled(file)
        )
    if prefix and any(name.startswith(prefix) for name in tensors):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    import safetensors

    try:
        with safetensors.safe_open(file, "pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no iterator)
    except (safetensors.SafetensorError, OSError) as error:
        raise ModelError(
            f"{file}: not a complete safetensors file ({error}); download it again"
        ) from None


def read_pickled(file: Path) -> dict[str, torch.Tensor]:
    """A `.bin`, `.pt` or `.pth` of tensors alone: anything else in it is refused, not executed."""
    loaded = load_restricted(file)
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    import torch

    if not isinstance(loaded, dict) or not all(
        isinstance(value, torch.Tensor) for value in loaded.values()
    ):
        raise ModelError(f"{file}: holds no plain table of weights; convert it to safetensors")
    return dict(loaded)


def load_restricted(file: Path, safe_globals: tuple = ()):
    """`torch.load(weights_only=True)` with `safe_globals` beside plain tensors; user errors in one
    line.
    """
    import torch

    try:
        with torch.serialization.safe_globals(list(safe_globals)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd pickles, which are refused below in our words
            try:
                return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:  # files older than the zip format cannot be memory mapped
                return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"{file}: no such file") from None
    except Exception as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named:
            raise ModelError(
                f"{file}: refused, it would run {named[1]} when loaded; weights hold tensors only:"
                " get the file from its source again, or convert it to safetensors"
            ) from None
        raise ModelError(
            f"{file}: not a readable weights file ({type(error).__name__}); download it again"
        ) from None
