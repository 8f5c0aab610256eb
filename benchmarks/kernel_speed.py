"""Which kernels and which tiles: the measurements behind docs/PERFORMANCE.md, on one NVIDIA GPU.

    PYTHONPATH=. python3 benchmarks/kernel_speed.py [--only SECTION ...] [--out kernels.json]

Random inputs, device events, medians. Single operations are timed on a cool card; whole stacks in
turns with the bf16 8192^3 product, both long enough to reach the same power limit, since a card
that has warmed up runs both slower. Kernels are compiled by a pool of processes first, into
Triton's shared cache.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context

import numpy as np
import torch

from virnucpro.models.choices import FUSED, INT8
from virnucpro.models.dnabert_s import DnabertEncoder, alibi_slopes
from virnucpro.models.esm2 import Esm2Encoder, fast_forward
from virnucpro.models.esm2_model import to_stock
from virnucpro.models.fast import esm2 as fused
from virnucpro.models.fast import esm2_int8 as int8
from virnucpro.models.fast import kernels
from virnucpro.models.fast.dnabert_s import FusedDnabert
from virnucpro.models.fast.layer_weights import rope_tables
from virnucpro.models.packing import pack, pool
from virnucpro.tools.random_models import random_dnabert_s, random_esm2

DEVICE = "cuda"
H, F, HEADS, D = 2560, 10240, 40, 64
PRODUCTS = {"qkv": (3 * H, H), "out": (H, H), "up": (F, H), "down": (H, F)}  # N, K
LAYER_FLOPS = 2 * H * (3 * H + H + 2 * F)  # a token
RESULTS: dict[str, dict] = {}
START = time.time()


def median_ms(function, repeats: int = 15, warmup: int = 3) -> float:
    """Median milliseconds of a call on the GPU."""
    for _ in range(warmup):
        function()
    pairs = [
        (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        for _ in range(repeats)
    ]
    for begin, end in pairs:
        begin.record()
        function()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in pairs)


@cache
def square() -> tuple[torch.Tensor, torch.Tensor]:
    """The two matrices of the ceiling."""
    return rand(8192, 8192), rand(8192, 8192)


def ceiling_ms(repeats: int) -> float:
    """Milliseconds of a product of large matrices."""
    a, b = square()
    return median_ms(lambda: a @ b, repeats)


def in_turns(functions: dict, milliseconds: float = 250.0, rounds: int = 4) -> dict[str, float]:
    """Median ms of each function and of the ceiling ("product"), run in turns, the first round left
    out.
    """
    repeats = {
        name: max(2, int(milliseconds / median_ms(f, 3, 1))) for name, f in functions.items()
    }
    times: dict[str, list[float]] = {name: [] for name in ("product", *functions)}
    for _ in range(rounds):
        for name, function in functions.items():
            times["product"].append(ceiling_ms(int(milliseconds / 1.5)))
            times[name].append(median_ms(function, repeats[name], 1))
    return {
        name: statistics.median(values[len(values) // rounds :]) for name, values in times.items()
    }


def report(
    section: str,
    name: str,
    milliseconds: float,
    flops: float = 0.0,
    moved: float = 0.0,
    product_ms: float | None = None,
    **more,
) -> None:
    """Print a result and keep it; with `flops` also as a share of the ceiling."""
    entry = {"ms": milliseconds, **more}
    text = f"{section:9s} {name:44s} {milliseconds:9.4f} ms"
    if flops:
        ceiling = 2 * 8192**3 / (product_ms or RESULTS["ceiling"]["product 8192"]["ms"])
        entry |= {"tflops": flops / milliseconds / 1e9, "share": flops / milliseconds / ceiling}
        text += f" {entry['tflops']:7.1f} TFLOP/s {100 * entry['share']:6.1f} %"
    if moved:
        entry["tb_s"] = moved / milliseconds / 1e9
        text += f" {entry['tb_s']:5.2f} TB/s"
    RESULTS.setdefault(section, {})[name] = entry
    print(
        text,
        *(f"{key}={value}" for key, value in more.items()),
        f"[{time.time() - START:.0f} s]",
        flush=True,
    )


def guarded(function, *args):
    """What the function returns; a failure is printed."""
    try:
        return function(*args)
    except Exception:
        print("FAILED", args, traceback.format_exc(limit=2)[-500:], flush=True)


# ----------------------------------------------------------------------------------------------
# single operations
TILES_16 = {
    "128x256x64 s4 flat": {
        "block": (128, 256, 64),
        "flatten": True,
        "persistent": 1,
        "num_stages": 4,
    },
    "128x256x64 s3 flat": {
        "block": (128, 256, 64),
        "flatten": True,
        "persistent": 1,
        "num_stages": 3,
    },
    "128x256x64 s4": {"block": (128, 256, 64), "flatten": False, "persistent": 0, "num_stages": 4},
    "128x256x64 s4 flat g16": {
        "block": (128, 256, 64),
        "flatten": True,
        "persistent": 1,
        "num_stages": 4,
        "group": 16,
    },
    "256x128x64 s4 flat": {
        "block": (256, 128, 64),
        "flatten": True,
        "persistent": 1,
        "num_stages": 4,
    },
}
TILES_8 = {
    "128x128x128 s3": {
        "block": (128, 128, 128),
        "flatten": False,
        "persistent": 0,
        "num_stages": 3,
        "num_warps": 4,
    },
    "128x128x128 s3 g16": {
        "block": (128, 128, 128),
        "flatten": False,
        "persistent": 0,
        "num_stages": 3,
        "num_warps": 4,
        "group": 16,
    },
    "128x128x128 s3 flat": {
        "block": (128, 128, 128),
        "flatten": True,
        "persistent": 2,
        "num_stages": 3,
        "num_warps": 4,
    },
    "128x128x64 s5": {
        "block": (128, 128, 64),
        "flatten": False,
        "persistent": 0,
        "num_stages": 5,
        "num_warps": 4,
    },
    "128x256x128 s3 flat": {
        "block": (128, 256, 128),
        "flatten": True,
        "persistent": 1,
        "num_stages": 3,
    },
    "256x128x128 s4 flat": {
        "block": (256, 128, 128),
        "flatten": True,
        "persistent": 1,
        "num_stages": 4,
    },
}


def rand(*shape, dtype=torch.bfloat16):
    """Random numbers on the device."""
    return torch.randn(*shape, device=DEVICE, dtype=dtype)


def product_operations(tokens: int) -> dict[str, tuple]:
    """name -> (function, flops, bytes)."""
    found: dict[str, tuple] = {}
    for name, (n, k) in PRODUCTS.items():
        a, b, bias, residual, out = (
            rand(tokens, k),
            rand(n, k),
            rand(n),
            rand(tokens, n),
            rand(tokens, n),
        )
        scales = torch.rand(tokens, device=DEVICE), torch.rand(n, device=DEVICE)
        a8, b8 = (
            torch.randint(-127, 128, x.shape, device=DEVICE, dtype=torch.int8) for x in (a, b)
        )
        extra = {
            "bias": bias if name in ("qkv", "up") else None,
            "gelu": name == "up",
            "residual": residual if name in ("out", "down") else None,
        }
        flops = 2 * tokens * n * k
        for tile, options in TILES_16.items():
            found[f"16 bit {name} {tile}"] = (
                lambda a=a, b=b, out=out, e=extra, o=options: kernels.product(a, b, out, **e, **o),
                flops,
                0,
            )
        for tile, options in TILES_8.items():
            found[f"int8 {name} {tile}"] = (
                lambda a=a8, b=b8, out=out, s=scales, e=extra, o=options: kernels.product(
                    a, b, out, scales=s, **e, **o
                ),
                flops,
                0,
            )
    return found


def other_operations(tokens: int) -> dict[str, tuple]:
    """Everything between the products; attention by both kernels where both can serve."""
    found: dict[str, tuple] = {}
    qkv, out = rand(tokens, 3 * H), rand(tokens, H)
    rope = rope_tables(torch.rand(D // 2, device=DEVICE), 1024)
    for length in (168, 100, 50, 500):
        spans = kernels.spans((length,) * (tokens // length), DEVICE)
        for name, table in {"": spans, " streaming": ((0, spans[0][1]),)}.items():
            found[f"attention {length}{name}"] = (
                lambda table=table: kernels.attention(
                    qkv, out, table, HEADS, bias=qkv[0], rope=rope
                ),
                4 * tokens * length * H,
                8 * tokens * H,
            )
    x, weight, shift, wide, bias = (
        rand(tokens, H),
        rand(H),
        torch.randn(H, device=DEVICE),
        rand(tokens, F),
        rand(F),
    )
    x8, wide8 = (torch.empty(y.shape, device=DEVICE, dtype=torch.int8) for y in (x, wide))
    scale = torch.empty(tokens, device=DEVICE)
    for warps in (4, 8):
        found[f"layer norm w{warps}"] = (
            lambda w=warps: kernels.layer_norm(
                x, weight, weight, 1e-5, out, shift=shift, num_warps=w
            ),
            0,
            4 * tokens * H,
        )
        found[f"layer norm to int8 w{warps}"] = (
            lambda w=warps: kernels.layer_norm(
                x, weight, weight, 1e-5, x8, shift=shift, scale=scale, num_warps=w
            ),
            0,
            3 * tokens * H,
        )
        found[f"quantize 10240 w{warps}"] = (
            lambda w=warps: kernels.quantize_rows(wide, wide8, scale, w),
            0,
            3 * tokens * F,
        )
    found["quantize 2560"] = (lambda: kernels.quantize_rows(x, x8, scale), 0, 3 * tokens * H)
    found["gelu"] = (lambda: kernels.gelu_(wide, bias), 0, 4 * tokens * F)
    return found


def compile_share(share: int, shares: int, sections: tuple[str, ...]) -> list[str]:
    """One process's share of the kernels, run once on few tokens so that Triton's cache
    holds them.
    """
    failed = []
    wanted: dict[str, tuple] = {}
    if "products" in sections:
        wanted |= product_operations(512)
    if "others" in sections:
        wanted |= other_operations(512)
    for i, (name, (function, _, _)) in enumerate(wanted.items()):
        if i % shares == share:
            try:
                function()
                torch.cuda.synchronize()
            except Exception as error:
                failed.append(f"{name}: {str(error)[:120]}")
    return failed


def library_products(tokens: int) -> None:
    """The library's products, as a comparison."""
    for name, (n, k) in PRODUCTS.items():
        a, b, out, bias = rand(tokens, k), rand(n, k).t(), rand(tokens, n), rand(n)
        ways = {"": partial(torch.mm, a, b, out=out)}
        if name in ("qkv", "up"):
            ways[" + bias"] = partial(torch.addmm, bias, a, b, out=out)
        else:
            ways[" onto residual"] = partial(out.addmm_, a, b)
        for way, function in ways.items():
            report(f"T={tokens}", f"library {name}{way}", median_ms(function), 2 * tokens * n * k)


