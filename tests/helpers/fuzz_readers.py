"""How the program reads each file of a model and a run, for `fuzz`: the sound files, what is made
of them, and the answer.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz import (
    GOLDEN,
    PROTEINS,
    SEQUENCES,
    Case,
    changed_archive,
    changed_bytes,
    changed_json,
    changed_pickle,
    changed_tensors,
)
from safetensors.torch import load_file, save_file

from virnucpro.models import files
from virnucpro.models.bundle import Bundle
from virnucpro.models.classifier import Classifier
from virnucpro.models.contents import Contents
from virnucpro.models.dnabert_s import load_dnabert_s
from virnucpro.models.encoders import read_tokenizers
from virnucpro.models.esm2 import load_esm2
from virnucpro.models.packing import pack
from virnucpro.reporting.record import InputRecord, ModelRecord, RunRecord, read_record
from virnucpro.reporting.typed import plain
from virnucpro.run.state import WorkPlace
from virnucpro.tools.random_models import random_bundle

ROWS = np.random.default_rng(0).normal(size=(3, 80)).astype(np.float32)
INV_FREQ = {"rotary_embeddings.inv_freq": torch.tensor([1.0, 0.1, 0.01, 0.001])}


def prepare_readers(directory: Path) -> None:
    """The sound files below `directory`."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ[name] = "1"
    os.environ["VIRNUCPRO_HOME"] = str(directory / "home")
    os.environ["XDG_CACHE_HOME"] = str(directory / "cache")
    files.SETTLED = -1.0  # these files are new
    torch.set_num_threads(1)
    bundle = random_bundle(directory / "bundle")
    calibration = {
        "method": "logistic",
        "features": ["intercept", "logit_score", "logit_score*log_length"],
        "coefficients": [0.5, 1.0, 0.1],
        "ranges": {"log_length": [-0.5, 1.0]},
        "training_prevalence": 0.5,
        "regions": {"opens": 0.65, "stays": 0.4},
    }
    stored = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps(stored | {"calibration": calibration}))
    weights = bundle / "esm2" / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(weights).items()} | INV_FREQ
    save_file(tensors, weights)
    _write_shards(tensors, Path(shutil.copytree(bundle / "esm2", directory / "shards")))
    (directory / "pth").mkdir()
    shutil.copy(GOLDEN / "500_model.pth", directory / "pth")
    Classifier.load(GOLDEN / "500_model.pth").save(directory / "pth" / "c.safetensors")
    _write_run(directory)


