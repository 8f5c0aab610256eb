"""Seconds that a whole `predict` with mini takes for 102,000 bases once it has started: libraries
imported, model read once.

    python benchmarks/mini_speed.py [--calls 5]      # a minute; on two cores as it is, on more with
    `taskset -c 0,1`

34 contigs of 3,000 bases from examples/, evenly from all of them; every call reads, embeds, calls
and writes all files anew.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
CONTIGS, LENGTH = 34, 3000


def contigs() -> list[bytes]:
    """Pieces of LENGTH of the records in examples/."""
    from virnucpro.sequences.inputs import find_inputs
    from virnucpro.sequences.reader import read_records

    inputs = find_inputs(sorted(map(str, (ROOT / "examples").glob("*.fna.gz"))))
    whole = [record.sequence for file in inputs for record in read_records(file)]
    pieces = [s[i : i + LENGTH] for s in whole for i in range(0, len(s) - LENGTH + 1, LENGTH)]
    return [pieces[i * len(pieces) // CONTIGS] for i in range(CONTIGS)]


def main() -> None:
    """Print the seconds of each call."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=5)
    options = parser.parse_args()
    import virnucpro

    with tempfile.TemporaryDirectory() as folder:
        home, records = Path(folder), [b">c%d\n%s\n" % pair for pair in enumerate(contigs())]
        for name, some in (("first", records[:1]), ("all", records)):
            (home / f"{name}.fna").write_bytes(b"".join(some))
        virnucpro.predict(home / "first.fna", output_dir=home / "start", cache_dir=home)
        for call in range(options.calls):
            out, began = home / str(call), time.perf_counter()
            virnucpro.predict(home / "all.fna", output_dir=out, cache_dir=home / f"cache {call}")
            seconds = time.perf_counter() - began
            facts = json.loads((out / "run.json").read_text())
            print(f"{seconds:.1f} s, {facts['embedding']['esm2']['rows']} frames", flush=True)


if __name__ == "__main__":
    main()