def products() -> None:
    """The library's products and ours."""
    library_products(16384)
    time_all(product_operations(16384), 16384)


def time_all(operations: dict, tokens: int) -> None:
    """Measure operations and report them."""
    for name, (function, flops, moved) in operations.items():
        guarded(
            lambda n=name, f=function, a=flops, m=moved: report(
                f"T={tokens}", n, median_ms(f), a, m
            )
        )


# ----------------------------------------------------------------------------------------------
# layers and models
def with_biases(model, seed: int = 1):
    """Random biases and norms too: what is zero or one hides a wrong order."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter += (
                torch.randn(parameter.shape, generator=generator, device=DEVICE)
                .mul_(0.02)
                .to(parameter.dtype)
            )
    return model


def esm2(dtype: torch.dtype, layers: int = 36):
    """The 3B-shaped ESM-2 with random weights, or its first layers."""
    model = with_biases(random_esm2("3B", DEVICE, torch.float32))
    model.encoder.layer = model.encoder.layer[:layers]
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    torch.cuda.empty_cache()
    return model


def batch_of(tokens: int, lengths, seed: int = 0):
    """Random sequences of these lengths in one batch."""
    ids = np.random.default_rng(seed)
    return pack([ids.integers(4, 24, length) for length in lengths], tokens, 1).to(DEVICE)


def mixed_lengths(tokens: int, shortest: int, longest: int) -> list[int]:
    """Random lengths that fill `tokens`."""
    generator = random.Random(1)
    lengths: list[int] = []
    while sum(lengths) + longest <= tokens:
        lengths.append(generator.randint(shortest, longest))
    return lengths


def stack_flops(tokens: int, lengths, layers: int) -> float:
    """Of `layers` layers."""
    return layers * (tokens * LAYER_FLOPS + 4 * H * sum(n * n for n in lengths))


def stacks(layers: int = 6) -> None:
    """The ways of running some layers, in turns with the ceiling."""
    make = {
        "bf16": lambda: fused.FusedEsm2(esm2(torch.bfloat16, layers), 1024),
        "fp16": lambda: fused.FusedEsm2(esm2(torch.float16, layers), 1024),
        "int8": lambda: int8.Int8Esm2(esm2(torch.bfloat16, layers), 1024),
        "bf16, library only": lambda: fused.FusedEsm2(esm2(torch.bfloat16, layers), 1024),
    }
    made = {name: function() for name, function in make.items()}
    made["bf16, library only"].hopper = False
    ways: dict[str, Callable] = dict(made)
    stock_model = to_stock(esm2(torch.bfloat16, layers))
    stock = Esm2Encoder(stock_model, torch.device(DEVICE), "bf16", "off")
    for layer in stock_model.encoder.layer:
        layer.compile(fullgraph=True, dynamic=False)
    ways["stock compiled"] = stock.hidden
    for tokens, lengths in (
        (16384, [168] * 97),
        (16896, [168] * 100),
        (16896, mixed_lengths(16896, 40, 168)),
        (33792, [168] * 201),
    ):
        batch, kind = batch_of(tokens, lengths), "mix" if len(set(lengths)) > 1 else "168"
        chosen = [name for name in ways if tokens == 16896 or name in ("bf16", "int8")]
        times = guarded(in_turns, {name: partial(ways[name], batch) for name in chosen}) or {}
        for name in chosen:
            if name in times:
                report(
                    "layers",
                    f"{layers} layers, T={tokens} {kind}, {name}",
                    times[name],
                    stack_flops(tokens, lengths, layers),
                    product_ms=times["product"],
                    product_tflops=round(2 * 8192**3 / times["product"] / 1e9, 1),
                )


def precisions() -> None:
    """Products of 8192 by the library in bf16 and in fp16, in turns; and in fp16 of numbers that
    bf16 has too, whose last bits are zero.
    """
    pairs = {
        "fp16": [x.half() for x in (torch.randn(8192, 8192, device=DEVICE) for _ in range(2))],
        "fp16, numbers of bf16": [x.half() for x in square()],
    }
    times = in_turns({name: partial(torch.matmul, *pair) for name, pair in pairs.items()})
    for name, milliseconds in times.items():
        report(
            "precision",
            "bf16" if name == "product" else name,
            milliseconds,
            2 * 8192**3,
            product_ms=times["product"],
        )


def cosine(mine, truth) -> float:
    """The lowest cosine of a row."""
    return round(
        torch.nn.functional.cosine_similarity(mine.double(), truth.double()).min().item(), 7
    )


def agreement() -> None:
    """All 36 layers: pooled vectors against fp32, bits beside other neighbours, memory."""
    few = batch_of(
        4096,
        [168, 160, 150, 140, 120, 100, 80, 60, 40, 30, 22, 300, 512, 1000, 168, 166, 90, 75, 33],
    )
    truth = Esm2Encoder(esm2(torch.float32), torch.device(DEVICE), "fp32", "off").embed(few)
    torch.cuda.empty_cache()
    for name, dtype, kind in (
        ("fp16", torch.float16, FUSED),
        ("bf16", torch.bfloat16, FUSED),
        ("int8", torch.bfloat16, INT8),
        ("int8 on fp16", torch.float16, INT8),
    ):
        forward = fast_forward(esm2(dtype), kind)
        worst = cosine(pool(forward(few), few, 1), truth)
        torch.cuda.reset_peak_memory_stats()
        moved = neighbours(forward, 16896)
        peak = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        print(
            f"agreement {name:14s} worst pooled cosine {worst}, neighbours: {moved}, {peak} GiB at"
            " T=16896",
            flush=True,
        )
        RESULTS.setdefault("agreement", {})[name] = {
            "cosine": worst,
            "neighbours": moved,
            "gib": peak,
        }
        del forward
        torch.cuda.empty_cache()


def short(each: int = 32) -> None:
    """From how many tokens on 8 bits are enough: the worst of `each` proteins of a length, 36
    layers, beside 16 bits.
    """
    lengths = (3, 4, 6, 10, 16, 22, 28, 32, 40, 48, 64, 96, 168)
    batch = batch_of(16896, [length for length in lengths for _ in range(each)])
    truth = Esm2Encoder(esm2(torch.float32), torch.device(DEVICE), "fp32", "off").embed(batch)
    torch.cuda.empty_cache()
    forward = int8.Int8Esm2(esm2(torch.bfloat16), 1024)
    found = {
        name: pool(way(batch), batch, 1)
        for name, way in (("int8", forward), ("16 bits", forward.in_16_bits))
    }
    for number, length in enumerate(lengths):
        mine = slice(number * each, (number + 1) * each)
        worst = {name: cosine(rows[mine], truth[mine]) for name, rows in found.items()}
        print(f"short {length:4d} tokens, worst pooled cosine of {each}: {worst}", flush=True)
        RESULTS.setdefault("short", {})[length] = worst


def neighbours(forward, tokens: int) -> str:
    """Whether sequences keep their bits beside other neighbours and at other places."""
    ids = np.random.default_rng(5)
    sequences = [ids.integers(4, 24, ids.integers(20, 300)) for _ in range(90)]
    one, two = (
        pack(sequences[:60], tokens, 1).to(DEVICE),
        pack(sequences[30:], tokens, 1).to(DEVICE),
    )
    a, b = (pool(forward(batch), batch, 1) for batch in (one, two))
    moved = (a[30:] != b[:30]).any(1).sum().item()
    return "equal" if not moved else f"{moved} of 30 moved"


def dnabert(tokens: int = 16384) -> None:
    """DNABERT-S by both ways."""
    lengths = mixed_lengths(tokens, 85, 120)
    batch = batch_of(tokens, lengths)
    truth = DnabertEncoder(
        random_dnabert_s("3B", DEVICE, torch.float32), torch.device(DEVICE), "fp32"
    ).embed(batch)
    forward = FusedDnabert(
        random_dnabert_s("3B", DEVICE, torch.bfloat16),
        torch.tensor(alibi_slopes(12), device=DEVICE),
    )
    worst = cosine(pool(forward(batch), batch, 0), truth)
    milliseconds = median_ms(partial(forward, batch), 9)
    report(
        "dnabert_s",
        "fused",
        milliseconds,
        frames_s=round(len(lengths) / milliseconds * 1e3),
        cosine=worst,
    )


def main() -> None:
    """Compile all kernels, then measure the chosen sections."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only",
        nargs="+",
        default=["products", "others", "stacks", "precisions", "agreement", "short", "dnabert"],
    )
    parser.add_argument("--out", default=None)
    parser.add_argument("--compilers", type=int, default=14)
    arguments = parser.parse_args()
    print(torch.cuda.get_device_name(), torch.__version__, flush=True)
    with ProcessPoolExecutor(arguments.compilers, mp_context=get_context("spawn")) as executor:
        shares = [
            executor.submit(compile_share, i, arguments.compilers, tuple(arguments.only))
            for i in range(arguments.compilers)
        ]
        for line in sorted(line for share in shares for line in share.result()):
            print("NOT COMPILED", line, flush=True)
    print(f"compiled [{time.time() - START:.0f} s]", flush=True)
    report("ceiling", "product 8192", ceiling_ms(30))
    report(
        "ceiling",
        "copy",
        median_ms(partial(torch.Tensor.copy_, rand(2**30), rand(2**30))),
        0,
        4 * 2**30,
    )
    steps = {
        "products": products,
        "others": lambda: time_all(other_operations(16384), 16384),
        "stacks": stacks,
        "precisions": precisions,
        "agreement": agreement,
        "short": short,
        "dnabert": dnabert,
    }
    for name in arguments.only:
        with torch.inference_mode():
            guarded(steps[name])
        torch.cuda.empty_cache()
        if arguments.out:
            with open(arguments.out, "w") as file:
                json.dump(RESULTS, file, indent=1)


if __name__ == "__main__":
    main()
