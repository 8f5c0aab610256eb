"""Digits: equal to Python's own formatting and numpy's own shortest float32."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa

from virnucpro.reporting.text import as_text, score, shortest, write_table


def test_shortest_is_numpys_repr():
    rng = np.random.default_rng(0)
    values = np.concatenate(
        [rng.random(2000), 10.0 ** -rng.uniform(0, 40, 2000), [0, 1, 1e-4, 1e-5, 0.5]]
    ).astype(np.float32)
    assert shortest(values).to_pylist() == [str(value) for value in values]


def test_four_decimals_are_pythons():
    values = np.append(np.random.default_rng(0).random(5000), [0.0, 1.0, np.nan])
    assert score(values).to_pylist() == [
        f"{value:.4f}" if value == value else "NA" for value in values
    ]


def test_a_table_is_never_quoted_and_marks_what_is_missing():
    stream = io.BytesIO()
    batch = pa.RecordBatch.from_pydict(
        {
            "name": pa.array(['a"b', "ü,<script>", None]),
            "n": pa.array([1, None, 3]),
            "x": pa.array([0.25, None, 1.0]),
            "yes": pa.array([True, False, None]),
        }
    )
    write_table(stream, batch.schema.names, [batch, batch.slice(1, 1), batch.slice(0, 0)])
    lines = stream.getvalue().decode().splitlines()
    assert lines[:4] == [
        "name\tn\tx\tyes",
        'a"b\t1\t0.2500\tTrue',
        "ü,<script>\tNA\tNA\tFalse",
        "NA\t3\t1.0000\tNA",
    ]
    assert lines[4:] == lines[2:3]


def test_dictionary_columns_are_their_values():
    assert as_text(pa.array(["a", "b", "a"]).dictionary_encode()).to_pylist() == ["a", "b", "a"]
