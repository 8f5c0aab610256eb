"""ESM-2: proteins to vectors, on packed batches.

Knows how to load an EsmModel directory in a compute dtype and which layers run it: our own
(fast/), or those of transformers. Does not know attention's back ends (attention.py).
"""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path
from typing import Any

import torch

from virnucpro.errors import ModelError
from virnucpro.models.attention import REGISTERED, VARLEN, choose_attention, register_attention
from virnucpro.models.choices import INT8, PLAIN, choose_fast_path, compute_dtype
from virnucpro.models.config import LONGEST_TOKENS
from virnucpro.models.encoder import Encoder, Forward, assign_weights
from virnucpro.models.esm2_model import Esm2Config, Esm2Model, to_stock
from virnucpro.models.fast.esm2_cpu import CpuEsm2
from virnucpro.models.fast.self_check import LEAST_COSINE, checked
from virnucpro.models.packing import PackedBatch
from virnucpro.models.weights import ADVICE, read_state_dict
from virnucpro.settings import Choice

# tokens: shorter proteins are too few residues for the errors of int8 to average out
# (docs/PERFORMANCE.md)
SHORTEST_INT8 = 32
LAYERS = "ESM-2 layers"
INV_FREQ = "rotary_embeddings.inv_freq"


def choose_forward(
    model: Any, device: torch.device, precision: str, compile: str
) -> tuple[Forward, tuple[Choice, ...]]:
    """The way the network (an Esm2Model or an EsmModel) is run, and why: the one place where a
    faster one takes the stock model's. Takes its layers over.
    """
    width = model.config.hidden_size // model.config.num_attention_heads
    layers = choose_fast_path(LAYERS, device, precision, width, compile)
    if device.type == "cpu" and layers.value == PLAIN and compile != "off":
        return CpuEsm2(model), (
            Choice(LAYERS, "rearranged", "fewer passes over memory on the CPU"),
        )
    model = to_stock(model)
    attention = choose_attention(device, compute_dtype(precision), width)
    plain = stock_forward(model, attention.value)
    if layers.value == PLAIN:
        return plain, (layers, attention)
    pad = model.config.pad_token_id
    fast = checked(
        plain,
        lambda: fast_forward(model, layers.value),
        pad,
        device,
        skip=1,
        least_cosine=LEAST_COSINE[precision],
    )
    return fast, (layers,)


def fast_forward(model: Any, kind: str) -> Forward:
    """Our own kernels; they take the model's layers over."""
    from virnucpro.models.fast.esm2 import FusedEsm2
    from virnucpro.models.fast.esm2_int8 import Int8Esm2

    if kind != INT8:
        return FusedEsm2(model, LONGEST_TOKENS)
    int8 = Int8Esm2(model, LONGEST_TOKENS)
    return short_apart(int8, int8.in_16_bits, SHORTEST_INT8)


def short_apart(forward: Forward, precise: Forward, shortest: int) -> Forward:
    """`forward`, but `precise` for the sequences of fewer than `shortest` tokens.

    Each runs on the whole batch or not at all, so that the bits of a sequence depend on its company
    no more than theirs do. A plan's batches are sorted by length: it has one at most in which both
    run.
    """

    def apart(batch: PackedBatch) -> torch.Tensor:
        short = bisect_left(batch.lengths, shortest)
        if short == 0:
            return forward(batch)
        hidden = precise(batch)
        if short < batch.rows:
            end = sum(batch.lengths[:short])
            hidden[end:] = forward(batch)[end:]
        return hidden

    return apart


def stock_forward(model: Any, attention: str) -> Forward:
    """The stock EsmModel on the row [1, T] with our attention.

    No mask is passed: the back end knows the bounds.
    """
    register_attention()
    model.set_attn_implementation(REGISTERED[attention])

    def forward(batch: PackedBatch) -> torch.Tensor:
        flash = {"cu_seq_lens": batch.cu_seqlens, "max_length": batch.max_length}
        bounds = flash if attention == VARLEN else {"groups": batch.groups}
        output = model(input_ids=batch.tokens[None], position_ids=batch.positions[None], **bounds)
        return output.last_hidden_state[0]

    return forward


def read_esm2(directory: Path, device: torch.device, dtype: torch.dtype) -> Esm2Model:
    """The weights of a directory (config.json and weights, names with or without `esm.`)."""
    model = Esm2Model(Esm2Config.read(directory))
    # transformers 5 saves LayerNorm's weight and bias as gamma and beta
    tensors = {
        name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
            "LayerNorm.beta", "LayerNorm.bias"
        ): tensor
        for name, tensor in read_state_dict(directory, prefix="esm.").items()
    }
    assign_weights(model, tensors, device, dtype, directory)
    stored = [tensor for name, tensor in tensors.items() if name.endswith(INV_FREQ)]
    set_inv_freq(model, device, checked_inv_freq(stored, model.config, directory))
    return model


def checked_inv_freq(
    stored: list[torch.Tensor], config: Esm2Config, directory: Path
) -> torch.Tensor | None:
    """A checkpoint's own RoPE frequencies, one for each two columns of a head; None where it has
    none. Raises ModelError unless those of all layers are the same and fit config.json.
    """
    wanted = config.hidden_size // config.num_attention_heads // 2
    for frequencies in stored:
        if tuple(frequencies.shape) != (wanted,):
            raise ModelError(
                f"{directory}: rotary frequencies of shape {tuple(frequencies.shape)}, but"
                f" ({wanted},) by num_attention_heads in config.json; config and weights do not"
                " belong together"
            )
        plausible = (frequencies > 0) & (frequencies <= 1)
        if not bool(plausible.all()) or not torch.equal(frequencies, stored[0]):
            raise ModelError(f"{directory}: rotary frequencies not as in an ESM-2; {ADVICE}")
    return stored[0] if stored else None


def set_inv_freq(
    model: Esm2Model, device: torch.device, stored: torch.Tensor | None = None
) -> None:
    """Give `model` its RoPE frequencies in fp32 whatever the dtype of the weights: a checkpoint's
    own, if it has them.

    (Rounded to bf16 they are off by 0.09 rad at position 167; the original program uses those of
    its checkpoint.)
    """
    width = model.config.hidden_size // model.config.num_attention_heads
    if stored is None:
        stored = 1.0 / (10000.0 ** (torch.arange(0, width, 2, dtype=torch.float32) / width))
    model.rotary_embeddings.inv_freq = stored.to(device=device, dtype=torch.float32)


class Esm2Encoder(Encoder):
    """An EsmModel on packed batches: the mean of the residues, without <cls> and <eos>."""

    name, layers, skip, shortest_int8 = "esm2", LAYERS, 1, SHORTEST_INT8
    read, choose_forward = staticmethod(read_esm2), staticmethod(choose_forward)


load_esm2 = Esm2Encoder.load
