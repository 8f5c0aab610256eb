"""`benchmark`: what was measured, as a table and as JSON."""
from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def run_benchmark_command(output: Path | None, **options: Any) -> int:
    """Choices and steps to standard error as they come, the table to standard output; 0."""
    from virnucpro.benchmark import BenchmarkSettings, closing_lines, run_benchmark, table

    result = run_benchmark(BenchmarkSettings(**options), lambda line: print(line, file=sys.stderr, flush=True))
    rows = table(result)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for name, *cells in rows:
        print(name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)), sep="  ")
    for line in closing_lines(result):
        print(line)
    if output is not None:
        output.write_text(json.dumps(result, indent=1) + "\n")
    return 0
