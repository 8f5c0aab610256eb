"""Attention within the sequences of a packed batch; the only place that knows their bounds.

Two back ends, told apart by name. `varlen`: one flash kernel over all sequences (CUDA, sm80 and
newer, 16 bits). `grouped`: scaled-dot-product attention over groups of exactly equal length
(everywhere). Never padding: padded sums differ in their last bits. Both give a sequence the same
bits whatever lies beside it.

All functions here take and give [T, H, D] (tokens, heads, head width). Registered with
transformers' AttentionInterface, `varlen` and `grouped` serve the stock EsmModel, which hands
through `cu_seq_lens`, `max_length` and `groups`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from virnucpro.models.packing import LengthGroup
from virnucpro.settings import Choice

VARLEN, GROUPED = "varlen", "grouped"
CACHED_SCORES = 1 << 19
REGISTERED = {VARLEN: "virnucpro_varlen", GROUPED: "virnucpro_grouped"}


def choose_attention(device: torch.device, dtype: torch.dtype, head_width: int) -> Choice:
    """The back end for plain (unbiased) attention, and why."""
    if device.type != "cuda":
        return Choice("attention", GROUPED, f"no flash kernel on {device.type}")
    if torch.version.hip is not None or torch.cuda.get_device_capability(device) < (8, 0):
        return Choice(
            "attention",
            GROUPED,
            "the flash kernel needs an NVIDIA GPU of compute capability 8.0 or newer",
        )
    if dtype not in (torch.bfloat16, torch.float16):
        return Choice("attention", GROUPED, "the flash kernel computes in 16 bits only")
    if head_width % 8 or head_width > 256:
        return Choice(
            "attention",
            GROUPED,
            f"the flash kernel takes head widths 8, 16 .. 256, not {head_width}",
        )
    if varlen_function() is None:
        return Choice("attention", GROUPED, f"torch {torch.__version__} has no varlen attention")
    return Choice("attention", VARLEN, "one flash kernel for all lengths")


@lru_cache(maxsize=1)
def varlen_function():
    """torch's `varlen_attn`, with split-KV off where that can be said (then it is batch invariant),
    or None.
    """
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    fixed = {"num_splits": 1} if "num_splits" in inspect.signature(varlen_attn).parameters else {}
    return lambda *args, **kwargs: varlen_attn(*args, **fixed, **kwargs)


def varlen_attention(
    query, key, value, cu_seqlens: torch.Tensor, max_length: int, scale: float
) -> torch.Tensor:
    """Softmax attention within each sequence of `cu_seqlens` (int32, ends padded with T)."""
    return varlen_function()(
        query, key, value, cu_seqlens, cu_seqlens, max_length, max_length, scale=scale
    )


def grouped_attention(
    query,
    key,
    value,
    groups: tuple[LengthGroup, ...],
    scale: float,
    biases: Sequence[torch.Tensor | None] | None = None,
) -> torch.Tensor:
    """Softmax attention within each sequence of `groups`, with a bias [1, H, L, L] a group if
    given; the tail is zero.

    Sequences of a group are neighbours, so a group is a view, and the loop costs one kernel a
    distinct length.
    """
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        return _bf16_attention(query * scale, key, value, groups, biases)
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    out[groups[-1].start + groups[-1].sequences * groups[-1].length :] = 0
    with _kernels(query.device), _Threads(query.device) as threads:
        for (start, count, length), bias in zip(
            groups, biases or [None] * len(groups), strict=True
        ):
            threads.limit(length)
            rows = slice(start, start + count * length)
            q, k, v = (
                x[rows].unflatten(0, (count, length)).transpose(1, 2) for x in (query, key, value)
            )
            mixed = scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
            out[rows].unflatten(0, (count, length)).copy_(mixed.transpose(1, 2))
    return out


def _bf16_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    groups: tuple[LengthGroup, ...],
    biases: Sequence[torch.Tensor | None] | None,
) -> torch.Tensor:
    """`grouped_attention` in bf16 on a CPU, of a query that is scaled already.

    torch's fused kernel is no faster in bf16 than in fp32 (2.13); two products and a softmax take
    half its time. A product of a sequence has the same bits whatever the number of sequences.
    """
    heads = query.shape[1]
    out = torch.zeros_like(query)
    for (start, count, length), bias in zip(groups, biases or [None] * len(groups), strict=True):
        # so many sequences at a time that their scores stay in the cache
        some = max(1, CACHED_SCORES // (heads * length * length))
        for first in range(0, count, some):
            rows = slice(start + first * length, start + min(first + some, count) * length)
            q, k, v = (  # [sequences * H, L, D]
                x[rows].unflatten(0, (-1, length)).transpose(1, 2).flatten(0, 1)
                for x in (query, key, value)
            )
            scores = torch.bmm(q, k.transpose(1, 2)).unflatten(0, (-1, heads))
            if bias is not None:
                scores.add_(bias)
            shares = scores.softmax(-1, dtype=torch.float32).to(q.dtype).flatten(0, 1)
            mixed = torch.bmm(shares, v).unflatten(0, (-1, heads))
            out[rows].unflatten(0, (-1, length)).copy_(mixed.transpose(1, 2))
    return out


def alibi_biases(
    slopes: torch.Tensor, groups: tuple[LengthGroup, ...], dtype: torch.dtype
) -> list[torch.Tensor]:
    """ALiBi for each group, once a batch: [1, H, L, L] of -slope * |i - j| for slopes fp32 [H],
    rounded once to `dtype`.
    """
    if not groups:
        return []
    positions = torch.arange(groups[-1].length, device=slopes.device)  # groups ascend by length
    longest = (-slopes[:, None, None] * (positions[None] - positions[:, None]).abs()).to(dtype)
    # contiguous: the fused kernel wants aligned rows, and its result may not depend on the batch's
    # longest sequence
    return [longest[None, :, :length, :length].contiguous() for _, _, length in groups]


def register_attention() -> None:
    """Make both back ends known to transformers under the names in REGISTERED."""
    from transformers import AttentionInterface

    AttentionInterface.register(REGISTERED[VARLEN], _varlen_for_transformers)
    AttentionInterface.register(REGISTERED[GROUPED], _grouped_for_transformers)


def _varlen_for_transformers(
    _module, query, key, value, _mask, scaling, cu_seq_lens, max_length, **_
):
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [1, H, T, D] -> [T, H, D]
    return varlen_attention(q, k, v, cu_seq_lens, max_length, scaling)[None], None


def _grouped_for_transformers(_module, query, key, value, _mask, scaling, groups, **_):
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    return grouped_attention(q, k, v, groups, scaling)[None], None


def _kernels(device: torch.device):
    # The library's batched products choose an algorithm by batch size; the fused kernel works a
    # sequence at a time.
    if device.type == "cuda":
        return sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH], set_priority=True)
    return nullcontext()


class _Threads:
    """One CPU thread for sequences under 32 tokens, all threads for the others.

    torch's CPU kernel gives each thread a scratch buffer of a size that is a multiple of 64 bytes
    from 32 queries on; below, the buffers' alignment differs by thread, and with it the last bits
    of the product: a short sequence would depend on the thread it falls to, so on its neighbours.
    (These products are about a hundredth of the work.)
    """

    SHORT = 32

    def __init__(self, device: torch.device):
        self._all = torch.get_num_threads() if device.type == "cpu" else 1
        self._now = self._all

    def __enter__(self) -> _Threads:
        return self

    def limit(self, length: int) -> None:
        wanted = 1 if length < self.SHORT else self._all
        if wanted != self._now:
            torch.set_num_threads(wanted)
            self._now = wanted

    def __exit__(self, *_) -> None:
        self.limit(self.SHORT)
