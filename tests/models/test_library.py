"""`models download` from a played hub and GitHub: what arrives, what is continued, mended, waited
out, and said.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hub_server import COMMIT, NEWEST, Fault, Hub
from original_files import GOLDEN
from played_models import DNABERT_S, ESM2, PTH, SHARDS, download_in_child
from safetensors.torch import load_file

from virnucpro import cli
from virnucpro.errors import ModelError
from virnucpro.files import LEFTOVER
from virnucpro.models import bundle as bundles
from virnucpro.models import contents as contents_module
from virnucpro.models import download as download_module
from virnucpro.models import library
from virnucpro.models.contents import Contents, check_files

ESM2_FOLDER, DNABERT_S_FOLDER = ESM2.replace("/", "--"), DNABERT_S.replace("/", "--")


def download(to: Path | None = None) -> list[str]:
    lines: list[str] = []
    library.download("500", to, lines.append)
    return lines


def tree(directory: Path) -> dict[str, object]:
    """Every file below a directory by its bytes; of checksums.json all but the date."""
    found: dict[str, object] = {}
    for file in sorted(directory.rglob("*")):
        if file.is_file() and file.name != ".lock":
            name = str(file.relative_to(directory))
            found[name] = file.read_bytes()
            if file.name == "checksums.json":
                found[name] = json.loads(file.read_text()) | {"date": None}
    return found


def test_download_makes_a_bundle_that_loads(hub: Hub, home: Path, monkeypatch):
    monkeypatch.setattr(contents_module, "LARGE", 1_000_000)  # what is announced
    lines = download()
    bundle = bundles.Bundle.load(home / "500")
    assert bundle.chunk_length == 500 and bundles.installed("500")
    assert bundle.directories["esm2"] == home / "500" / ".." / ESM2_FOLDER
    assert bundle.sources["esm2"] == f"{ESM2}@{COMMIT}"
    # weights are safetensors now, and the same values
    assert not [p for kind in ("bin", "pth", "h5", "part") for p in home.rglob(f"*.{kind}")]
    original = load_file(GOLDEN / "esm2" / "model.safetensors")
    shards = [load_file(file) for file in sorted(bundle.directories["esm2"].glob("*.safetensors"))]
    assert len(shards) == 2
    merged = {name: tensor for shard in shards for name, tensor in shard.items()}
    assert merged.keys() == original.keys()
    assert all(torch.equal(merged[name], original[name]) for name in merged)
    for directory in (bundle.directories["esm2"], bundle.directories["dnabert_s"], home / "500"):
        assert check_files(directory) == []
    # what comes and what it takes of disk is said first
    assert "to fetch" in lines[0] and "more of disk" in lines[0]
    # then every stage of a large file
    stages = [line for line in lines if "00001-of" in line]
    for said, line in zip(("checking", "converting", "comparing", "sha256"), stages, strict=True):
        assert said in line and "(0.00 GB)" in line


def test_a_second_download_fetches_nothing_and_leaves_no_orphans(hub: Hub, home: Path):
    download()
    before = tree(home)
    (home / ".500.old").mkdir()  # of calls that were killed between two renames
    (home / "500" / f"{LEFTOVER}0").touch()
    hub.requests.clear()
    download()
    assert hub.requests == [] and tree(home) == before and not (home / ".500.old").exists()


def test_the_command_prints_the_place_and_ends_with_one_line(hub: Hub, home: Path, capfd):
    assert cli.run(["models", "download", "500"]) == 0
    said = capfd.readouterr()
    assert said.out == f"{home / '500'}\n" and "to fetch" in said.err
    (home / DNABERT_S_FOLDER / "tokenizer.json").unlink()
    hub.faults[COMMIT] = [Fault(status=401)]
    assert cli.run(["models", "download", "500"]) == 1
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "error:" in line]
    assert line.startswith("virnucpro: error: models download 500: 127.0.0.1") and "401" in line


def test_the_token_goes_to_the_hub_alone(hub: Hub, home: Path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    hub.private = True
    download()
    with_token = {request.path.split("/")[1] for request in hub.requests if request.token}
    without = {request.path.split("/")[1] for request in hub.requests if not request.token}
    assert with_token == {"api", "facebook", "zhihan1996"} and without == {"cdn", "raw"}


def test_files_obey_the_umask(hub: Hub, home: Path):
    old = os.umask(0o002)
    try:
        download()
    finally:
        os.umask(old)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in home.rglob("*") if file.is_file()}
    assert modes == {0o664}


def test_two_downloads_at_once_fetch_once(hub: Hub, home: Path):
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: download(), range(2)))
    assert len(hub.asked("500_model.pth")) == len(hub.asked(SHARDS[0])) == 1


@pytest.mark.parametrize("name", [SHARDS[0], "500_model.pth", "tokenizer.json"])
@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=503),
        Fault(status=429, headers={"Retry-After": "0"}),
        Fault(cut=5000),
        Fault(cut=5000, chunked=True),
        Fault(cut=0),
    ],
)
def test_a_passing_fault_is_waited_out(hub: Hub, home: Path, name: str, fault: Fault):
    hub.faults[name] = [fault, fault]
    download()
    assert bundles.installed("500") and hub.faults[name] == []
    if fault.cut and name == SHARDS[0]:  # continued where it stopped, twice
        assert hub.asked(name) == [None, "bytes=5000-", "bytes=10000-"]


@pytest.mark.parametrize("fault", [Fault(status=502), Fault(cut=100, chunked=True)])
def test_a_passing_fault_of_the_listing_is_waited_out(hub: Hub, home: Path, fault: Fault):
    hub.faults[COMMIT] = [fault]
    download()
    assert bundles.installed("500")


def test_a_server_that_falls_silent_is_asked_again(hub: Hub, home: Path, monkeypatch):
    monkeypatch.setattr(download_module, "TIMEOUT", 0.2)
    hub.faults[SHARDS[0]] = [Fault(stall=0.6)]
    lines = download()
    assert any("timed out; trying again" in line for line in lines)


def test_a_server_says_how_long_to_wait(hub: Hub, home: Path):
    hub.faults[SHARDS[0]] = [Fault(status=429, headers={"Retry-After": "1"})]
    start = time.monotonic()
    lines = download()
    assert time.monotonic() - start >= 1
    assert any("429" in line and "trying again in 1 s" in line for line in lines)


def test_what_a_failed_call_brought_is_counted_and_continued(hub: Hub, home: Path, monkeypatch):
    hub.faults[SHARDS[0]] = [Fault(cut=600_000), Fault(status=404)]
    with pytest.raises(ModelError, match="404"):
        download()
    lines = download()
    whole = (hub.repositories[ESM2] / SHARDS[0]).stat().st_size
    rest = sum(f.stat().st_size for f in hub.repositories[ESM2].glob("*00002.bin"))
    assert hub.asked(SHARDS[0])[-1] == "bytes=600000-"
    assert f"{(whole + rest - 600_000) / 1e9:.2f} GB to fetch" in lines[0]


@pytest.mark.parametrize(
    "name", ["model-00001-of-00002.safetensors", "vocab.txt", "model.safetensors.index.json"]
)
@pytest.mark.parametrize("damage", ["flip", "remove", "cut"])
def test_damage_is_mended_and_nothing_else_fetched(hub: Hub, home: Path, name: str, damage: str):
    download()
    before, file = tree(home), home / ESM2_FOLDER / name
    data = file.read_bytes()
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(data[:-1] if damage == "cut" else data[:-1] + bytes([data[-1] ^ 1]))
    hub.requests.clear()
    download()
    assert tree(home) == before
    fetched = {r.path.rsplit("/", 1)[1] for r in hub.requests} - {COMMIT}
    assert fetched == {SHARDS[0] if "00001" in name else name} - {"model.safetensors.index.json"}


def test_a_damaged_bundle_is_listed_beside_the_others_and_mended(hub: Hub, home: Path, capfd):
    download()
    for name in ("broken", "sound\x1b[31m"):
        shutil.copytree(home / "500", home / name)
    (home / "broken" / "bundle.json").write_text('{"name": 7}')
    (home / "500" / "bundle.json").write_text("{")
    download()
    assert cli.run(["models", "list"]) == 0
    lines = {line.split()[0]: line for line in capfd.readouterr().out.splitlines()}
    assert {name: line.split()[1] for name, line in lines.items() if name != "model"} == {
        "500": "installed",
        "300": "not",
        "mini": "installed",
        "broken": "broken",
        r"sound\x1b[31m": "installed",
    }
    assert "bundle.json: lacks chunk_length" in lines["broken"]
    assert cli.run(["doctor"]) in (0, 1)
    (line,) = [line for line in capfd.readouterr().out.splitlines() if "broken" in line]
    assert "bundle.json: lacks chunk_length" in line


def test_a_damaged_classifier_is_mended(hub: Hub, home: Path):
    download()
    before, file = tree(home), home / "500" / "classifier.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    download()
    assert tree(home) == before


def test_damage_stays_where_the_network_is_gone(hub: Hub, home: Path, monkeypatch):
    download()
    (home / ESM2_FOLDER / "vocab.txt").write_text("x")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"127\.0\.0\.1:9"):
        download()
    assert (home / ESM2_FOLDER / "config.json").is_file()


def test_the_next_address_is_taken(hub: Hub, home: Path):
    del hub.files["raw/500_model.pth"]
    hub.files["api/500_model.pth"] = PTH[:-1] + b"x"
    download()
    assert [r.path for r in hub.requests if r.path.endswith(".pth")] == [
        "/raw/500_model.pth",
        "/api/500_model.pth",
        "/mirror/500_model.pth",
    ]


def test_other_content_is_refused(hub: Hub, home: Path):
    for place in hub.files:
        hub.files[place] = PTH[:-1] + b"x"
    hub.faults["pytorch_model.bin"] = [Fault(flip=True)]
    with pytest.raises(ModelError, match=r"pytorch_model\.bin has another content"):
        download()
    assert not (home / DNABERT_S_FOLDER).exists()
    with pytest.raises(ModelError, match=r"500_model\.pth has another content"):
        download()
    assert not (home / "500").exists() and not list(home.rglob("*.pth*"))


def test_a_revision_that_is_gone_is_replaced_by_the_newest_with_a_warning(hub: Hub, home: Path):
    hub.commit = NEWEST
    lines = download()
    assert [line for line in lines if line.startswith("warning") and ESM2 in line]
    assert Contents.read(home / ESM2_FOLDER).origin == f"{ESM2}@{NEWEST}"


def test_other_weights_at_the_pinned_revision_are_refused(hub: Hub, home: Path):
    file = hub.repositories[DNABERT_S] / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError, match="not the published file"):
        download()


def test_to_a_directory_that_can_be_moved(hub: Hub, home: Path, tmp_path: Path):
    download(tmp_path / "stick")
    (tmp_path / "stick").rename(tmp_path / "elsewhere")
    assert bundles.Bundle.load(tmp_path / "elsewhere" / "500").directories["dnabert_s"].is_dir()
    assert not home.exists()


def test_the_models_directory_may_be_a_link(hub: Hub, home: Path, tmp_path: Path):
    (tmp_path / "large_disk").mkdir()
    home.symlink_to(tmp_path / "large_disk")
    download()
    assert bundles.installed("500")


def causes(monkeypatch, hub: Hub, cause: str) -> None:
    if cause == "token":
        monkeypatch.setenv("HF_TOKEN", "hf_old")
    elif cause == "private":
        hub.private = True
    elif cause == "nowhere":
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    elif cause == "proxy":
        monkeypatch.setenv("HTTP_PROXY", "http://me:secret@127.0.0.1:9")
        monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    elif cause == "offline":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    elif cause == "bad address":
        monkeypatch.setenv("HF_ENDPOINT", "hub.example")
    elif cause == "page":
        hub.faults[COMMIT] = [Fault(cut=10, chunked=False, status=200)]


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        ("token", "401 Unauthorized (the token is not accepted: renew or unset HF_TOKEN"),
        ("private", "401 Unauthorized (no such repository, or one that needs a token"),
        ("nowhere", "127.0.0.1:9: Connection refused"),
        ("proxy", "Connection refused (through the proxy 127.0.0.1; see HTTP_PROXY)"),
        ("offline", "HF_HUB_OFFLINE is set"),
        ("bad address", "is HF_ENDPOINT right"),
        ("page", "is HF_ENDPOINT right, or a log-in page in between"),
    ],
)
def test_the_cause_comes_first_and_only_what_is_missing_is_named(
    hub: Hub, home: Path, monkeypatch, cause: str, said: str
):
    download()
    (home / DNABERT_S_FOLDER).rename(home / "away")
    causes(monkeypatch, hub, cause)
    with pytest.raises(ModelError) as raised:
        download()
    text = str(raised.value)
    assert said in text and "secret" not in text
    assert text.index(said[:20]) < text.index("or bring")
    assert DNABERT_S in text and "models import" in text and str(home) in text
    assert ESM2 not in text and "500_model.pth" not in text


def test_a_full_disk_ends_it_at_once(hub: Hub, home: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, hard))
    try:
        with pytest.raises(ModelError, match=r"00001-of-00002\.bin.*\(file too large\)"):
            download()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert hub.asked(SHARDS[0]) == [None]
    download()
    assert hub.asked(SHARDS[0]) == [None, "bytes=600000-"]


def test_a_full_disk_is_said_before(hub: Hub, home: Path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    with pytest.raises(ModelError, match=r"0\.00 GB free, facebook.* needs 0\.00 more"):
        download()


@pytest.fixture(scope="module")
def children() -> multiprocessing.context.BaseContext:
    """Processes that start in no time, and may be killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "virnucpro.models.importing"])
    return context


