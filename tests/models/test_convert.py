"""`.bin` weights as safetensors: the same values, nothing executed, usual permissions."""

from __future__ import annotations

import os
import resource
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from virnucpro.errors import ModelError
from virnucpro.models import convert as module
from virnucpro.models.convert import convert, converted_name


def test_names():
    assert converted_name("pytorch_model.bin") == "model.safetensors"
    assert converted_name("pytorch_model-00001-of-00002.bin") == "model-00001-of-00002.safetensors"
    assert converted_name("config.json") == "config.json"


def test_kinds_shapes_and_tied_weights_are_kept(tmp_path: Path):
    tied = torch.arange(4.0)
    weights = {
        "half": torch.arange(7, dtype=torch.bfloat16),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "scalar": torch.tensor(3),
        "empty": torch.empty(0, 4),
        "flags": torch.tensor([True, False]),
        "tied": tied,
        "tied_too": tied,
        "part": tied[1:3],
    }
    torch.save(weights, tmp_path / "pytorch_model.bin")
    convert(tmp_path / "pytorch_model.bin", tmp_path / "model.safetensors")
    written = load_file(tmp_path / "model.safetensors")
    assert written.keys() == weights.keys()
    for name, tensor in weights.items():
        assert written[name].dtype == tensor.dtype and torch.equal(written[name], tensor)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "model.safetensors").stat().st_mode) == 0o666 & ~mask


def test_nothing_is_executed(tmp_path: Path):
    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    torch.save({"weight": Hostile()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="refused"):
        convert(tmp_path / "pytorch_model.bin", tmp_path / "model.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pytorch_model.bin"]


def test_other_values_on_disk_are_noticed(tmp_path: Path, monkeypatch):
    def damaging(tensors: dict, target: Path) -> None:
        write({name: tensor + 1 for name, tensor in tensors.items()}, target)

    write = module.write_safetensors
    monkeypatch.setattr(module, "write_safetensors", damaging)
    torch.save({"weight": torch.ones(3)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="is the disk sound"):
        convert(tmp_path / "pytorch_model.bin", tmp_path / "model.safetensors")
    assert not (tmp_path / "model.safetensors").exists()


def test_a_full_disk_is_a_line(tmp_path: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(ModelError, match=r"model\.safetensors: cannot write"):
            module.write_safetensors({"weight": torch.ones(9000)}, tmp_path / "model.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
