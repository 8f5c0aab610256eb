"""Whether the fast kernels compute on this very device what the plain path does: seen once at load,
before anything depends on it.

A driver, a compiler or a card that nobody has tried may make them fail or, worse, be wrong. Knows
packed batches and forwards; does not know an architecture.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from virnucpro.errors import ModelError, one_line
from virnucpro.models.choices import PLAIN
from virnucpro.models.packing import PackedBatch, pack, pool
from virnucpro.settings import Choice

log = logging.getLogger(__name__)

Forward = Callable[[PackedBatch], torch.Tensor]

# tokens: every way in which attention treats a sequence
LENGTHS = (3, 3, 17, 40, 64, 65, 100, 128, 168, 190, 250, 400, 600)
TOKENS = 4096
# random weights of the 3B shape: 0.9999 and over, int8 0.9994
LEAST_COSINE = {"bf16": 0.999, "fp16": 0.999, "int8": 0.99}


class FastPathError(Exception):
    """The fast kernels raised an error, or gave another result."""


def checked(
    plain: Forward,
    make_fast: Callable[[], Forward],
    pad_id: int,
    device: torch.device,
    skip: int,
    least_cosine: float,
) -> Forward:
    """The forward of `make_fast()`, after it agreed with `plain` on a batch of many lengths. Raises
    FastPathError.

    `plain` runs first: the fast path takes the model's layers over. `skip`: special tokens at each
    end, see `pool`.
    """
    batch = witness(pad_id).to(device)
    with torch.no_grad():
        expected = pool(plain(batch), batch, skip).float().cpu()
        try:
            fast = make_fast()
            found = pool(fast(batch), batch, skip).float().cpu()
        except torch.OutOfMemoryError:  # not the kernels' fault, and the plain path needs more
            raise
        except Exception as error:  # triton and CUDA raise errors of many kinds
            raise FastPathError(f"{type(error).__name__}: {one_line(str(error))[:160]}") from error
    worst = float(torch.nan_to_num(torch.cosine_similarity(expected, found), nan=-1.0).min())
    if worst < least_cosine:
        raise FastPathError(
            f"their vectors agree with the plain path's to a cosine of {worst:.4f} only"
        )
    return fast


def witness(pad_id: int) -> PackedBatch:
    """Random tokens, the same ones every time; ids of amino acids, which every vocabulary of ours
    has.
    """
    random = np.random.default_rng(1)
    return pack([random.integers(5, 24, length) for length in LENGTHS], TOKENS, pad_id)


def plain_instead(
    failure: str, name: str, precision: str, compile: str, load_plain: Callable[[], Any]
) -> Any:
    """The plain encoder, its choice saying why.

    Raises ModelError where the fast kernels were asked for.
    """
    if precision == "int8" or compile == "on":
        raise ModelError(
            f"{name}: the fast kernels do not work on this device ({failure}); leave out --compile"
            " on and --precision int8"
        )
    log.warning(
        "%s: the fast kernels do not work on this device (%s); the plain layers take their place",
        name,
        failure,
    )
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    encoder = load_plain()
    others = [choice for choice in encoder.choices if choice.name != name]
    encoder.choices = (
        Choice(name, PLAIN, f"the fast kernels failed their check here: {failure}"),
        *others,
    )
    return encoder
