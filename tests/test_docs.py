"""The documentation's commands: ```bash blocks run here, in order; ```sh blocks, which need GPUs, a
network or hours, must parse. The Python runs too, and the site is built.
"""

from __future__ import annotations

import gzip
import json
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
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
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
    (tmp_path / "proteins.faa").write_text(">one\nMKVLAAGIVGLCAKWPRND\n>two\nMSTAVLENPGLGRKLSDFG\n")
    (tmp_path / "proteins.tsv").write_text("protein\tlabel\none\tviral\ntwo\tbacteria\n")
    for mate in (1, 2):
        shutil.copy(tmp_path / "reads.fastq.gz", tmp_path / f"reads_{mate}.fastq")
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


def test_commands_run(place, capfd):
    """Those of all pages in one place, each once."""
    lines = dict.fromkeys(line for page in PAGES for line in commands(page, "bash"))
    assert len(lines) > 30
    for line in lines:
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


def python(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.S)


def test_the_python_runs(place, capsys):
    """And that of OUTPUTS on what it left; the pandas one there is run beside the tables."""
    found: dict = {}
    for block in python(ROOT / "docs" / "how" / "from-python.md"):
        exec(compile(block, "from-python.md", "exec"), found)
    assert len(found["ids"]) == len(found["features"]) and len(found["table"]) == 4
    assert "no_such_file.fna: cannot be opened" in capsys.readouterr().out
    os.chdir("results")
    (features,) = (block for block in python(ROOT / "docs" / "OUTPUTS.md") if "torch" in block)
    exec(compile(features, "OUTPUTS.md", "exec"), found)
    assert found["features"]["ids"] == list(found["ids"])
    (joined,) = python(ROOT / "docs" / "how" / "downstream.md")
    exec(compile(joined, "downstream.md", "exec"), found)
    assert len(found["both"]) == 4


def test_the_site_is_built(tmp_path, monkeypatch):
    """Strictly: every page is in its list, every link and anchor leads somewhere; and nothing on it
    is fetched from elsewhere.
    """
    config = pytest.importorskip("mkdocs.config").load_config
    build = pytest.importorskip("mkdocs.commands.build").build
    monkeypatch.chdir(ROOT)
    build(config("mkdocs.yml", site_dir=str(tmp_path / "site"), strict=True))
    files = [path for path in (tmp_path / "site").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 5_000_000
    foreign = re.compile(
        r"<(?:script|img|iframe)[^>]+src=\"?https?:|<link[^>]+stylesheet[^>]+https?:"
    )
    pages = [path for path in files if path.suffix == ".html"]
    assert len(pages) > 25
    assert [path.name for path in pages if foreign.search(path.read_text())] == []


@pytest.mark.parametrize(
    "name, page",
    [("accuracy", "MODELS"), ("scaling", "GPU_OPTIMIZATION"), ("peers", "PERFORMANCE")],
)
def test_pictures_show_the_figures_of_the_pages(name, page):
    """And those of understand/accuracy.md are made from the same file by docs/generate.py."""
    data = json.loads((ROOT / "docs" / "pictures" / f"{name}.json").read_text())
    text = (ROOT / "docs" / f"{page}.md").read_text()
    points = [point for points in data.get("series", {}).values() for point in points]
    values = data.get("values", {}).values() or [p[0] if len(p) == 3 else p[1] for p in points]
    shown = [f"{value:.3f}" if isinstance(value, float) else f"{value:,}" for value in values]
    assert shown and [value for value in shown if f" {value} " not in text] == []


def test_false_positives_are_drawn_as_they_were_measured():
    data = json.loads((ROOT / "docs" / "pictures" / "false_positives.json").read_text())
    measured = json.loads((ROOT / "recipes" / "mini" / "mini_evidence.json").read_text())
    for name, counts in data["series"].items():
        found = measured[re.sub(r"\D", "", name)]["points"]["1%"]["false_positives"]
        assert counts == [found.get(one, [0, 0]) for one in data["classes"]]


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
