"""`--screen mini`: what could be viral is answered as without it, the rest by the screen."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import GOLDEN, GOLDEN_MODEL

from virnucpro import cli, tools
from virnucpro.calling.screen import POINT

DEMO = Path(tools.__file__).parent / "demo.fna.gz"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("screen")
    demo = gzip.decompress(DEMO.read_bytes()).decode().split(">")[1:]
    letters = {text.split()[0]: "".join(text.split("\n")[1:]) for text in demo}
    human, virus = letters["NC_000013.11:75579821-75594820"], letters["NC_001422.1"]
    some = (GOLDEN / "input.fa").read_text().split(">")[3:6]
    with (place / "in.fa").open("w") as file:
        file.write(f">human\n{human[:5000]}\n>virus\n{virus[:2000]}\n")
        file.write("".join(">" + record for record in some) + f">more\n{human[6000:8000]}\n")
    assert predict(place, "all") == 0
    assert predict(place, "screened", "--screen", "mini") == 0
    return place


def predict(place: Path, out: str, *more: str) -> int:
    arguments = [place / "in.fa", "-o", place / out, *GOLDEN_MODEL, "--gpus", "none", "-q"]
    options = [
        "--threads",
        "1",
        "--batch-size",
        "512",
        "--chunk-length",
        "150",
        "--cache-dir",
        place / "cache",
        *more,
    ]
    return cli.run(["predict", *map(str, [*arguments, *options])])


def table(directory: Path, name: str = "contigs") -> pd.DataFrame:
    return pd.read_csv(directory / f"{name}.tsv", sep="\t")


def test_what_could_be_viral_is_answered_as_without_a_screen(place):
    contigs, whole = table(place / "screened"), table(place / "all")
    screen = table(place / "screened" / "screen")
    out = screen.virus_probability < POINT
    assert 0 < out.sum() < len(out) and (screen[out].call == "non-virus").all()
    assert (contigs[out].called_by == "screen").all() and (contigs[out].call == "non-virus").all()
    assert np.allclose(contigs[out].virus_score, screen[out].virus_score)
    assert np.allclose(contigs[out].virus_probability, screen[out].virus_probability)
    assert contigs[out].model_probability.isna().all()
    pd.testing.assert_frame_equal(contigs[~out], whole[~out])
    chunks = table(place / "screened", "chunks")
    of_screen = chunks.seq_name.isin(contigs[out].seq_name)
    assert not chunks[of_screen].status.isin(["scored", "failed"]).any()
    assert "not_needed" in set(chunks[of_screen].status)
    everything = table(place / "all", "chunks")
    pd.testing.assert_frame_equal(chunks[~of_screen], everything[~of_screen])


def test_summarize_keeps_the_screen(place):
    assert cli.run(["summarize", str(place / "screened"), "-o", str(place / "again")]) == 0
    for name in ("contigs.tsv", "chunks.tsv", "regions.tsv", "virus.fna"):
        assert (place / "again" / name).read_bytes() == (place / "screened" / name).read_bytes()


def test_it_is_another_run_and_needs_a_larger_model(place, capsys):
    assert predict(place, "screened") == 1
    assert "--screen was there before" in capsys.readouterr().err
    assert cli.run(["predict", str(place / "in.fa"), "-m", "mini", "--screen", "mini"]) == 64
    assert "is the model that is screened for" in capsys.readouterr().err
    assert predict(place, "y", "--screen", "mini", "--shard", "1/2") == 64
