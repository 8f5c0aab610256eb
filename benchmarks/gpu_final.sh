#!/usr/bin/env bash
# What a change to the fast path has to pass, on one Hopper GPU, from the repository's root. Results under $OUT (default: .).
set -uo pipefail
export PYTHONPATH=. PYTHONUNBUFFERED=1
OUT=${OUT:-.}
status=0
timeout 120 python3 -m pytest tests/models/test_kernels.py tests/models/test_fused.py tests/models/test_cuda.py -k cuda -rs 2>&1 | tail -30 || status=1
timeout 120 python3 benchmarks/kernel_speed.py --only others stacks agreement short dnabert --out "$OUT/kernel_speed.json" 2>&1 | cut -c1-200 || status=1
timeout 150 python3 -m virnucpro benchmark --model-shape 3B --frames 10000 -o "$OUT/benchmark_bf16.json" || status=1
timeout 100 python3 -m virnucpro benchmark --model-shape 3B --frames 2000 --precision int8 -o "$OUT/benchmark_int8.json" || status=1
exit $status
