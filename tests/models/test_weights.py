from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from golden_run import GOLDEN, embed, protein_ids
from safetensors.torch import load_file, save_file

from virnucpro.errors import ModelError
from virnucpro.models.dnabert_s import load_dnabert_s
from virnucpro.models.esm2 import load_esm2
from virnucpro.models.weights import read_state_dict, weight_files
from virnucpro.tools.random_models import random_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return random_bundle(tmp_path_factory.mktemp("bundle"))


PROTEINS = [protein_ids("MKV"), protein_ids("ACDEFGHIKLMN")]


def shards(tensors, directory):
    names = sorted(tensors)
    halves = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for file, part in halves.items():
        save_file({name: tensors[name] for name in part}, directory / file)
    index = {"weight_map": {name: file for file, part in halves.items() for name in part}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


FORMATS = {
    "bin": lambda tensors, directory: torch.save(tensors, directory / "pytorch_model.bin"),
    "old bin": lambda tensors, directory: torch.save(
        tensors, directory / "pytorch_model.bin", _use_new_zipfile_serialization=False
    ),
    "shards": shards,
    "prefixed": lambda tensors, directory: save_file(
        {f"esm.{name}": tensor for name, tensor in tensors.items()}
        | {"lm_head.bias": torch.zeros(33)},
        directory / "model.safetensors",
    ),
    "gamma and beta": lambda tensors, directory: save_file(
        {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            ): tensor
            for name, tensor in tensors.items()
        },
        directory / "model.safetensors",
    ),
}


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
def test_every_format_gives_the_same_encoder(bundle, tmp_path, write):
    shutil.copy(bundle / "esm2" / "config.json", tmp_path)
    write(load_file(bundle / "esm2" / "model.safetensors"), tmp_path)
    wanted = embed(load_esm2(bundle / "esm2", "cpu", "fp32"), PROTEINS)
    assert torch.equal(embed(load_esm2(tmp_path, "cpu", "fp32"), PROTEINS), wanted)


def test_dnabert_with_the_prefix_of_a_whole_bert(tmp_path):
    source = GOLDEN / "dnabert_s"
    shutil.copy(source / "config.json", tmp_path)
    tensors = read_state_dict(source)
    torch.save(
        {f"bert.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "pytorch_model.bin"
    )
    wanted = embed(load_dnabert_s(source, "cpu", "fp32"), PROTEINS)
    assert torch.equal(embed(load_dnabert_s(tmp_path, "cpu", "fp32"), PROTEINS), wanted)


def test_a_checkpoints_own_rotary_frequencies_stay_and_stay_fp32(bundle, tmp_path):
    shutil.copy(bundle / "esm2" / "config.json", tmp_path)
    own = torch.tensor([1.0, 0.09, 0.011, 0.0013])
    tensors = load_file(bundle / "esm2" / "model.safetensors")
    save_file(
        tensors | {"encoder.layer.0.attention.self.rotary_embeddings.inv_freq": own},
        tmp_path / "model.safetensors",
    )
    kept = load_esm2(tmp_path, "cpu", "bf16").model.rotary_embeddings.inv_freq
    assert kept.dtype == torch.float32 and torch.equal(kept, own)
    computed = load_esm2(bundle / "esm2", "cpu", "bf16").model.rotary_embeddings.inv_freq
    torch.testing.assert_close(computed, torch.tensor([1.0, 0.1, 0.01, 0.001]))


def test_weights_of_another_shape_are_refused(bundle, tmp_path):
    shutil.copy(GOLDEN / "esm2" / "config.json", tmp_path)
    shutil.copy(bundle / "esm2" / "model.safetensors", tmp_path)
    with pytest.raises(ModelError, match="weights missing"):
        load_esm2(tmp_path, "cpu", "fp32")
    shutil.copy(bundle / "dnabert_s" / "model.safetensors", tmp_path / "model.safetensors")
    shutil.copy(GOLDEN / "dnabert_s" / "config.json", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"word_embeddings.weight is \(256, 48\) but \(512, 48\)"):
        load_dnabert_s(tmp_path, "cpu", "fp32")


def test_missing_files_are_named(bundle, tmp_path):
    with pytest.raises(ModelError, match="no such model directory"):
        weight_files(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"model\.safetensors .*or pytorch_model\.bin"):
        weight_files(tmp_path)
    with pytest.raises(ModelError, match=r"config\.json: no such file"):
        load_esm2(tmp_path, "cpu", "fp32")
    shards(load_file(bundle / "esm2" / "model.safetensors"), tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"missing model-00002-of-00002\.safetensors"):
        weight_files(tmp_path)


def test_shards_may_not_lie_elsewhere(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../../secret"}})
    )
    with pytest.raises(ModelError, match="outside its directory"):
        weight_files(tmp_path)


def test_a_truncated_safetensors_file_says_so(bundle, tmp_path):
    shutil.copytree(bundle / "esm2", tmp_path / "esm2")
    os.truncate(tmp_path / "esm2" / "model.safetensors", 5000)
    with pytest.raises(ModelError, match="not a complete safetensors file"):
        load_esm2(tmp_path / "esm2", "cpu", "fp32")


def test_too_little_memory_is_not_taken_for_a_broken_file(bundle, monkeypatch):
    """As under `ulimit -v`; else gigabytes would be downloaded again."""

    def refuse(*_, **__):
        raise RuntimeError("unable to mmap 1432532 bytes: Cannot allocate memory (12)")

    monkeypatch.setattr("safetensors.safe_open", refuse)
    with pytest.raises(ModelError, match="cannot be read: not enough memory") as caught:
        load_esm2(bundle / "esm2", "cpu", "fp32")
    assert "download" not in str(caught.value)


def test_a_bert_that_is_no_esm_is_refused(bundle):
    with pytest.raises(ModelError, match="model_type is 'bert', where this encoder has 'esm'"):
        load_esm2(bundle / "dnabert_s", "cpu", "fp32")
