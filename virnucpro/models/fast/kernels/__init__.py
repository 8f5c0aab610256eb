"""Triton kernels of the fast path, and the thin functions that launch them.

Each kernel computes a row (or a sequence) from that row (or sequence) alone, in a fixed order and
without atomics, and with tiles fixed in this code, so a result depends neither on what else is in
the batch nor on the process. They know tensors and shapes, not models. Shapes: T tokens of a packed
batch, H hidden width, D width of a head, S sequences.
"""

from virnucpro.models.fast.kernels.attention import attention, spans
from virnucpro.models.fast.kernels.products import product
from virnucpro.models.fast.kernels.rows import gated_gelu, gelu_, layer_norm, quantize_rows

__all__ = ["attention", "gated_gelu", "gelu_", "layer_norm", "product", "quantize_rows", "spans"]
