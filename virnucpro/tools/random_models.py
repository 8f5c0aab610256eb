"""Models of a real shape with random weights: for tests, benchmarks and as the start of training.

Knows the shapes; writes the published formats. Weights are normal with deviation 0.02, biases 0,
norms 1, seeded.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from virnucpro.models.dnabert_s import DnabertConfig, DnabertModel
from virnucpro.models.esm2 import set_inv_freq
from virnucpro.models.esm2_model import Esm2Config, Esm2Model
from virnucpro.models.weights import without_values
from virnucpro.sequences.vocabulary import DNA_SPECIAL, ESM2_VOCABULARY

DEVIATION = 0.02


@dataclass(frozen=True, slots=True)
class Shape:
    """(layers, width, heads, inner width) of each encoder, the DNA vocabulary, and the classifier's
    hidden width.
    """

    esm2: tuple[int, int, int, int]
    dnabert_s: tuple[int, int, int, int]
    dna_vocabulary: int
    classifier: int


SHAPES = {
    "tiny": Shape((2, 32, 4, 128), (2, 48, 12, 96), 256, 24),
    "mini": Shape((6, 320, 20, 1280), (4, 256, 4, 1024), 4096, 512),
    "650M": Shape((33, 1280, 20, 5120), (12, 768, 12, 3072), 4096, 512),
    "3B": Shape((36, 2560, 40, 10240), (12, 768, 12, 3072), 4096, 512),
}


def esm2_config(shape: str) -> Esm2Config:
    """The configuration of a shape, every other number as in the published ESM-2 models."""
    layers, width, heads, inner = SHAPES[shape].esm2
    return Esm2Config(width, layers, heads, inner, max_position_embeddings=1026)


def random_esm2(
    shape: str, device: torch.device | str, dtype: torch.dtype, seed: int = 0
) -> Esm2Model:
    """An Esm2Model of `shape` made on `device` itself: no file, no second copy."""
    model = Esm2Model(esm2_config(shape)).to(dtype).to_empty(device=device)
    set_inv_freq(model, torch.device(device))
    return _randomize(model, seed)


def random_dnabert_s(
    shape: str, device: torch.device | str, dtype: torch.dtype, seed: int = 0
) -> DnabertModel:
    """A DnabertModel of `shape` made on `device` itself."""
    layers, width, heads, inner = SHAPES[shape].dnabert_s
    with without_values():
        model = DnabertModel(
            DnabertConfig(SHAPES[shape].dna_vocabulary, width, layers, heads, inner)
        )
    return _randomize(model.to(dtype).to_empty(device=device), seed)


def random_bundle(
    directory: Path | str,
    shape: str = "tiny",
    chunk_length: int = 500,
    frame_policy: str = "open",
    seed: int = 0,
) -> Path:
    """Write a whole bundle of `shape` (fp32) into `directory` and return it."""
    directory = Path(directory)
    esm2, dnabert_s = directory / "esm2", directory / "dnabert_s"
    esm2.mkdir(parents=True, exist_ok=True)
    dnabert_s.mkdir(exist_ok=True)
    save_esm2(random_esm2(shape, "cpu", torch.float32, seed), esm2)
    save_dnabert_s(random_dnabert_s(shape, "cpu", torch.float32, seed), dnabert_s)
    tokenizer = train_tokenizer(random_dna(seed), SHAPES[shape].dna_vocabulary)
    tokenizer.save(str(dnabert_s / "tokenizer.json"))
    width = SHAPES[shape].esm2[1] + SHAPES[shape].dnabert_s[1]
    random_classifier(width, SHAPES[shape].classifier, seed).save(
        directory / "classifier.safetensors"
    )
    (directory / "bundle.json").write_text(
        json.dumps(
            {
                "name": f"random-{shape}",
                "chunk_length": chunk_length,
                "frame_policy": frame_policy,
                "classes": ["others", "virus"],
                "esm2": "esm2",
                "dnabert_s": "dnabert_s",
                "classifier": "classifier.safetensors",
                "licence": "MIT",
                "accuracy": None,
            },
            indent=2,
        )
        + "\n"
    )
    return directory


def save_esm2(model: Any, directory: Path) -> None:
    """Write an EsmModel directory with its vocabulary, names as published.

    (`save_pretrained` of transformers 5 calls LayerNorm's weights gamma and beta, which older
    readers do not know.)
    """
    from safetensors.torch import save_file

    tensors = {
        name: tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if "inv_freq" not in name
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    model.config.for_transformers().save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(ESM2_VOCABULARY))
    (directory / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "EsmTokenizer",
                "cls_token": "<cls>",
                "eos_token": "<eos>",
                "pad_token": "<pad>",
                "unk_token": "<unk>",
                "mask_token": "<mask>",
            },
            indent=2,
        )
    )


def save_dnabert_s(model: DnabertModel, directory: Path) -> None:
    """Write a DNABERT-S directory, tokenizer apart."""
    from safetensors.torch import save_file

    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        directory / "model.safetensors",
        metadata={"format": "pt"},
    )
    numbers = asdict(model.config) | {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "hidden_act": "gelu",
        "alibi_starting_size": 512,
    }
    (directory / "config.json").write_text(json.dumps(numbers, indent=2, sort_keys=True) + "\n")


def random_classifier(width: int, hidden: int, seed: int = 0):
    """A Classifier whose scores differ between rows of unit scale."""
    from virnucpro.models.classifier import Classifier

    normal = torch.Generator().manual_seed(seed)

    def values(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=normal) / shape[-1] ** 0.5

    return Classifier(
        {
            "hidden_layer.weight": values(hidden, width),
            "hidden_layer.bias": torch.zeros(hidden),
            "bn1.weight": torch.ones(hidden),
            "bn1.bias": torch.zeros(hidden),
            "bn1.running_mean": torch.zeros(hidden),
            "bn1.running_var": torch.ones(hidden),
            "output_layer.weight": values(2, hidden),
            "output_layer.bias": torch.zeros(2),
        }
    )


def random_dna(seed: int, count: int = 400, length: int = 500) -> list[str]:
    """`count` sequences of `length` bases, the same for a seed."""
    letters = random.Random(seed)
    return ["".join(letters.choices("ACGT", k=length)) for _ in range(count)]


def train_tokenizer(sequences: list[str], vocabulary: int):
    """A BPE tokenizer with DNABERT-S's special tokens (ids 0 to 4) and [CLS] ..

    [SEP] around a sequence.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(DNA_SPECIAL),
        initial_alphabet=list("ACGT"),
        show_progress=False,
        max_token_length=16,
    )
    tokenizer.train_from_iterator(sequences, trainer)
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[
            ("[CLS]", DNA_SPECIAL.index("[CLS]")),
            ("[SEP]", DNA_SPECIAL.index("[SEP]")),
        ],
    )
    return tokenizer


@torch.no_grad()
def _randomize(model: Any, seed: int) -> Any:
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0.0, DEVIATION, generator=generator)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    return model.eval().requires_grad_(False)
