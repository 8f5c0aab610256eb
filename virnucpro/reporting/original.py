"""The two files of the original program, for every input file in a folder of its own, as pipelines
read them today.

Same columns, same order, same digits: `prediction_results.txt` a line a frame,
`prediction_results_highestscore.csv` (tab-separated in spite of its name) a line a scored chunk,
sorted by id.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from virnucpro.calling.answers import Answers
from virnucpro.errors import StoreError, one_line
from virnucpro.files import writing
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.tables import SLICE
from virnucpro.reporting.text import MISSING, as_text, shortest, write_lines
from virnucpro.reporting.values import chunk_ids, frame_ids, frame_labels


def write_original_tables(outputs: Outputs, answers: Answers) -> None:
    """Both files of every input; headers alone where nothing was scored."""
    embedded = np.flatnonzero(~answers.frames.failed)
    scored = np.flatnonzero(answers.chunks.scored)
    frame_bounds = _bounds(answers, answers.frames.record[embedded])
    chunk_bounds = _bounds(answers, answers.chunks.record[scored])
    for i, source in enumerate(answers.inputs):
        frames = embedded[frame_bounds[i] : frame_bounds[i + 1]]
        chunks = scored[chunk_bounds[i] : chunk_bounds[i + 1]]
        write_prediction_results(outputs.prediction_results(source.stem), answers, frames)
        write_highest_scores(outputs.highest_scores(source.stem), answers, chunks)


def write_prediction_results(path: Path, answers: Answers, rows: NDArray[np.int64]) -> None:
    """`Sequence_ID Prediction score1 score2` (others, virus) of the frames at `rows`."""
    frames = answers.frames
    with writing(path, below=path.parent.parent) as stream:
        stream.write(b"Sequence_ID\tPrediction\tscore1\tscore2\n")
        for part in _parts(rows):
            labels = pc.fill_null(frame_labels(answers, part), MISSING)  # of scores that are "nan"
            columns = frame_ids(answers, part), labels
            write_lines(
                stream, [*columns, shortest(frames.others[part]), shortest(frames.virus[part])]
            )


def read_scores(outputs: Outputs) -> tuple[list[str], NDArray[np.float32]]:
    """Frame ids, and scores [n, 2] to the last bit, of every `prediction_results.txt`, input after
    input.
    """
    import pyarrow.csv

    types = {"Sequence_ID": pa.string(), "score1": pa.float32(), "score2": pa.float32()}
    parse = pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False)
    convert = pyarrow.csv.ConvertOptions(column_types=types, include_columns=list(types))
    paths = [outputs.prediction_results(stem) for stem in outputs.stems]
    try:
        tables = [
            pyarrow.csv.read_csv(path, parse_options=parse, convert_options=convert)
            for path in paths
        ]
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"{outputs.directory}: its scores cannot be read ({one_line(str(error))}); run predict"
            " again"
        ) from error
    table = pa.concat_tables(tables)
    return table["Sequence_ID"].to_pylist(), np.column_stack(
        [table["score1"].to_numpy(), table["score2"].to_numpy()]
    )


def scores_digest(outputs: Outputs) -> dict[str, str]:
    """A checksum of each `prediction_results.txt` that is there, by the stem of its input."""
    found = {}
    for stem in outputs.stems:
        digest = xxhash.xxh3_128()
        with suppress(FileNotFoundError), open(outputs.prediction_results(stem), "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
            found[stem] = digest.hexdigest()
    return found


def write_highest_scores(path: Path, answers: Answers, rows: NDArray[np.int64]) -> None:
    """`Modified_ID Is_Virus max_score_0 max_score_1` of the chunks at `rows`, sorted by id as
    bytes.
    """
    chunks = answers.chunks
    ids = pa.chunked_array([chunk_ids(answers, part) for part in _parts(rows)], pa.large_string())
    rows = rows[pc.sort_indices(ids).to_numpy()]
    del ids
    with writing(path, below=path.parent.parent) as stream:
        stream.write(b"Modified_ID\tIs_Virus\tmax_score_0\tmax_score_1\n")
        for part in _parts(rows):
            is_virus = as_text(pa.array(chunks.is_virus[part]))
            scores = shortest(chunks.max_others[part]), shortest(chunks.max_virus[part])
            write_lines(stream, [chunk_ids(answers, part), is_virus, *scores])


def _parts(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return [rows[start : start + SLICE] for start in range(0, len(rows), SLICE)]


def _bounds(answers: Answers, record: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each input's rows begin among `record`, which is in input order: [inputs + 1]."""
    return np.searchsorted(answers.reads.columns.input[record], np.arange(len(answers.inputs) + 1))
