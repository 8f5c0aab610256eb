"""A matrix product that ends in what follows it: scales, bias, GELU, the sum with the residual."""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl

from virnucpro.models.fast.kernels.rows import gelu


@triton.jit
def _epilogue(
    acc,
    row,
    column,
    row_scale,
    column_scale,
    bias,
    residual,
    m,
    n,
    BIAS: tl.constexpr,
    GELU: tl.constexpr,
    RESIDUAL: tl.constexpr,
    INT8: tl.constexpr,
):
    y = acc.to(tl.float32)
    inside = column < n
    if INT8:
        y *= tl.load(row_scale + row, mask=row < m, other=0.0)[:, None]
        y *= tl.load(column_scale + column, mask=inside, other=0.0)[None, :]
    if BIAS:
        y += tl.load(bias + column, mask=inside, other=0.0)[None, :].to(tl.float32)
    if GELU:
        y = gelu(y)
    if RESIDUAL:
        at = row.to(tl.int64)[:, None] * n + column[None, :]
        y += tl.load(residual + at, mask=(row < m)[:, None] & inside[None, :], other=0.0).to(
            tl.float32
        )
    return y


@triton.jit
def _product_kernel(
    a_desc,
    b_desc,
    out_desc,
    row_scale,
    column_scale,
    bias,
    residual,
    m,
    n,
    K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    SUBTILE: tl.constexpr,
    BIAS: tl.constexpr,
    GELU: tl.constexpr,
    RESIDUAL: tl.constexpr,
    INT8: tl.constexpr,
    FLATTEN: tl.constexpr,
):
    tiles_m = tl.cdiv(m, BLOCK_M)
    tiles_n = tl.cdiv(n, BLOCK_N)
    in_group = GROUP * tiles_n
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=FLATTEN):
        first = (tile // in_group) * GROUP
        size = tl.minimum(tiles_m - first, GROUP)
        begin_m = (first + (tile % in_group) % size) * BLOCK_M
        begin_n = ((tile % in_group) // size) * BLOCK_N
        acc = tl.zeros([BLOCK_M, BLOCK_N], tl.int32 if INT8 else tl.float32)
        for k in range(0, K, BLOCK_K):
            a = a_desc.load([begin_m, k])
            b = b_desc.load([begin_n, k])
            acc = tl.dot(a, b.T, acc, out_dtype=tl.int32 if INT8 else tl.float32)
        row = begin_m + tl.arange(0, BLOCK_M)
        if SUBTILE:
            NARROW: tl.constexpr = BLOCK_N // 2
            left, right = acc.reshape(BLOCK_M, 2, NARROW).permute(0, 2, 1).split()
            for part in tl.static_range(2):
                y = _epilogue(
                    left if part == 0 else right,
                    row,
                    begin_n + part * NARROW + tl.arange(0, NARROW),
                    row_scale,
                    column_scale,
                    bias,
                    residual,
                    m,
                    n,
                    BIAS,
                    GELU,
                    RESIDUAL,
                    INT8,
                )
                out_desc.store([begin_m, begin_n + part * NARROW], y.to(out_desc.dtype))
        else:
            y = _epilogue(
                acc,
                row,
                begin_n + tl.arange(0, BLOCK_N),
                row_scale,
                column_scale,
                bias,
                residual,
                m,
                n,
                BIAS,
                GELU,
                RESIDUAL,
                INT8,
            )
            out_desc.store([begin_m, begin_n], y.to(out_desc.dtype))


@lru_cache
def multiprocessors(device: torch.device) -> int:
    """Of the device; 1 where it is no GPU."""
    return (
        torch.cuda.get_device_properties(device).multi_processor_count
        if device.type == "cuda"
        else 1
    )


def product(
    a,
    b,
    out,
    *,
    bias=None,
    scales=None,
    gelu: bool = False,
    residual=None,
    block: tuple[int, int, int] = (128, 256, 128),
    group: int = 8,
    subtile: bool = True,
    flatten: bool = True,
    persistent: int = 1,
    num_warps: int = 8,
    num_stages: int = 4,
):
    """out <- epilogue(a @ b.T): + bias, then gelu, then + residual, in fp32; a [M, K], b [N, K],
    out [M, N].

    int8 operands are scaled first: scales = (fp32 [M], fp32 [N]). `persistent` programs a
    multiprocessor walk the tiles; 0 starts one program a tile. Rows of a, b and out are multiples
    of 16 bytes; needs a GPU with tensor memory access (sm90).
    """
    from triton.tools.tensor_descriptor import TensorDescriptor

    (m, k), n = a.shape, b.shape[0]
    block_m, block_n, block_k = block
    tiles = triton.cdiv(m, block_m) * triton.cdiv(n, block_n)
    grid = min(tiles, persistent * multiprocessors(a.device)) if persistent else tiles
    row_scale, column_scale = scales if scales is not None else (None, None)
    _product_kernel[(grid,)](
        TensorDescriptor.from_tensor(a, [block_m, block_k]),
        TensorDescriptor.from_tensor(b, [block_n, block_k]),
        TensorDescriptor.from_tensor(out, [block_m, block_n // 2 if subtile else block_n]),
        row_scale,
        column_scale,
        bias,
        residual,
        m,
        n,
        k,
        block_m,
        block_n,
        block_k,
        group,
        subtile,
        bias is not None,
        gelu,
        residual is not None,
        scales is not None,
        flatten,
        num_warps=num_warps,
        num_stages=num_stages,
    )
    return out
