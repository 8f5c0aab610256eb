"""The recipes for workflow engines: run where the engine is a Python package, checked where not."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command import GOLDEN, environment

ROOT = Path(__file__).parents[2]
WORKFLOWS = ROOT / "recipes" / "workflows"


@pytest.fixture
def place(tmp_path) -> Path:
    """A folder with two small samples, and the commands `virnucpro` and `python` on the PATH."""
    records = (GOLDEN / "input.fa").read_text().split(">")[1:]
    for sample, few in (("a", records[:2]), ("b", records[2:4])):
        (tmp_path / f"{sample}.fna").write_text("".join(f">{record}" for record in few))
    (tmp_path / "samples.tsv").write_text("sample\tfasta\na\ta.fna\nb\tb.fna\n")
    scripts = tmp_path / "bin"
    scripts.mkdir()
    (scripts / "virnucpro").write_text(f'#!/bin/sh\nexec {sys.executable} -m virnucpro "$@"\n')
    (scripts / "virnucpro").chmod(0o755)
    return tmp_path


def run(words: list[str], place: Path) -> subprocess.CompletedProcess:
    env = environment(place / "home")
    env["PATH"] = os.pathsep.join(
        [str(place / "bin"), str(Path(sys.executable).parent), env["PATH"]]
    )
    done = subprocess.run(words, cwd=place, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_snakemake_runs_all_samples(place):
    pytest.importorskip("snakemake", reason="snakemake is not installed")
    shutil.copy(WORKFLOWS / "snakemake" / "Snakefile", place)
    run([sys.executable, "-m", "snakemake", "--cores", "1", "--quiet", "all"], place)
    assert [len(lines(place / "virnucpro" / name / "contigs.tsv")) for name in "ab"] == [3, 3]
    assert lines(place / "virnucpro" / "virus_summary.tsv")[0].startswith("sample\tseq_name\t")


def test_cwl_tool_runs(place):
    pytest.importorskip("cwltool", reason="cwltool is not installed")
    job = {
        "sequences": [{"class": "File", "path": str(place / "a.fna")}],
        "model": "mini",
        "output_name": "result",
    }
    (place / "job.json").write_text(json.dumps(job))
    tool = WORKFLOWS / "cwl" / "virnucpro-predict.cwl"
    words = ["cwltool", "--no-container", "--preserve-environment", "PATH"]
    words += [word for name in ("PYTHONPATH", "HF_DATASETS_CACHE", "VIRNUCPRO_HOME", "HF_HOME")
              for word in ("--preserve-environment", name)]  # fmt: skip
    run([*words, "--outdir", "out", str(tool), "job.json"], place)
    assert len(lines(place / "out" / "result" / "contigs.tsv")) == 3
    assert (place / "out" / "result" / "report.html").exists()


def test_wdl_task_is_valid():
    wdl = pytest.importorskip("WDL", reason="miniwdl is not installed")
    document = wdl.load(str(WORKFLOWS / "wdl" / "virnucpro.wdl"))
    assert [task.name for task in document.tasks] == ["predict"]


def test_the_script_of_the_nextflow_module_runs(place):
    module = (WORKFLOWS / "nextflow" / "modules" / "virnucpro" / "predict" / "main.nf").read_text()
    script = re.search(r'script:.*?"""\n(.*?)"""', module, re.S)[1]
    values = {
        "fasta": "a.fna",
        "model": "mini",
        "prefix": "a",
        "args": "",
        "task.cpus": "1",
        "task.process": "P",
    }
    for name, value in values.items():
        script = script.replace("${" + name + "}", value)
    (place / "run.sh").write_text(re.sub(r"^ {4}", "", script.replace("\\$", "$"), flags=re.M))
    run(["bash", "-eu", "run.sh"], place)
    declared = re.findall(r'path\("\$\{prefix\}/([^"]+)"\), emit: \w+$', module, re.M)
    assert [name for name in declared if not (place / "a" / name).exists()] == []
    assert (place / "versions.yml").read_text().startswith('"P":\n    virnucpro: 1.')


def test_the_galaxy_tool_names_only_files_that_a_run_writes(tmp_path):
    from xml.etree import ElementTree

    from virnucpro.reporting.outputs import Outputs

    tool = ElementTree.parse(WORKFLOWS / "galaxy" / "virnucpro.xml")
    taken = [data.get("from_work_dir") for data in tool.iter("data")]
    written = {name for name, _ in Outputs(tmp_path).tree()}
    assert {name.removeprefix("out/") for name in taken} <= written


def test_the_conda_recipe_has_the_packages_own_requirements():
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    recipe = (ROOT / "recipes" / "conda" / "meta.yaml").read_text()
    listed = re.search(r"  run:\n(.*?)\ntest:", recipe, re.S)[1]
    found = {line.strip("- ").replace(" ", "") for line in listed.splitlines() if line.strip()}
    renamed = {"torch": "pytorch", "xxhash": "python-xxhash"}
    expected = {re.sub(r"^[\w-]+", lambda m: renamed.get(m[0], m[0]), each) for each in wanted}
    assert found - {"python>=3.10"} == expected
