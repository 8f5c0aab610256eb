"""How fast weights come out of a memory-mapped file, with and without their pages mapped ahead (`weights.map_pages`).

    python benchmarks/weights.py [--gigabytes 2]

Makes a safetensors file, which the page cache then holds, and copies its tensors one after another, as a load does.
"""
from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    options = parser.parse_args()
    from virnucpro.models.weights import map_pages, read_safetensors

    with tempfile.TemporaryDirectory() as directory:
        file, shape = Path(directory) / "weights.safetensors", (2560, 10240)
        count = max(1, round(options.gigabytes * 1e9 / (4 * shape[0] * shape[1])))
        save_file({f"layer {i}": torch.ones(shape) for i in range(count)}, file)
        place = torch.zeros(shape)
        for name, prepare in (("page by page", lambda tensors: None), ("mapped ahead", map_pages)):
            tensors = list(read_safetensors(file).values())
            clock, cpu = time.perf_counter(), time.process_time()
            prepare(tensors)
            for tensor in tensors:
                place.copy_(tensor)
            gigabytes = sum(tensor.nbytes for tensor in tensors) / 1e9
            print(f"{name}: {gigabytes / (time.perf_counter() - clock):.2f} GB/s by the clock, "
                  f"{gigabytes / (time.process_time() - cpu):.2f} GB a second of CPU")


if __name__ == "__main__":
    main()
