"""Which kernels and which tiles: the measurements behind docs/PERFORMANCE.md, on one NVIDIA GPU.

    PYTHONPATH=. python3 benchmarks/kernels.py [--out kernels.json]

Random inputs, device events, medians. Every rate is also given as a share of the bf16 8192^3 product of the same run.
Kernels are compiled by a pool of processes first, into Triton's shared cache.
"""
from __future__ import annotations

import argparse
import json
import statistics
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

from virnucpro.models import fused, int8, kernels
from virnucpro.models.shapes import random_dnabert_s, random_esm2

H, F, HEADS, D = 2560, 10240, 40, 64
DEVICE = "cuda"
LAYER_FLOPS = 2 * H * (3 * H + H + 2 * F)  # a token
RESULTS: dict[str, dict] = {}
START = time.time()


def median_ms(function, repeats: int = 15, warmup: int = 3) -> float:
    for _ in range(warmup):
        function()
    pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for begin, end in pairs:
        begin.record()
        function()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in pairs)


def report(section: str, name: str, milliseconds: float, flops: float = 0.0, moved: float = 0.0, **more) -> None:
    entry = {"ms": milliseconds, **more}
    text = f"{section:10s} {name:46s} {milliseconds:9.4f} ms"
    if flops:
        entry["tflops"] = flops / milliseconds / 1e9
        text += f" {entry['tflops']:8.1f} TFLOP/s"
        if "product 8192" in RESULTS.get("ceiling", {}):
            entry["share"] = entry["tflops"] / RESULTS["ceiling"]["product 8192"]["tflops"]
            text += f" {100 * entry['share']:6.1f} %"
    if moved:
        entry["tb_s"] = moved / milliseconds / 1e9
        text += f" {entry['tb_s']:6.2f} TB/s"
    RESULTS.setdefault(section, {})[name] = entry
    print(text, *(f"{key}={value}" for key, value in more.items()), f"[{time.time() - START:.0f} s]", flush=True)


def guarded(function, *args):
    try:
        return function(*args)
    except Exception:
        print("FAILED", getattr(function, "__name__", function), args, traceback.format_exc(limit=3)[-900:], flush=True)


# ---------------------------------------------------------------------------------------------- single operations
BF16_TILES = {
    "A 128x256x64 s4 flat": dict(block=(128, 256, 64), flatten=True, persistent=1, num_stages=4),
    "B 128x256x64 s4": dict(block=(128, 256, 64), flatten=False, persistent=0, num_stages=4),
    "C 256x128x64 s4 flat": dict(block=(256, 128, 64), flatten=True, persistent=1, num_stages=4),
    "D 128x128x64 s3 two": dict(block=(128, 128, 64), flatten=False, persistent=0, num_stages=3, num_warps=4),
    "E 128x256x64 s3 whole": dict(block=(128, 256, 64), flatten=True, persistent=1, num_stages=3, subtile=False),
}
INT8_TILES = {
    "A 128x256x128 s4 flat": dict(block=(128, 256, 128), flatten=True, persistent=1, num_stages=4),
    "B 128x256x128 s4": dict(block=(128, 256, 128), flatten=False, persistent=0, num_stages=4),
    "C 256x128x128 s4 flat": dict(block=(256, 128, 128), flatten=True, persistent=1, num_stages=4),
    "D 256x128x128 s4": dict(block=(256, 128, 128), flatten=False, persistent=0, num_stages=4),
    "E 128x128x128 s3 two": dict(block=(128, 128, 128), flatten=False, persistent=0, num_stages=3, num_warps=4),
    "F 128x256x128 s3 flat": dict(block=(128, 256, 128), flatten=True, persistent=1, num_stages=3),
    "G 128x256x64 s6": dict(block=(128, 256, 64), flatten=False, persistent=0, num_stages=6),
}
ATTENTION_TILES = [(64, 64, 4, 2), (64, 64, 4, 1), (64, 64, 4, 3), (64, 32, 4, 2), (64, 128, 4, 2), (128, 64, 8, 2),
                   (128, 64, 4, 2), (32, 64, 2, 2)]