def test_killed_at_random_and_repeated_it_is_the_same(hub: Hub, home: Path, children):
    """Seven kills in the middle of whatever it does, then to the end: equal bytes, no orphans."""
    download()
    whole = tree(home)
    moments = random.Random(1)
    place = home.parent / "killed"
    hub.pause = 0.001
    arguments = (home.parent / "hub", hub.address, place)
    for _ in range(7):
        begun = len(hub.requests)
        process = children.Process(target=download_in_child, args=arguments)
        process.start()
        while len(hub.requests) == begun and process.is_alive():
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.4))
        process.kill()
        process.join()
    process = children.Process(target=download_in_child, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert tree(place) == whole
    assert {path.name for path in place.iterdir()} == {path.name for path in home.iterdir()}


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that other users can read."""
    directory = Path(tempfile.mkdtemp(prefix="virnucpro-shared-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users")
def test_two_users_share_a_models_directory(hub: Hub, children, shared: Path):
    """One fills it; another uses it, cannot harm it, and is told in a line what he cannot do."""

    def as_user(user: int) -> str:
        said = children.SimpleQueue()
        arguments = (home.parent / "hub", hub.address, home, user, said)
        process = children.Process(target=download_in_child, args=arguments)
        process.start()
        process.join(60)
        assert process.exitcode == 0
        return said.get()

    home = shared / "models"
    first, second = 65533, 65534
    home.mkdir()
    os.chown(home, first, first)
    shutil.copytree(next(iter(hub.repositories.values())).parent, shared / "hub")
    assert as_user(first) == ""
    whole, asked = tree(home), len(hub.requests)
    assert as_user(second) == ""
    assert len(hub.requests) == asked * 3 / 2  # for his own alone: these were read and found whole
    file = home / ESM2_FOLDER / "vocab.txt"
    file.write_text("damaged")
    assert "(permission denied)" in as_user(second) and file.read_text() == "damaged"
    assert as_user(first) == ""
    assert tree(home) == whole
