"""Every column of every table: one entry each, with its name, type, meaning, and how it is made.

The tables, their Parquet schema, the schema they are read back with, and the glossary in
docs/OUTPUTS.md are all made from these entries. To add a column, add an entry here.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from virnucpro.calling.consensus import best_first
from virnucpro.reporting.text import TEXT, constant
from virnucpro.reporting.values import (
    BASES,
    BITS,
    COUNT,
    FLAG,
    FRAME,
    FRAME_SCORE,
    SCORE,
    STATUS_WORDS,
    Column,
    Table,
    all_rows,
    called_by,
    calls_of,
    cellular_like,
    closest,
    counted,
    evidence_of,
    frame_ids,
    frame_labels,
    hit_rows,
    names_of,
    notes,
    of_hits,
    of_proteins,
    read_names,
    read_sources,
    region_ids,
    sources_of,
    values_of,
    words,
)

# -- contigs.tsv and virus_summary.tsv ------------------------------------------------------------

_MODEL = Column(
    "model",
    TEXT,
    lambda answers, rows: pa.array([answers.model_label] * len(rows), TEXT),
    "the model that answered",
)

CONTIGS = Table(
    "contigs",
    all_rows("records"),
    (
        Column("seq_name", TEXT, names_of, "the name up to the first white space, made unique"),
        Column("source", TEXT, sources_of, "the input file; `stdin` for standard input"),
        Column(
            "length", BASES, values_of("records", "length"), "bases; of a pair those of both mates"
        ),
        Column("gc", SCORE, values_of("records", "gc"), "G and C among the letters A, C, G, T"),
        Column(
            "n_chunks",
            COUNT,
            values_of("records", "n_chunks"),
            "overlapping chunks it was cut into; 0 where it was skipped",
        ),
        Column("n_scored", COUNT, values_of("sequences", "n_scored"), "chunks with a score"),
        Column(
            "scored_fraction",
            SCORE,
            values_of("sequences", "scored_fraction"),
            "the share of the chunks that have a score, or would have one had they been needed",
        ),
        Column(
            "virus_score",
            SCORE,
            values_of("sequences", "virus_score"),
            "mean of the scored chunks' scores, weighted by their length; where chunks were left"
            " out, of those spread evenly over the sequence",
        ),
        Column(
            "virus_probability",
            SCORE,
            values_of("sequences", "virus_probability"),
            "the calibrated score; `NA` where the model has no calibration",
        ),
        Column(
            "max_chunk_score",
            SCORE,
            values_of("sequences", "max_chunk_score"),
            "the highest score of a chunk",
        ),
        Column(
            "n_virus_chunks",
            COUNT,
            values_of("sequences", "n_virus_chunks"),
            "chunks in which the best viral score is at least the best other one",
        ),
        Column("call", TEXT, calls_of, "the answer, see below"),
        Column(
            "fdr",
            SCORE,
            values_of("sequences", "fdr"),
            "expected share of false ones among all sequences of this source called at this score"
            " or a better one",
        ),
        Column("note", TEXT, notes, "`;`-joined words, see below", nullable=True),
        Column(
            "model_probability",
            SCORE,
            values_of("sequences", "model_probability"),
            "the network's own probability",
        ),
        Column(
            "homology_probability",
            SCORE,
            lambda answers, rows: evidence_of(answers, rows, lambda e: e.probability),
            "the probability by the hits with known proteins alone, without the network; `NA`, as"
            " in the columns that follow, where no proteins were searched",
        ),
        Column(
            "homology_score",
            BITS,
            lambda answers, rows: evidence_of(answers, rows, lambda e: e.evidence.lead),
            "bit score of the best hit with a viral protein less that of the best with another one;"
            " a missing or weak hit counts 30 bits",
        ),
        Column(
            "closest_virus",
            TEXT,
            lambda answers, rows: closest(answers, rows, "name", "protein"),
            "the virus of the closest known viral protein (not the sequence's own taxonomy), or"
            " that protein where its virus is not named",
            nullable=True,
        ),
        Column(
            "closest_family",
            TEXT,
            lambda answers, rows: closest(answers, rows, "family"),
            "the family of that virus",
            nullable=True,
        ),
        Column(
            "closest_identity",
            SCORE,
            lambda answers, rows: evidence_of(answers, rows, lambda e: e.evidence.closest_identity),
            "identical residues of the alignment with that protein",
        ),
        Column(
            "viral_hits",
            COUNT,
            lambda answers, rows: counted(answers, rows, lambda e: e.evidence.viral_hits),
            "hits with viral proteins",
        ),
        Column(
            "cellular_hits",
            COUNT,
            lambda answers, rows: counted(answers, rows, lambda e: e.evidence.cellular_hits),
            "hits with other proteins",
        ),
        Column(
            "cellular_like",
            TEXT,
            cellular_like,
            "where most of the score of the other hits comes from: `bacteria`, `archaea`,"
            " `eukaryote` or `plasmid`",
            nullable=True,
        ),
        Column(
            "topology",
            TEXT,
            lambda answers, rows: words(
                [answers.evidence.topology[r] if answers.evidence else None for r in rows.tolist()]
            ),
            "`direct_repeat_N` or `inverted_repeat_N`: the first N bases are the last N too, or"
            " their reverse complement",
            nullable=True,
        ),
        Column(
            "chunks_looked_at",
            COUNT,
            values_of("sequences", "n_looked_at"),
            "`n_chunks` less those that the call did not need (`--effort`)",
        ),
        Column(
            "called_by",
            TEXT,
            called_by,
            "what `virus_probability` and the call are made of: `model`, `both` model and hits, or"
            " `screen`, the small model that looked first (`--screen`)",
        ),
    ),
)

VIRUS_SUMMARY = replace(
    CONTIGS,
    name="virus_summary",
    rows=lambda answers: best_first(answers.sequences, answers.records),
    columns=(*(column for column in CONTIGS.columns if column.name != "call"), _MODEL),
)

# -- chunks.tsv -----------------------------------------------------------------------------------

CHUNKS = Table(
    "chunks",
    all_rows("chunks"),
    (
        Column(
            "seq_name",
            TEXT,
            lambda answers, rows: read_names(answers, answers.chunks.record[rows]),
            "the sequence; of a pair the mate, `/1` or `/2`",
        ),
        Column("chunk", COUNT, values_of("chunks", "chunk"), "which of its chunks, from 1"),
        Column("start", BASES, values_of("chunks", "start"), "its first base"),
        Column("end", BASES, values_of("chunks", "end"), "its last base"),
        Column(
            "n_open_frames",
            COUNT,
            values_of("chunks", "n_open_frames"),
            "how many of its six frames are open; with the frame policies `longest` and"
            " `stretches`, how many stop-free stretches were taken: one, or up to six of a"
            " sequence of one chunk, three of each of two chunks, two of each of more",
        ),
        Column(
            "max_others",
            FRAME_SCORE,
            values_of("chunks", "max_others"),
            "the highest other score of its frames; `max_others` and `max_virus` need not sum to 1,"
            " and grow with the number of open frames",
        ),
        Column(
            "max_virus",
            FRAME_SCORE,
            values_of("chunks", "max_virus"),
            "the highest viral score of its frames; with the frame policy `stretches` the chunk's"
            " score, and `max_others` is 1 less that",
        ),
        Column(
            "virus_score",
            SCORE,
            values_of("chunks", "virus_score"),
            "`max_virus / (max_virus + max_others)`",
        ),
        Column(
            "is_virus",
            FLAG,
            lambda answers, rows: pa.array(
                answers.chunks.is_virus[rows], mask=~answers.chunks.scored[rows]
            ),
            "`True` where `virus_score` is 0.5 or more",
        ),
        Column(
            "status",
            TEXT,
            lambda answers, rows: STATUS_WORDS.take(pa.array(answers.chunks.status[rows])),
            "`scored`, or why not: `no_open_frame`, `invalid_characters`, `frame_too_long` (all its"
            " open frames are too long), `failed`, `not_needed` (the call was clear without it,"
            " see `--effort`)",
        ),
    ),
)

# -- frames.tsv -----------------------------------------------------------------------------------

FRAMES = Table(
    "frames",
    all_rows("frames"),
    (
        Column(
            "frame_id",
            TEXT,
            frame_ids,
            "`{seq_name}_chunk_{chunk}{F or R}{1, 2 or 3}`, the id in `merged_features.pt` and in"
            " the original's tables",
        ),
        Column(
            "seq_name",
            TEXT,
            lambda answers, rows: read_names(answers, answers.frames.record[rows]),
            "the sequence; of a pair the mate, `/1` or `/2`",
        ),
        Column("chunk", COUNT, values_of("frames", "chunk"), "its chunk"),
        Column(
            "strand",
            TEXT,
            lambda answers, rows: pc.if_else(
                pa.array(answers.frames.frame[rows] > 2), constant("-"), constant("+")
            ),
            "`+` or `-`",
        ),
        Column(
            "frame", FRAME, lambda answers, rows: answers.frames.frame[rows] % 3 + 1, "1, 2 or 3"
        ),
        Column(
            "start", BASES, values_of("frames", "start"), "its first base on the forward strand"
        ),
        Column("end", BASES, values_of("frames", "end"), "its last base on the forward strand"),
        Column("aa_length", COUNT, values_of("frames", "aa_length"), "residues of its protein"),
        Column(
            "others_score",
            FRAME_SCORE,
            values_of("frames", "others"),
            "the classifier's score for others; `NA` where the frame has no embedding",
        ),
        Column(
            "virus_score",
            FRAME_SCORE,
            values_of("frames", "virus"),
            "the classifier's score for virus; `NA` where the frame has no embedding",
        ),
        Column(
            "prediction",
            TEXT,
            frame_labels,
            "`virus` or `others`; a tie is `others`",
            nullable=True,
        ),
    ),
)

# -- regions.tsv ----------------------------------------------------------------------------------

REGIONS = Table(
    "regions",
    all_rows("regions"),
    (
        Column(
            "seq_name",
            TEXT,
            lambda answers, rows: names_of(answers, answers.regions.record[rows]),
            "the sequence",
        ),
        Column(
            "source",
            TEXT,
            lambda answers, rows: sources_of(answers, answers.regions.record[rows]),
            "its input file",
        ),
        Column(
            "region_id",
            TEXT,
            region_ids,
            "`{seq_name}_region_{number}`, the name in the BED file and in `regions.fna`",
        ),
        Column("start", BASES, values_of("regions", "start"), "its first base"),
        Column("end", BASES, values_of("regions", "end"), "its last base"),
        Column(
            "length",
            BASES,
            lambda answers, rows: answers.regions.end[rows] - answers.regions.start[rows] + 1,
            "bases",
        ),
        Column("n_chunks", COUNT, values_of("regions", "n_chunks"), "its chunks"),
        Column("n_scored", COUNT, values_of("regions", "n_scored"), "its chunks with a score"),
        Column(
            "mean_score", SCORE, values_of("regions", "mean_score"), "mean of its scored chunks"
        ),
        Column("max_score", SCORE, values_of("regions", "max_score"), "best of its scored chunks"),
        Column(
            "resolution",
            BASES,
            values_of("regions", "resolution"),
            "bases within which both borders are known: as far as to the nearest scored chunk"
            " outside, at least the step between chunks and half a chunk",
        ),
        Column(
            "call",
            TEXT,
            lambda answers, rows: calls_of(answers, answers.regions.record[rows]),
            "the call of the whole sequence",
        ),
    ),
)

# -- hits.tsv -------------------------------------------------------------------------------------

_hit_records = of_hits(lambda hits: hits.record)

HITS = Table(
    "hits",
    hit_rows,
    (
        Column(
            "seq_name",
            TEXT,
            lambda answers, rows: read_names(answers, _hit_records(answers, rows).astype(np.int64)),
            "the sequence; of a pair the mate, `/1` or `/2`",
        ),
        Column(
            "source",
            TEXT,
            lambda answers, rows: read_sources(
                answers, _hit_records(answers, rows).astype(np.int64)
            ),
            "its input file",
        ),
        Column("start", BASES, of_hits(lambda hits: hits.start), "first base of the alignment"),
        Column("end", BASES, of_hits(lambda hits: hits.end), "its last base"),
        Column(
            "strand",
            TEXT,
            lambda answers, rows: pc.if_else(
                pa.array(of_hits(lambda hits: hits.reverse)(answers, rows), FLAG),
                constant("-"),
                constant("+"),
            ),
            "`+` or `-`",
        ),
        Column("protein", TEXT, of_proteins("protein"), "the known protein", nullable=True),
        Column("name", TEXT, of_proteins("name"), "what it is of", nullable=True),
        Column("family", TEXT, of_proteins("family"), "the family of that", nullable=True),
        Column(
            "label",
            TEXT,
            of_proteins("label"),
            "`viral`, `bacteria`, `archaea`, `eukaryote`, `plasmid`, or `cellular` where the kind"
            " of cell is not known",
            nullable=True,
        ),
        Column(
            "identity",
            SCORE,
            of_hits(lambda hits: hits.identity),
            "identical residues of the alignment's columns",
        ),
        Column(
            "aligned_length", COUNT, of_hits(lambda hits: hits.columns), "columns of the alignment"
        ),
        Column(
            "bit_score",
            BITS,
            of_hits(lambda hits: hits.bits),
            "score of the alignment in bits",
        ),
        Column(
            "evalue",
            TEXT,
            lambda answers, rows: words(
                [f"{e:.1e}" for e in of_hits(lambda hits: hits.evalue)(answers, rows).tolist()]
            ),
            "chance hits as good as this expected of its stop-free stretch",
        ),
    ),
)

TABLES = (CONTIGS, VIRUS_SUMMARY, CHUNKS, FRAMES, REGIONS, HITS)
