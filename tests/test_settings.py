"""An option is one field: the command line, Python and the docs' table are made from it."""

from __future__ import annotations

from dataclasses import fields

import pytest
import typer

from virnucpro import cli
from virnucpro.errors import UsageError
from virnucpro.settings import Options
from virnucpro.training import settings as training

GIVEN = {
    "output_dir": "out dir",
    "table_format": "parquet",
    "features": "none",
    "min_length": 7,
    "stride": 100,
    "model": "-odd",
    "esm_model": "esm",
    "dna_model": "dna",
    "classifier": "c.pth",
    "chunk_length": 300,
    "gpus": "0,2",
    "num_processes": 3,
    "precision": "bf16",
    "batch_size": 512,
    "compile": "off",
    "force": True,
    "checkpoint_dir": "kept",
    "cache_dir": "cache",
    "partial_ok": True,
    "min_score": 0.4,
    "allow_short": True,
    "prevalence": 0.01,
    "shard": "2/7",
    "threads": 3,
    "reference": "proteins",
    "call_by": "both",
    "quiet": True,
    "verbose": True,
}
OTHERS = {
    "resume": True,
    "conservative": True,
    "no_cache": True,
    "effort": "quick",
    "screen": "mini",
}  # that exclude some of these
POINTS = {"relaxed": True}, {"max_fdr": 0.05}, {"false_positives": "0.1%"}
SAMPLES = {"samplesheet": "samples.tsv"}, {"per_input": True}  # they run another function


@pytest.mark.parametrize("given", [GIVEN, OTHERS, *SAMPLES, *POINTS, {}])
def test_options_say_themselves_as_a_command_line_that_means_them(given, monkeypatch):
    """As they reach the processes of our own launch, with inputs that look like options."""
    seen: list[Options] = []

    def run(inputs: list[str], options: Options, own_process: bool) -> None:
        assert inputs == ["-a.fa", "--force"] and own_process
        seen.append(options)

    monkeypatch.setattr("virnucpro.run.start.run", run)
    monkeypatch.setattr("virnucpro.run.start.run_samples", run)
    options = Options(**given)
    assert cli.run(["predict", *options.arguments(), "--", "-a.fa", "--force"]) == 0
    assert seen[0].arguments() == options.arguments()
    assert len(options.arguments()) == len(given)


def test_every_option_is_tried_here():
    tried = {*GIVEN, *OTHERS, *(name for given in (*SAMPLES, *POINTS) for name in given)}
    assert tried == {one.name for one in fields(Options)}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"precision": "int4"}, "--precision int4: choose one of auto, bf16, fp16, fp32, int8"),
        ({"min_length": -1}, "--min-length -1: give 0 or more"),
        ({"batch_size": 0}, "--batch-size 0: give 1 or more"),
        (
            {"batch_size": 10**30},
            "--batch-size 1000000000000000000000000000000: give 16,777,216 or",
        ),
        ({"threads": 10**30}, "--threads 1000000000000000000000000000000: give 4,096 or less"),
        ({"num_processes": 10**9}, "--num-processes 1000000000: give 4,096 or less"),
        ({"min_length": 10**9}, "--min-length 1000000000: give 999,999,999 or less"),
        ({"chunk_length": 3}, "--chunk-length 3: give 30 or more"),
        ({"resume": True, "force": True}, "give one of them"),
        ({"max_fdr": 5}, "--max-fdr 5: a share of false calls lies between 0 and 1"),
        ({"max_fdr": 0.1, "relaxed": True}, "exclude each other"),
        ({"false_positives": "2%"}, "--false-positives 2%: choose one of 5%, 1%, 0.1%"),
    ],
)
def test_python_checks_what_the_command_line_checks(given, said):
    with pytest.raises(UsageError, match=said):
        Options(**given)


def test_no_command_takes_another_option_of_the_same_name():
    """A second definition would shadow the first."""
    group = typer.main.get_command(cli.app)
    for command in group.commands.values():
        names = [name for parameter in command.params for name in parameter.opts]
        assert len(names) == len(set(names))


def test_every_option_is_explained():
    """In a sentence, not in one word."""
    for part in (Options, *(s for s in vars(training).values() if hasattr(s, "__post_init__"))):
        for one in fields(part):
            said = one.metadata["option"]
            assert said.hidden or (len(said.help.split()) >= 3 and said.help.endswith(".")), (
                one.name
            )