PRODUCTS = {"qkv": (3 * H, H), "out": (H, H), "up": (F, H), "down": (H, F)}  # N, K


def triton_operations(tokens: int, dtype=torch.bfloat16) -> dict[str, tuple]:
    """name -> (function, flops, bytes) of everything that Triton must compile."""
    found = {}

    def rand(*shape):
        return torch.randn(*shape, device=DEVICE, dtype=dtype)

    for name, (n, k) in PRODUCTS.items():
        a, b, bias, residual = rand(tokens, k), rand(n, k), rand(n), rand(tokens, n)
        scales = torch.rand(tokens, device=DEVICE), torch.rand(n, device=DEVICE)
        a8 = torch.randint(-127, 128, (tokens, k), device=DEVICE, dtype=torch.int8)
        b8 = torch.randint(-127, 128, (n, k), device=DEVICE, dtype=torch.int8)
        out = torch.empty(tokens, n, device=DEVICE, dtype=dtype)
        extra = {"gelu": name == "up", "residual": residual if name in ("out", "down") else None}
        flops = 2 * tokens * n * k
        if name == "up":
            for tile, options in BF16_TILES.items():
                found[f"16 bit {name} {tile}"] = (
                    lambda a=a, b=b, bias=bias, out=out, o=options: kernels.product(a, b, bias, out, gelu=True, **o), flops, 0)
        for tile, options in INT8_TILES.items():
            found[f"int8 {name} {tile}"] = (
                lambda a=a8, b=b8, bias=bias, out=out, s=scales, e=extra, o=options:
                kernels.product(a, b, bias, out, scales=s, **e, **o), flops, 0)
    qkv, out = rand(tokens, 3 * H), rand(tokens, H)
    rope = fused.rope_tables(torch.rand(D // 2, device=DEVICE), 1024)
    for length in (168, 100):
        lengths = (length,) * (tokens // length)
        for m, n, warps, stages in ATTENTION_TILES:
            blocks = kernels.attention_blocks(lengths, m).to(DEVICE)
            found[f"attention {length} {m}x{n} w{warps} s{stages}"] = (
                lambda blocks=blocks, m=m, n=n, w=warps, s=stages: kernels.attention(
                    qkv, out, blocks, HEADS, bias=qkv[0], rope=rope, block_m=m, block_n=n, num_warps=w, num_stages=s),
                4 * tokens * length * H, 8 * tokens * H)
    x, weight, shift = rand(tokens, H), rand(H), torch.randn(H, device=DEVICE)
    x8, wide, wide8 = torch.empty_like(x, dtype=torch.int8), rand(tokens, F), torch.empty(tokens, F, device=DEVICE, dtype=torch.int8)
    scale = torch.empty(tokens, device=DEVICE)
    found["layer norm"] = (lambda: kernels.layer_norm(x, weight, weight, 1e-5, out, shift=shift), 0, 4 * tokens * H)
    found["layer norm to int8"] = (
        lambda: kernels.layer_norm(x, weight, weight, 1e-5, x8, shift=shift, scale=scale), 0, 3 * tokens * H)
    found["gelu"] = (lambda: kernels.gelu_(wide, wide[0].clone()), 0, 4 * tokens * F)
    found["quantize 2560"] = (lambda: kernels.quantize_rows(x, x8, scale), 0, 3 * tokens * H)
    found["quantize 10240"] = (lambda: kernels.quantize_rows(wide, wide8, scale), 0, 3 * tokens * F)
    return found


def compile_share(share: int, shares: int) -> list[str]:
    """One process's share of the kernels, run once on few tokens so that Triton's cache holds them."""
    failed = []
    for i, (name, (function, _, _)) in enumerate(triton_operations(512).items()):
        if i % shares == share:
            try:
                function()
                torch.cuda.synchronize()
            except Exception as error:
                failed.append(f"{name}: {str(error)[-200:]}")
    return failed


def library_operations(tokens: int) -> None:
    for name, (n, k) in PRODUCTS.items():
        a, b = torch.randn(tokens, k, device=DEVICE, dtype=torch.bfloat16), torch.randn(n, k, device=DEVICE, dtype=torch.bfloat16)
        out, bias = torch.randn(tokens, n, device=DEVICE, dtype=torch.bfloat16), b[:, 0].contiguous()
        flops = 2 * tokens * n * k
        section = f"T={tokens}"
        report(section, f"library {name}", median_ms(lambda: torch.mm(a, b.t(), out=out)), flops)
        report(section, f"library {name} + bias", median_ms(lambda: torch.addmm(bias, a, b.t(), out=out)), flops)
        if name in ("out", "down"):
            report(section, f"library {name} onto residual", median_ms(lambda: out.addmm_(a, b.t())), flops)
        if name == "up":
            report(section, f"library {name} + bias + tanh GELU",
                   median_ms(lambda: torch._addmm_activation(bias, a, b.t(), use_gelu=True)), flops)
            half, other, third = a.half(), b.half(), out.half()
            report(section, f"library {name} fp16", median_ms(lambda: torch.mm(half, other.t(), out=third)), flops)
            gelu_chunks(a, b, bias, out, section, flops)


def gelu_chunks(a, b, bias, out, section, flops) -> None:
    """Product and GELU by row chunks, so that the second may find the first's result in L2."""
    for rows in (2048, 4224, a.shape[0]):
        def run(rows=rows):
            for begin in range(0, a.shape[0], rows):
                part = out[begin:begin + rows]
                torch.mm(a[begin:begin + rows], b.t(), out=part)
                kernels.gelu_(part, bias)
        guarded(lambda rows=rows, run=run: report(section, f"library up, then gelu, {rows} rows", median_ms(run), flops))


def single_operations(tokens: int, keep=None) -> None:
    for name, (function, flops, moved) in triton_operations(tokens).items():
        if keep is None or keep(name):
            guarded(lambda n=name, f=function, a=flops, m=moved: report(f"T={tokens}", n, median_ms(f), a, m))
    torch.cuda.empty_cache()


def varlen_alone(tokens: int, length: int = 168) -> None:
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (torch.randn(tokens, HEADS, D, device=DEVICE, dtype=torch.bfloat16) for _ in range(3))
    count = tokens // length
    bounds = torch.arange(count + 1, device=DEVICE, dtype=torch.int32) * length
    report(f"T={tokens}", f"library varlen attention {length}", median_ms(
        lambda: varlen_attn(q, k, v, bounds, bounds, length, length)), 4 * tokens * length * H, 8 * tokens * H)


# ---------------------------------------------------------------------------------------------- layers and models
def make(kind, model):
    layer = model.encoder.layer
    norm = model.encoder.emb_layer_norm_after
    return kind(layer, model.config.num_attention_heads, model.rotary_embeddings.inv_freq, (norm.weight, norm.bias),
                model.config.layer_norm_eps)


def batch_of(tokens: int, lengths, seed: int = 0):
    import numpy as np

    from virnucpro.models.packing import pack

    random = np.random.default_rng(seed)
    sequences = []
    for length in lengths:
        ids = random.integers(4, 24, length)
        ids[0], ids[-1] = 0, 2
        sequences.append(ids)
    return pack(sequences, tokens, 1).to(DEVICE)


def lengths_for(tokens: int, mix: bool):
    if not mix:
        return [168] * (tokens // 168)
    import random

    generator, lengths = random.Random(1), []
    while sum(lengths) + 168 <= tokens:
        lengths.append(generator.randint(40, 168))
    return lengths


def stack_flops(tokens: int, lengths, layers: int) -> float:
    return layers * (tokens * LAYER_FLOPS + 4 * H * sum(n * n for n in lengths))


def hidden_of(stack, model, batch):
    embedded = model.embeddings.word_embeddings(batch.tokens) * 0.88
    return stack(embedded, batch.lengths)


def stock(layers: int, tokens: int) -> None:
    from virnucpro.models.esm2 import Esm2Encoder

    batch = batch_of(tokens, lengths_for(tokens, False))
    flops = stack_flops(tokens, lengths_for(tokens, False), layers)
    encoder = Esm2Encoder(random_esm2("3B", DEVICE, torch.bfloat16, layers), torch.device(DEVICE), "bf16", "off")
    with torch.inference_mode():
        report("layers", f"stock eager, {layers} layers, T={tokens}", median_ms(lambda: encoder.hidden(batch), 7), flops)
        for layer in encoder.model.encoder.layer:
            layer.compile(fullgraph=True, dynamic=False)
        begin = time.time()
        encoder.hidden(batch)
        torch.cuda.synchronize()
        seconds = round(time.time() - begin, 1)
        report("layers", f"stock compiled, {layers} layers, T={tokens}", median_ms(lambda: encoder.hidden(batch), 7), flops,
               compile_s=seconds)


def stacks(layers: int) -> None:
    model = random_esm2("3B", DEVICE, torch.bfloat16, layers)
    with torch.inference_mode():
        for kind in (fused.FusedEsm2, int8.Int8Esm2):
            stack = make(kind, model)
            for tokens, mix in ((16384, False), (16896, False), (33792, False), (16896, True)):
                lengths = lengths_for(tokens, mix)
                batch = batch_of(tokens, lengths)
                guarded(lambda s=stack, b=batch, n=lengths, t=tokens, m=mix, k=kind: report(
                    "layers", f"{k.__name__}, {layers} layers, T={t}{' mix' if m else ''}",
                    median_ms(lambda: hidden_of(s, model, b), 9), stack_flops(t, n, layers)))


def whole(tokens: int = 16896) -> None:
    """All 36 layers: agreement with fp32, independence of neighbours, speed, memory."""
    from virnucpro.models.esm2 import Esm2Encoder
    from virnucpro.models.packing import pool

    few = batch_of(4096, [168, 160, 150, 140, 120, 100, 80, 60, 40, 30, 22, 300, 512, 1000, 168, 166, 90, 75, 33])
    with torch.inference_mode():
        model = random_esm2("3B", DEVICE, torch.float32)
        truth = Esm2Encoder(model, torch.device(DEVICE), "fp32", "off").embed(few)
        del model
        torch.cuda.empty_cache()
        for dtype, kind in ((torch.float16, fused.FusedEsm2), (torch.bfloat16, fused.FusedEsm2), (torch.bfloat16, int8.Int8Esm2)):
            torch.cuda.reset_peak_memory_stats()
            model = random_esm2("3B", DEVICE, dtype)
            stack = make(kind, model)
            name = f"{kind.__name__} {str(dtype)[6:]}"
            mine = pool(hidden_of(stack, model, few), few, 1)
            cosine = torch.nn.functional.cosine_similarity(mine.double(), truth.double()).min().item()
            lengths = lengths_for(tokens, True)
            one, two = batch_of(tokens, lengths[:60] + [77, 101]), batch_of(tokens, [50, 51, 168] + lengths[:60])
            rows = [pool(hidden_of(stack, model, b), b, 1) for b in (one, two)]
            again = pool(hidden_of(stack, model, one), one, 1)
            # batch_of draws ids in order: the same ids cannot be expected, so place the same sequences by hand
            batch = batch_of(tokens, lengths_for(tokens, False))
            flops = stack_flops(tokens, lengths_for(tokens, False), 36)
            report("whole", name, median_ms(lambda s=stack, m=model, b=batch: hidden_of(s, m, b), 7, 2), flops,
                   cosine=round(cosine, 7), repeatable=torch.equal(rows[0], again),
                   alone=neighbours(stack, model, tokens), peak_gib=round(torch.cuda.max_memory_allocated() / 2**30, 2))
            del model, stack
            torch.cuda.empty_cache()
        model = random_esm2("3B", DEVICE, torch.bfloat16)
        plain = Esm2Encoder(model, torch.device(DEVICE), "bf16", "off").embed(few)
        cosine = torch.nn.functional.cosine_similarity(plain.double(), truth.double()).min().item()
        print("plain bf16 cosine", cosine, flush=True)


def neighbours(stack, model, tokens: int) -> str:
    """Whether sequences keep their bits beside other neighbours and at other places: 'equal' or how many rows moved."""
    import numpy as np

    from virnucpro.models.packing import pack, pool

    random = np.random.default_rng(5)
    pools = [random.integers(4, 24, random.integers(20, 300)) for _ in range(90)]
    one, two = pack(pools[:60], tokens, 1).to(DEVICE), pack(pools[30:], tokens, 1).to(DEVICE)
    a, b = (pool(hidden_of(stack, model, batch), batch, 1) for batch in (one, two))
    moved = (a[30:] != b[:30]).any(1).sum().item()
    return "equal" if not moved else f"{moved} of 30 moved"


def dnabert(tokens: int = 16384) -> None:
    from virnucpro.models.dnabert_s import DnabertEncoder
    from virnucpro.models.packing import pool

    import random
    generator, lengths = random.Random(2), []
    while sum(lengths) + 130 <= tokens:
        lengths.append(generator.randint(85, 120))
    batch = batch_of(tokens, lengths)
    with torch.inference_mode():
        truth = DnabertEncoder(random_dnabert_s(DEVICE, torch.float32), torch.device(DEVICE), "fp32").embed(batch)
        model = random_dnabert_s(DEVICE, torch.bfloat16)
        plain = DnabertEncoder(model, torch.device(DEVICE), "bf16")
        stack = fused.FusedDnabert(model.encoder.layer, 12, plain.slopes, 1e-12)
        frames = len(lengths)
        for name, run in (("plain grouped", lambda: plain.hidden(batch)),
                          ("fused", lambda: stack(model.embeddings(batch.tokens), batch.lengths))):
            cosine = torch.nn.functional.cosine_similarity(pool(run(), batch, 0).double(), truth.double()).min().item()
            milliseconds = median_ms(run, 9)
            report("dnabert_s", name, milliseconds, frames_s=round(frames / milliseconds * 1e3), cosine=round(cosine, 7))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default=None)
    parser.add_argument("--compilers", type=int, default=12)
    arguments = parser.parse_args()
    print(torch.cuda.get_device_name(), torch.__version__, flush=True)
    with ProcessPoolExecutor(arguments.compilers, mp_context=get_context("spawn")) as executor:
        compiling = [executor.submit(compile_share, i, arguments.compilers) for i in range(arguments.compilers)]
        for future in compiling:
            for line in future.result():
                print("NOT COMPILED", line, flush=True)
    print(f"compiled [{time.time() - START:.0f} s]", flush=True)
    a, b = (torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    report("ceiling", "product 8192", median_ms(lambda: a @ b, 30, 10), 2 * 8192**3)
    big = torch.randn(2**30, device=DEVICE)
    other = torch.empty_like(big)
    report("ceiling", "copy", median_ms(lambda: other.copy_(big)), 0, 8 * 2**30)
    del big, other
    steps = [(library_operations, 16384), (single_operations, 16384), (library_operations, 16896), (stacks, 6),
             (whole,), (dnabert,), (varlen_alone, 16384), (stock, 6, 16384),
             (single_operations, 16896, lambda name: " A" in name or " B" in name or " C" in name),
             (library_operations, 33792)]
    for step, *rest in steps:
        guarded(step, *rest)
        if arguments.out:
            with open(arguments.out, "w") as file:
                json.dump(RESULTS, file, indent=1)
    report("ceiling", "product 8192 again", median_ms(lambda: a @ b, 30, 10), 2 * 8192**3)


if __name__ == "__main__":
    main()
