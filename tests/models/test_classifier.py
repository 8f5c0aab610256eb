from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import torch
from golden_run import GOLDEN
from safetensors.torch import save_file

from virnucpro.errors import ModelError
from virnucpro.models.classifier import Classifier
from virnucpro.tools.random_models import random_classifier

ORIGINAL = GOLDEN / "500_model.pth"


class Payload:
    """What a hostile file looks like: unpickling it runs a command."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_rows_bits_depend_on_the_row_alone(threads):
    classifier = random_classifier(64, 512)
    rows = np.random.default_rng(0).normal(size=(1500, 64)).astype(np.float32)
    threads(1)
    all_at_once = classifier.scores(rows)
    shuffled = np.random.default_rng(1).permutation(1500)
    for count in (1, 2, 3):
        threads(count)
        again = np.empty_like(all_at_once)
        again[shuffled] = classifier.scores(rows[shuffled])
        assert np.array_equal(again, all_at_once)
        assert np.array_equal(classifier.scores(rows[700:701]), all_at_once[700:701])


def test_scores_are_those_of_the_original_layers():
    classifier = random_classifier(64, 24)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 24), torch.nn.BatchNorm1d(24), torch.nn.ReLU(), torch.nn.Linear(24, 2)
    ).eval()
    model.load_state_dict(
        {
            f"{layer}.{name.split('.')[1]}": tensor
            for name, tensor in classifier.tensors.items()
            for layer in [{"hidden_layer": 0, "bn1": 1, "output_layer": 3}[name.split(".")[0]]]
        },
        strict=False,
    )
    rows = torch.randn(5, 64)
    torch.testing.assert_close(
        torch.from_numpy(classifier.scores(rows)), model(rows).softmax(1).detach()
    )


def test_no_rows_and_rows_that_are_not_finite():
    classifier = random_classifier(64, 24)
    assert classifier.scores(np.empty((0, 64), np.float32)).shape == (0, 2)
    rows = np.zeros((2, 64), np.float32)
    rows[1, 3] = np.nan
    assert np.isnan(classifier.scores(rows)).tolist() == [[False, False], [True, True]]


@pytest.mark.parametrize("kind", ["safetensors", "state dict"])
def test_every_format_scores_alike(tmp_path, kind):
    original = Classifier.load(ORIGINAL)
    rows = np.random.default_rng(0).normal(size=(9, original.width)).astype(np.float32)
    path = tmp_path / ("c.safetensors" if kind == "safetensors" else "c.pth")
    original.save(path) if kind == "safetensors" else torch.save(original.tensors, path)
    assert np.array_equal(Classifier.load(path).scores(rows), original.scores(rows))


def test_a_hostile_file_is_refused_and_nothing_runs(tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "model.pth"
    torch.save(Payload(f"touch {trace}"), path)
    with pytest.raises(
        ModelError, match=r"model\.pth: refused, it would run \w+\.system"
    ) as caught:
        Classifier.load(path)
    assert "\n" not in str(caught.value)
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the payload is real: without the restriction it runs
    assert trace.exists()


def test_a_hostile_layer_inside_the_originals_module_is_refused(tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "model.pth"
    torch.save({"hidden_layer.weight": torch.zeros(2, 2), "extra": Payload(f"touch {trace}")}, path)
    with pytest.raises(ModelError, match="refused"):
        Classifier.load(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such classifier file"),
        (b"", "not a readable weights file"),
        (b"<html>not found</html>", "not a readable weights file"),
    ],
)
def test_unusable_files_say_so_in_one_line(tmp_path, content, says):
    path = tmp_path / "model.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=says) as caught:
        Classifier.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_truncated_download_says_so(tmp_path):
    shutil.copy(ORIGINAL, tmp_path / "model.pth")
    os.chmod(tmp_path / "model.pth", 0o644)
    os.truncate(tmp_path / "model.pth", 4000)
    with pytest.raises(ModelError, match="not a readable weights file"):
        Classifier.load(tmp_path / "model.pth")


def test_other_tensors_are_no_classifier(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "model.pth")
    with pytest.raises(ModelError, match=r"hidden_layer\.weight is missing"):
        Classifier.load(tmp_path / "model.pth")


def test_features_of_another_width_are_refused():
    with pytest.raises(ModelError, match="do not fit a classifier of width 64"):
        random_classifier(64, 24).scores(np.zeros((1, 80), np.float32))


def _changed(name, value):
    """The golden classifier's tensors with one of them changed."""
    tensors = {key: tensor.clone() for key, tensor in Classifier.load(ORIGINAL).tensors.items()}
    return tensors | {name: value(tensors[name])}


def _first(value):
    def change(tensor):
        tensor.view(-1)[0] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("hidden_layer.weight", _first(float("nan")), "hidden_layer.weight holds a value"),
        ("output_layer.bias", _first(float("inf")), "output_layer.bias holds a value"),
        ("bn1.weight", _first(1e30), "bn1.weight holds a value"),
        ("bn1.bias", lambda t: _first(1e300)(t.double()), "bn1.bias holds a value"),
        ("bn1.running_var", _first(-1.0), "negative variance"),
        ("bn1.weight", torch.zeros_like, "every sequence would score alike"),
        ("output_layer.weight", torch.ones_like, "every sequence would score alike"),
        ("hidden_layer.weight", torch.zeros_like, "every sequence would score alike"),
        ("hidden_layer.bias", lambda t: t.to(torch.int64), "holds torch.int64"),
        ("hidden_layer.bias", lambda t: t[:-1], r"hidden_layer.bias is \(23,\)"),
        ("hidden_layer.weight", lambda t: t[:0], r"hidden_layer.weight is \(0, 80\)"),
        ("hidden_layer.weight", lambda t: t.sum(), r"hidden_layer.weight is \(\)"),
        ("output_layer.weight", lambda t: t[:1], r"output_layer.weight is \(1, 24\)"),
    ],
)
@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_impossible_values_are_refused_when_they_are_read(tmp_path, kind, name, value, says):
    path = tmp_path / f"c.{kind}"
    tensors = {key: tensor.contiguous() for key, tensor in _changed(name, value).items()}
    save_file(tensors, path) if kind == "safetensors" else torch.save(tensors, path)
    with pytest.raises(ModelError, match=says) as caught:
        Classifier.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_classifier_with_one_more_layer_is_another(tmp_path):
    path = tmp_path / "c.pth"
    torch.save(Classifier.load(ORIGINAL).tensors | {"second.weight": torch.ones(2, 2)}, path)
    with pytest.raises(ModelError, match=r"it has another layer, second\.weight"):
        Classifier.load(path)


def test_an_impossible_classifier_is_not_imported(tmp_path, monkeypatch):
    from virnucpro.models.importing import import_model

    monkeypatch.setenv("VIRNUCPRO_HOME", str(tmp_path / "home"))
    torch.save(_changed("bn1.bias", _first(float("nan"))), tmp_path / "mine.pth")
    with pytest.raises(ModelError, match=r"mine\.pth: .*bn1\.bias holds a value"):
        import_model(tmp_path / "mine.pth")
    assert not (tmp_path / "home" / "mine").exists()