def _write_shards(tensors: dict[str, torch.Tensor], directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    files = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for i, file in enumerate(files):
        save_file({name: tensors[name] for name in names[i::2]}, directory / file)
    index = {"weight_map": {name: files[i % 2] for i, name in enumerate(names)}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def _write_run(directory: Path) -> None:
    identity = {"frames": "0" * 64, "--stride": "0", "--min-length": "0"}
    model = ModelRecord("mini", 500, "open", {"esm2": "0" * 64}, directories={"esm2": "/x"})
    record = RunRecord(
        identity,
        {"--min-score": "0.5"},
        model,
        (InputRecord("a.fa", "a.fa", "a", "0" * 64, 3),),
        (),
        "float32",
        0,
        0,
        seconds={"read": 1.5},
        counts={"sequences": 3},
    )
    (directory / "run").mkdir()
    (directory / "run" / "run.json").write_text(json.dumps(plain(record)))
    (directory / "unfinished" / ".virnucpro").mkdir(parents=True)
    WorkPlace(directory / "unfinished").write_identity(identity)
    shutil.move(directory / "unfinished" / ".virnucpro", directory / "state")
    (directory / "contents").mkdir()
    (directory / "contents" / "x").write_bytes(b"x")
    Contents("somewhere@main").adding(directory / "contents" / "x").write(directory / "contents")
    (directory / "hashes").mkdir()
    os.utime(directory / "contents" / "x", (1, 1))
    digest(directory / "hashes" / "sha256.json")


def classifier(path: Path) -> tuple[bytes, ...]:
    found = Classifier.load(path)
    scores = found.scores(ROWS)
    assert np.isfinite(scores).all() and scores.shape == (3, 2)
    return *(t.numpy().tobytes() for t in found.tensors.values()), str(found.eps).encode()


def esm2(path: Path) -> bytes:
    ids, lengths = read_tokenizers({"esm2": path.parent, "dnabert_s": GOLDEN / "dnabert_s"})[
        "esm2"
    ](PROTEINS)
    return _embedded(load_esm2(path.parent, "cpu", "fp32"), ids, lengths)


def dnabert_s(path: Path) -> bytes:
    ids, lengths = read_tokenizers({"esm2": GOLDEN / "esm2", "dnabert_s": path.parent})[
        "dnabert_s"
    ](SEQUENCES)
    return _embedded(load_dnabert_s(path.parent, "cpu", "fp32"), ids, lengths)


def _embedded(encoder: Any, ids: np.ndarray, lengths: np.ndarray) -> bytes:
    parts = np.split(ids, np.cumsum(lengths)[:-1])
    order = np.argsort(-lengths, kind="stable")
    batch = pack([parts[i] for i in order], 512, encoder.pad_id)
    return encoder.embed(batch).numpy().tobytes()


def dna_ids(path: Path) -> tuple[list[int], list[int]]:
    ids, lengths = read_tokenizers({"esm2": GOLDEN / "esm2", "dnabert_s": path.parent})[
        "dnabert_s"
    ](SEQUENCES)
    return ids.tolist(), lengths.tolist()


def dna_ids_by_the_library(path: Path, answer: Any) -> bool:
    """A tokenizer of other tokens that is one all the same gives the library's ids."""
    from tokenizers import Tokenizer

    encoded = Tokenizer.from_file(str(path)).encode_batch([s.decode() for s in SEQUENCES])
    return answer == ([i for e in encoded for i in e.ids], [len(e.ids) for e in encoded])


def vocabulary(path: Path) -> list[int]:
    return read_tokenizers({"esm2": path.parent, "dnabert_s": GOLDEN / "dnabert_s"})["esm2"](
        PROTEINS
    )[0].tolist()


def bundle(path: Path) -> dict[str, Any]:
    found = Bundle.load(path.parent)
    names = ("name", "chunk_length", "frame_policy", "licence", "accuracy", "calibration")
    return {name: getattr(found, name) for name in names}


def bundle_says_so(path: Path, answer: dict[str, Any]) -> bool:
    said = json.loads(path.read_text())
    return all(
        said.get(name, {"frame_policy": "open"}.get(name)) == answer[name] for name in answer
    )


def run_record(path: Path) -> dict[str, Any]:
    return plain(read_record(path))


def run_record_says_so(path: Path, answer: dict[str, Any]) -> bool:
    """Every key of the file is kept, and what is not there has its default."""
    return _holds(answer, json.loads(path.read_text()))


def _holds(answer: Any, said: Any) -> bool:
    if isinstance(said, dict) and isinstance(answer, dict):
        return all(key in answer and _holds(answer[key], value) for key, value in said.items())
    if isinstance(said, list) and isinstance(answer, list):
        return len(said) == len(answer) and all(map(_holds, answer, said))
    return answer == said


def state(path: Path) -> Any:
    hidden = path.parent.with_name(".virnucpro")
    shutil.rmtree(hidden, ignore_errors=True)
    shutil.copytree(path.parent, hidden)
    return WorkPlace(hidden.parent).read_identity()


def contents(path: Path) -> Any:
    return Contents.read(path.parent)


def digest(path: Path) -> str:
    """The other cache, which may hold the right hash, is emptied."""
    os.environ["VIRNUCPRO_HOME"] = str(path.parent)
    shutil.rmtree(os.environ["XDG_CACHE_HOME"], ignore_errors=True)
    try:
        return files.file_digest(path.parents[1] / "contents" / "x")
    finally:
        os.environ["VIRNUCPRO_HOME"] = str(path.parents[1] / "home")


def only(*names: str) -> Any:
    """Another answer is honest where config.json differs in a number that no weights tell."""

    def honest(base: dict[str, Any], path: Path, _: Any) -> bool:
        said = json.loads(path.read_text())
        return all(said.get(k) == v for k, v in base.items() if k in SHAPE and k not in names)

    return honest


SHAPE = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "layer_norm_eps",
    "pad_token_id",
    "type_vocab_size",
)


def cases(directory: Path) -> list[Case]:
    """Every kind of file, each with its share of the cases."""
    any_answer = lambda path, answer: True  # noqa: E731
    pth, whole = directory / "pth" / "500_model.pth", directory / "bundle"
    config = {
        name: json.loads((whole / name / "config.json").read_text())
        for name in ("esm2", "dnabert_s")
    }
    eps = functools.partial(only("layer_norm_eps"), config["esm2"])
    eps_and_heads = functools.partial(
        only("layer_norm_eps", "num_attention_heads", "pad_token_id"), config["dnabert_s"]
    )
    return [
        Case("pth bytes", pth, changed_bytes, classifier, weight=12),
        Case("pth opcodes", pth, changed_pickle, classifier, any_answer, 24),
        Case("pth archive", pth, changed_archive, classifier, weight=8),
        Case("pth tensors", pth, changed_tensors(torch.save), classifier, any_answer, 6),
        Case(
            "safetensors bytes",
            pth.with_name("c.safetensors"),
            changed_bytes,
            classifier,
            any_answer,
            5,
        ),
        Case(
            "safetensors tensors",
            pth.with_name("c.safetensors"),
            changed_tensors(save_file),
            classifier,
            any_answer,
            5,
        ),
        Case("esm2 config", whole / "esm2" / "config.json", changed_json, esm2, eps, 14),
        Case(
            "esm2 weights", whole / "esm2" / "model.safetensors", changed_bytes, esm2, any_answer, 4
        ),
        Case(
            "shards",
            directory / "shards" / "model.safetensors.index.json",
            changed_json,
            esm2,
            weight=6,
        ),
        Case("vocab.txt", whole / "esm2" / "vocab.txt", changed_bytes, vocabulary, weight=4),
        Case(
            "dnabert_s config",
            whole / "dnabert_s" / "config.json",
            changed_json,
            dnabert_s,
            eps_and_heads,
            14,
        ),
        Case(
            "tokenizer.json",
            whole / "dnabert_s" / "tokenizer.json",
            changed_json,
            dna_ids,
            dna_ids_by_the_library,
            24,
        ),
        Case("bundle.json", whole / "bundle.json", changed_json, bundle, bundle_says_so, 22),
        Case(
            "run.json",
            directory / "run" / "run.json",
            changed_json,
            run_record,
            run_record_says_so,
            24,
        ),
        Case(
            "state",
            directory / "state" / "run.json",
            changed_json,
            state,
            lambda path, answer: json.loads(path.read_text())["identity"] == answer,
            10,
        ),
        Case(
            "checksums.json",
            directory / "contents" / "checksums.json",
            changed_json,
            contents,
            any_answer,
            4,
        ),
        Case("sha256.json", directory / "hashes" / "sha256.json", changed_json, digest, weight=4),
    ]
