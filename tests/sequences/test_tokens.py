"""Token ids against the models' own tokenizers."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from virnucpro.errors import ModelError
from virnucpro.models.encoders import read_tokenizers
from virnucpro.sequences import bpe
from virnucpro.sequences.tokens import Tokenizers

SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]


def markov_dna(rng: random.Random, length: int) -> str:
    """DNA with the repeats and skewed words that real sequences have and uniform letters
    have not.
    """
    parts = []
    while sum(map(len, parts)) < length:
        unit = "".join(
            rng.choices(
                "ACGT",
                weights=rng.choice([(1, 1, 1, 1), (4, 1, 1, 4), (1, 5, 5, 1)]),
                k=rng.randint(1, 9),
            )
        )
        parts.append(unit * rng.choice([1, 1, 1, 2, 3, 12]))
    return "".join(parts)[:length]


def train(directory: Path, vocabulary: int, texts: list[str]) -> Path:
    """A tokenizer.json as DNABERT-S has it: BPE on whole words, [CLS] and [SEP] around."""
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL,
        initial_alphabet=list("ACGT"),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    directory.mkdir(exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture(scope="module")
def large(golden, tmp_path_factory) -> Tokenizers:
    rng = random.Random(3)
    texts = [markov_dna(rng, 400) for _ in range(1500)]
    return read_tokenizers(
        {
            "esm2": golden / "esm2",
            "dnabert_s": train(tmp_path_factory.mktemp("bpe") / "4096", 4096, texts),
        }
    )


def assert_as_library(tokenizers: Tokenizers, sequences: list[str]) -> None:
    ids, lengths = tokenizers["dnabert_s"]([s.encode() for s in sequences])
    expected = [e.ids for e in tokenizers["dnabert_s"].library.encode_batch(sequences)]
    assert lengths.tolist() == [len(e) for e in expected]
    assert ids.tolist() == [i for e in expected for i in e]
    assert (ids.dtype, lengths.dtype) == (np.uint16, np.int32)


def sequences(rng: random.Random, n: int) -> list[str]:
    uniform = [
        "".join(rng.choices("ACGT", k=rng.choice([1, 2, 3, 4, 7, 61, 300, 499])))
        for _ in range(n // 2)
    ]
    return uniform + [markov_dna(rng, rng.randint(1, 500)) for _ in range(n - n // 2)]


def test_esm2_ids_are_the_tokenizers_own(golden, tokenizers):
    transformers = pytest.importorskip("transformers")
    rng = random.Random(1)
    own = transformers.EsmTokenizer.from_pretrained(golden / "esm2")
    proteins = [
        "".join(rng.choices("LAGVSERTIDPKQNFYMHWCXBUZO", k=rng.randint(1, 300))) for _ in range(300)
    ]
    proteins += ["M", "ACDEFGHIKLMNPQRSTVWY", "J", "AJA"]
    ids, lengths = tokenizers["esm2"]([p.encode() for p in proteins])
    assert (ids.dtype, lengths.dtype) == (np.uint8, np.int32)
    assert [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])] == [
        own(p)["input_ids"] for p in proteins
    ]


def test_small_vocabulary_as_the_library(tokenizers):
    assert tokenizers["dnabert_s"].way.value == "automaton"
    assert_as_library(tokenizers, sequences(random.Random(2), 12_000))


def test_4096_tokens_as_the_library(large):
    assert large["dnabert_s"].way.value == "automaton", large["dnabert_s"].way
    assert_as_library(large, sequences(random.Random(4), 12_000))


def test_real_frames_as_the_library(golden, fasta, tokenizers, large):
    frames = [s for _, s in fasta(golden / "expected" / "frames_nucleotide.fa")]
    assert any(set(s) - set("ACGT") for s in frames)
    for each in (tokenizers, large):
        assert_as_library(each, frames)


def test_other_letters_as_the_library(tokenizers, large):
    rng = random.Random(6)
    mixed = [
        s if i % 3 else "".join(rng.choice([c, c, c, "N", "R"]) for c in s)
        for i, s in enumerate(sequences(rng, 3000))
    ]
    for each in (tokenizers, large):
        assert_as_library(each, [*mixed, "N", "NNNN", "A", "NA"])
        assert_as_library(each, ["N", "RY"])


def test_an_empty_batch(tokenizers):
    for ids, lengths in (tokenizers["dnabert_s"]([]), tokenizers["esm2"]([])):
        assert len(ids) == len(lengths) == 0


@pytest.mark.parametrize("vocabulary", [10, 24, 64, 200])
def test_many_small_vocabularies_as_the_library(golden, tmp_path, vocabulary):
    """Where merges are few, their order and ties decide more."""
    for seed in range(5):
        rng = random.Random(seed)
        texts = [markov_dna(rng, 60) for _ in range(40)]
        each = read_tokenizers(
            {"esm2": golden / "esm2", "dnabert_s": train(tmp_path / str(seed), vocabulary, texts)}
        )
        assert each["dnabert_s"].way.value == "automaton", each["dnabert_s"].way
        assert_as_library(each, sequences(rng, 400))


def test_merges_in_an_untrained_order_are_exact_or_refused(golden, tmp_path):
    """Shuffled merges break what training guarantees; then the ids are the library's all
    the same.
    """
    definition = json.loads((golden / "dnabert_s" / "tokenizer.json").read_text())
    for seed in range(4):
        random.Random(seed).shuffle(definition["model"]["merges"])
        (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
        assert_as_library(
            read_tokenizers({"esm2": golden / "esm2", "dnabert_s": tmp_path}),
            sequences(random.Random(seed), 500),
        )


def test_a_vocabulary_without_a_base_is_no_automaton():
    with pytest.raises(bpe.NotAnAutomaton, match="lacks one of"):
        bpe.build({"A": 0, "C": 1, "G": 2}, [])


def test_identity_follows_the_files(golden, tmp_path, tokenizers):
    (tmp_path / "tokenizer.json").write_bytes(
        (golden / "dnabert_s" / "tokenizer.json").read_bytes() + b"\n"
    )
    other = read_tokenizers({"esm2": golden / "esm2", "dnabert_s": tmp_path})
    assert other["esm2"].sha256 == tokenizers["esm2"].sha256
    assert other["dnabert_s"].sha256 != tokenizers["dnabert_s"].sha256


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("tokenizer.json", None, r"tokenizer\.json: no such file"),
        ("tokenizer.json", b"{", r"tokenizer\.json: not readable as JSON"),
        ("tokenizer.json", b'{"a":' * 900 + b"1" + b"}" * 900, "deep"),
        ("tokenizer.json", b"[" * 100_000, "nested too deeply"),
        ("tokenizer.json", b'{"a": NaN}', "NaN is not a number"),
        ("tokenizer.json", b" " * (17 << 20), r"larger than 16,777,216 bytes"),
        ("tokenizer.json", b"[]", "not a table of fields"),
        ("vocab.txt", b"A\nC\n", "not the 33 tokens of ESM-2"),
    ],
)
def test_broken_definitions_are_one_line(golden, tmp_path, name, content, words):
    esm2 = tmp_path if name == "vocab.txt" else golden / "esm2"
    dnabert_s = tmp_path if name == "tokenizer.json" else golden / "dnabert_s"
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=words) as caught:
        read_tokenizers({"esm2": esm2, "dnabert_s": dnabert_s})
    assert "\n" not in str(caught.value)


def _specials(definition):
    definition["post_processor"]["special_tokens"]["[CLS]"]["ids"] = [70_000]


PATTERN = {"type": "Split", "pattern": {"Regex": "(A+)+$"}, "behavior": "Removed", "invert": False}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(normalizer={"type": "Lowercase"}), "normalizer is Lowercase"),
        (lambda d: d.update(pre_tokenizer=PATTERN), "pre_tokenizer is Split"),
        (lambda d: d.update(decoder={"type": "ByteLevel"}), "decoder is ByteLevel"),
        (lambda d: d.update(surprise=1), "surprise is 1"),
        (lambda d: d["model"].update(type="Unigram"), "type is Unigram"),
        (lambda d: d["model"].update(dropout=0.5), "dropout is 0.5"),
        (lambda d: d["model"].update(fuse_unk=True), "fuse_unk is True"),
        (lambda d: d["model"]["vocab"].update(ACGTACGT=512_000), "numbered from 0"),
        (lambda d: d["model"]["vocab"].update(A=6), "numbered from 0"),
        (lambda d: d["model"]["vocab"].pop("[CLS]"), "numbered from 0"),
        (lambda d: d["model"]["merges"].append(["A", "XYZ"]), "not pairs of its tokens"),
        (lambda d: d["model"]["merges"].append("A"), "not pairs of its tokens"),
        (lambda d: d["model"].update(merges={"A": "C"}), "not pairs of its tokens"),
        (lambda d: d["added_tokens"].append({"id": 5, "content": "A"}), "special tokens"),
        (lambda d: d.update(post_processor=None), "special tokens or post_processor"),
        (lambda d: d["post_processor"]["single"].pop(), "special tokens or post_processor"),
        (_specials, "special tokens or post_processor"),
        (lambda d: d.update(model=[]), "its model is not a table"),
    ],
)
def test_components_that_dnabert_s_has_not_are_refused(golden, tmp_path, change, says):
    definition = json.loads((golden / "dnabert_s" / "tokenizer.json").read_text())
    change(definition)
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    with pytest.raises(ModelError, match=says) as caught:
        read_tokenizers({"esm2": golden / "esm2", "dnabert_s": tmp_path})
    assert str(tmp_path / "tokenizer.json") in str(caught.value)


def test_merges_as_texts_are_those_as_pairs(golden, tmp_path, tokenizers):
    definition = json.loads((golden / "dnabert_s" / "tokenizer.json").read_text())
    definition["model"]["merges"] = [" ".join(pair) for pair in definition["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    texts = [b"ACGTTTGACCA", b"GGGATTACAN"]
    found, wanted = (
        read_tokenizers({"esm2": golden / "esm2", "dnabert_s": tmp_path})["dnabert_s"](texts),
        tokenizers["dnabert_s"](texts),
    )
    assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_tokens_that_the_network_does_not_have_are_refused(golden, tmp_path):
    (tmp_path / "config.json").write_text('{"vocab_size": 256}')
    content = (golden / "dnabert_s" / "tokenizer.json").read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"512 tokens, but vocab_size is 256 in config\.json"):
        read_tokenizers({"esm2": golden / "esm2", "dnabert_s": tmp_path})


@pytest.mark.parametrize("words", [20_000, 700])
def test_a_vocabulary_that_would_take_minutes_goes_to_the_library(words):
    """700 words of up to 500 letters, or 20,000 words."""
    letters = random.Random(0).choices("ACGT", k=20_000)
    texts = ["".join(letters[i : i + (8 if words > 700 else i % 500)]) for i in range(words)]
    vocabulary = {text: i for i, text in enumerate(dict.fromkeys(["A", "C", "G", "T", *texts]))}
    with pytest.raises(bpe.NotAnAutomaton, match="too large"):
        bpe.build(vocabulary, [])
