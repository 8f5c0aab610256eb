"""The documentation's commands: ```bash blocks run here, in order; ```sh blocks, which need GPUs, a
network or hours, must parse.
"""

from __future__ import annotations

import gzip
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from command import GOLDEN, environment

from virnucpro import cli

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
DOCUMENTED = ("docs", "examples", "recipes", "benchmarks")
NOT_OURS = ("./run.sh", "cd ", "export ", "git ", "pip ", "python3 -m venv", ".venv/bin/pip")
MINI = ROOT / "virnucpro" / "models" / "mini"


def commands(page: Path, kind: str) -> list[str]:
    blocks = re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    joined = "\n".join(blocks).replace("\\\n", " ")
    lines = [re.sub(r"\s+#.*", "", line).strip() for line in joined.splitlines()]
    return [line for line in lines if line and not line.startswith(("#", *NOT_OURS))]


def own_words(line: str) -> list[str] | None:
    """The arguments of a plain call of the program, None for anything with a pipe or a launcher."""
    words = shlex.split(line)
    if words[:3] == ["python", "-m", "virnucpro"]:
        words = words[2:]
    plain = words[0] == "virnucpro" and not {"|", ">", "&&", "<"} & set(words)
    return words[1:] if plain else None


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A directory with the files the documentation speaks of."""
    records = (GOLDEN / "input.fa").read_text().split(">")[1:5]
    few = "".join(f">{record}" for record in records)
    for name in ("contigs.fna", "sample.fna"):
        (tmp_path / name).write_text(few)
    (tmp_path / "samples.tsv").write_text("sample\tfile\none\tcontigs.fna\ntwo\tsample.fna\n")
    with gzip.open(tmp_path / "reads.fastq.gz", "wt") as file:
        sequence = "".join(records[0].splitlines()[1:])
        file.write(f"@read\n{sequence}\n+\n{'I' * len(sequence)}\n")
    (tmp_path / "genomes").mkdir()
    (tmp_path / "genomes" / "one.fa").write_text(f">{records[2]}")
    shutil.copytree(MINI, tmp_path / "my_bundle")
    shutil.copy(MINI / "classifier.safetensors", tmp_path / "other.safetensors")
    for name, value in environment(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    scripts = tmp_path / "bin"
    scripts.mkdir()
    for name, module in (
        ("virnucpro", "virnucpro"),
        ("torchrun", "torch.distributed.run"),
        ("python", None),
        ("accelerate", "accelerate.commands.accelerate_cli"),
    ):
        line = f'exec {shlex.quote(sys.executable)} {f"-m {module} " if module else ""}"$@"\n'
        (scripts / name).write_text("#!/bin/sh\n" + line)
        (scripts / name).chmod(0o755)
    (tmp_path / "accelerate_configs").symlink_to(ROOT / "accelerate_configs")
    monkeypatch.setenv("PATH", f"{scripts}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("VIRNUCPRO_MODEL", "mini")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "page", [page for page in PAGES if commands(page, "bash")], ids=lambda page: page.name
)
def test_commands_run(page, place, capfd):
    for line in commands(page, "bash"):
        words = own_words(line)
        code = (
            cli.run(words)
            if words is not None
            else subprocess.run(["bash", "-c", line], check=False, timeout=300).returncode
        )
        assert code == 0, f"{line}\n{capfd.readouterr().err}"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if commands(page, "sh")], ids=lambda page: page.name
)
def test_other_commands_parse(page):
    group = typer.main.get_command(cli.app)
    for line in commands(page, "sh"):
        words = shlex.split(line)
        if "virnucpro" not in words:
            continue
        words = words[words.index("virnucpro") + 1 :]
        words = words[
            : next((i for i, word in enumerate(words) if word in ("|", ">", "&&", "&")), len(words))
        ]
        command, name = group, "virnucpro"
        with command.make_context(name, words, resilient_parsing=False) as context:
            while hasattr(command, "resolve_command"):
                rest = [*context._protected_args, *context.args]
                name, command, rest = command.resolve_command(context, rest)
                context = command.make_context(name, rest, parent=context)


def test_the_python_of_usage_runs(place):
    """And that of OUTPUTS on what it left; the pandas one there is run beside the tables."""
    usage, outputs = ((ROOT / "docs" / name).read_text() for name in ("USAGE.md", "OUTPUTS.md"))
    found: dict = {}
    exec(compile(re.search(r"```python\n(.*?)```", usage, re.S)[1], "USAGE.md", "exec"), found)
    assert len(found["ids"]) == len(found["features"]) and len(found["table"]) == 4
    os.chdir("results")
    exec(
        compile(
            re.search(r"```python\n(import torch.*?)```", outputs, re.S)[1], "OUTPUTS.md", "exec"
        ),
        found,
    )
    assert found["features"]["ids"] == found["ids"]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "examples" / "README.md"], ids=lambda page: page.name
)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        file, _, anchor = link.partition("#")
        if "://" not in link:
            target = page.parent / file if file else page
            assert target.exists() and (not anchor or anchor in anchors(target)), link


def test_no_line_of_prose_is_too_long():
    """A row of a table cannot be broken; every other line can."""
    pages = [*ROOT.glob("*.md"), *(p for d in DOCUMENTED for p in (ROOT / d).rglob("*.md"))]
    assert len(pages) > 10
    long = [
        f"{page.relative_to(ROOT)}:{number}"
        for page in pages
        for number, line in enumerate(page.read_text().splitlines(), 1)
        if len(line) > 120 and not line.startswith("|")
    ]
    assert not long
