"""A config.json that disagrees with the weights, or asks for anything else, is one line."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from golden_run import GOLDEN
from safetensors.torch import load_file, save_file

from virnucpro.errors import ModelError
from virnucpro.models.dnabert_s import load_dnabert_s
from virnucpro.models.esm2 import load_esm2
from virnucpro.models.weights import read_state_dict, read_table


@pytest.fixture
def esm2(tmp_path) -> Path:
    return Path(shutil.copytree(GOLDEN / "esm2", tmp_path / "esm2"))


@pytest.fixture
def dnabert_s(tmp_path) -> Path:
    return Path(shutil.copytree(GOLDEN / "dnabert_s", tmp_path / "dnabert_s"))


def edit(directory: Path, **fields) -> None:
    stored = json.loads((directory / "config.json").read_text()) | fields
    kept = {name: value for name, value in stored.items() if value is not ...}
    (directory / "config.json").write_text(json.dumps(kept))


NUMBERS = [
    ({"num_attention_heads": 0}, "num_attention_heads is 0, not a whole number of 1 to 256"),
    ({"num_attention_heads": 5}, "no even part of hidden_size"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
    ({"num_hidden_layers": -1}, "num_hidden_layers is -1"),
    ({"num_hidden_layers": 2.0}, "num_hidden_layers is 2.0"),
    ({"num_hidden_layers": True}, "num_hidden_layers is True"),
    ({"num_hidden_layers": ...}, "num_hidden_layers is None"),
    ({"num_hidden_layers": 2}, "weights that config.json has no place for"),
    ({"num_hidden_layers": 200}, "weights missing"),
    ({"hidden_size": 10**12}, "hidden_size is 1000000000000"),
    ({"hidden_size": "48"}, "hidden_size is '48'"),
    ({"hidden_size": {}}, "hidden_size is a table"),
    ({"intermediate_size": 65}, "do not belong together"),
    ({"vocab_size": 34}, "do not belong together|vocab_size is 34"),
    ({"layer_norm_eps": 0}, "layer_norm_eps is 0, not a small positive number"),
    ({"layer_norm_eps": 1e9}, "layer_norm_eps"),
    ({"pad_token_id": 5000}, "pad_token_id is 5000|pad_token_id is no token"),
    ({"hidden_act": "relu"}, "hidden_act is 'relu', where this encoder has 'gelu'"),
    ({"is_decoder": True}, "is_decoder is True"),
    ({"model_type": "llama"}, "model_type is 'llama'"),
]
ESM2_ONLY = [
    ({"token_dropout": False}, "token_dropout is False, where this encoder has True"),
    ({"position_embedding_type": "absolute"}, "position_embedding_type"),
    ({"emb_layer_norm_before": True}, "emb_layer_norm_before is True"),
    ({"is_folding_model": True}, "is_folding_model is True"),
    ({"quantization_config": {"load_in_4bit": True}}, "quantization_config is a table"),
    ({"rope_theta": 5.0}, "rope_theta is 5.0"),
    ({"max_position_embeddings": 10**12}, "max_position_embeddings"),
    ({"mask_token_id": 7}, "mask_token_id is 7, where this encoder has 32"),
]


@pytest.mark.parametrize(("fields", "says"), NUMBERS + ESM2_ONLY)
def test_esm2(esm2, fields, says):
    edit(esm2, **fields)
    start = time.monotonic()
    with pytest.raises(ModelError, match=says) as caught:
        load_esm2(esm2, "cpu", "fp32")
    assert str(esm2) in str(caught.value) and "\n" not in str(caught.value)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(("fields", "says"), NUMBERS)
def test_dnabert_s(dnabert_s, fields, says):
    edit(dnabert_s, **fields)
    with pytest.raises(ModelError, match=says) as caught:
        load_dnabert_s(dnabert_s, "cpu", "fp32")
    assert str(dnabert_s) in str(caught.value) and "\n" not in str(caught.value)


def test_heads_are_compared_with_the_checkpoints_own_frequencies(esm2):
    tensors = load_file(esm2 / "model.safetensors")
    own = {"rotary_embeddings.inv_freq": torch.tensor([1.0, 0.1, 0.01, 0.001])}
    save_file(tensors | own, esm2 / "model.safetensors")
    load_esm2(esm2, "cpu", "fp32")
    edit(esm2, num_attention_heads=8)
    with pytest.raises(ModelError, match=r"of shape \(4,\), but \(2,\) by num_attention_heads"):
        load_esm2(esm2, "cpu", "fp32")
    edit(esm2, num_attention_heads=4)
    own["rotary_embeddings.inv_freq"][1] = float("nan")
    save_file(tensors | own, esm2 / "model.safetensors")
    with pytest.raises(ModelError, match="rotary frequencies not as in an ESM-2"):
        load_esm2(esm2, "cpu", "fp32")


def test_quantized_weights_are_refused(esm2):
    tensors = load_file(esm2 / "model.safetensors")
    name = "encoder.layer.3.output.dense.weight"
    save_file(tensors | {name: tensors[name].to(torch.int8)}, esm2 / "model.safetensors")
    with pytest.raises(ModelError, match=r"layer\.3\.output\.dense\.weight holds torch\.int8"):
        load_esm2(esm2, "cpu", "fp32")


def test_shards_that_disagree_with_their_index_are_refused(esm2):
    tensors = load_file(esm2 / "model.safetensors")
    names = sorted(tensors)
    (esm2 / "model.safetensors").unlink()
    files = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = {"weight_map": {name: files[i % 2] for i, name in enumerate(names)}}
    (esm2 / "model.safetensors.index.json").write_text(json.dumps(index))
    for i, file in enumerate(files):
        save_file({name: tensors[name] for name in names[i::2]}, esm2 / file)
    assert read_state_dict(esm2).keys() == tensors.keys()
    save_file({name: tensors[name] for name in names[1:]}, esm2 / files[1])
    with pytest.raises(ModelError, match="as another shard does"):
        read_state_dict(esm2)
    save_file({name: tensors[name] for name in names[3::2]}, esm2 / files[1])
    with pytest.raises(ModelError, match="1 weights are not where it says"):
        read_state_dict(esm2)
    for wrong in ({}, {"a": 3}, [], {"a": "b\0"}):
        (esm2 / "model.safetensors.index.json").write_text(json.dumps({"weight_map": wrong}))
        with pytest.raises(ModelError, match=r"index\.json"):
            read_state_dict(esm2)


def test_weights_with_and_without_their_prefix_are_refused(esm2):
    tensors = load_file(esm2 / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    save_file(tensors | {f"esm.{name}": tensors[name] + 1}, esm2 / "model.safetensors")
    with pytest.raises(ModelError, match="twice, with and without esm"):
        read_state_dict(esm2, "esm.")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
        (b'{"a": Infinity}', "Infinity is not a number"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "not readable as JSON"),
        (b"[" * 200_000 + b"]" * 200_000, "nested too deeply"),
        (b'{"a":' * 21 + b"1" + b"}" * 21, "nested more than 20 deep"),
        (b"3", "not a table of fields"),
        (b"{}" + b" " * 100, "larger than 100 bytes"),
    ],
)
def test_json_is_bounded(tmp_path, content, says):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ModelError, match=says) as caught:
        read_table(tmp_path / "x.json", "try again", 100 if says.startswith("larger") else 1 << 20)
    assert str(caught.value).endswith("; try again")
