from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from golden_run import GOLDEN

from virnucpro.errors import ModelError
from virnucpro.models.classifier import ORIGINAL_CLASSES, Classifier
from virnucpro.models.pickles import MOST_OPCODES, RefusedGlobal, check_pickled

ORIGINAL = GOLDEN / "500_model.pth"
STORAGE = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0%sX\3\0\0\0cpuK%ctQ"


def archive(path: Path, content: bytes, members: dict[str, bytes], **options) -> Path:
    """A file as torch.save lays it out, with this table of contents and these storages."""
    with zipfile.ZipFile(path, "w", **options) as opened:
        opened.writestr("archive/data.pkl", content)
        for name, data in members.items():
            opened.writestr(f"archive/{name}", data)
    return path


def tensor(shape: bytes, strides: bytes, values: int = 4) -> bytes:
    """A pickle of one tensor; `shape` and `strides` are opcodes that make tuples."""
    called = b"ctorch._utils\n_rebuild_tensor_v2\n("
    hooks = b"\x89ccollections\nOrderedDict\n)RtR."
    return b"\x80\2" + called + STORAGE % (b"0", values) + b"K\0" + shape + strides + hooks


def test_what_torch_saves_is_let_through(tmp_path):
    check_pickled(ORIGINAL, ORIGINAL_CLASSES)
    check_pickled(GOLDEN / "dnabert_s" / "pytorch_model.bin")
    weight = torch.arange(12.0).reshape(3, 4)
    tables = {
        "state_dict": {"turned": weight.T, "part": weight[1:, 2:], "none": weight[:0]},
        "half": torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16)),
        "epoch": 3,
        "betas": (0.9, [1, 2]),
    }
    for zipped in (True, False):
        torch.save(tables, tmp_path / "x", _use_new_zipfile_serialization=zipped)
        check_pickled(tmp_path / "x")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (tensor(b"M\xff\xff\x85", b"K\0\x85"), "called with wrong values"),  # stride 0
        (tensor(b"K\5\x85", b"K\1\x85"), "called with wrong values"),  # past the end
        (tensor(b"K\4\x85", b"K\1\x85", 99), "storage 0 is not 396 bytes long"),
        (b"\x80\2c__builtin__\nbytearray\n\x8a\5\0\0\0\0\2\x85R.", "builtins.bytearray"),
        (b"\x80\2ctorch\nFloatStorage\nJ\xff\xff\xff\x7f\x85R.", "that torch.save does not use"),
        (b"\x80\2}K\1K\1\x86K\2s.", "neither a text nor a number"),  # a tuple as key
        (b"\x80\2" + b"(" * MOST_OPCODES + b".", "500,000 steps"),
        (b"\x80\2" + b"N\x85" * 1000 + b"r\xff\xff\xff\x7f.", None),  # deep, and a far memo
        (b"\x80\2h\1.", "damaged"),
        (b"\x80\2X\xff\xff\xff\xffabc", "damaged|expected 4294967295"),
        (b"\x80\2", "exhausted"),
        (b"\x80\4\x95\0\0\0\0\0\0\0\0N.", "FRAME is not written"),
        (b"\x80\2]ccollections\nOrderedDict\n)R\x81.", "not part of a classifier"),
    ],
)
def test_other_contents_are_refused_before_they_take_memory(tmp_path, content, says):
    file = archive(tmp_path / "x", content, {"data/0": bytes(16)})
    if says is None:
        check_pickled(file)
        return
    with pytest.raises(ValueError, match=says):
        check_pickled(file)


def test_unknown_names_are_refused_by_name(tmp_path):
    torch.save({"layer": torch.nn.ReLU()}, tmp_path / "x")
    with pytest.raises(RefusedGlobal, match=r"^torch\.nn\.modules\.activation\.ReLU$"):
        check_pickled(tmp_path / "x", ORIGINAL_CLASSES)
    with pytest.raises(RefusedGlobal, match=r"^torch\.nn\.modules\.linear\.Linear$"):
        check_pickled(archive(tmp_path / "y", b"\x80\2ctorch.nn.modules.linear\nLinear\n.", {}))


def test_archives_that_programs_may_read_differently_are_refused(tmp_path):
    content = pickle.dumps({}, 2)
    packed = archive(tmp_path / "a", content, {}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed"):
        check_pickled(packed)
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = archive(tmp_path / "b", content, {"data.pkl": content})
    with pytest.raises(ValueError, match="occurs twice"):
        check_pickled(twice)
    good = archive(tmp_path / "c", content, {"data/0": b"a" * 99}).read_bytes()
    (tmp_path / "d").write_bytes(good.replace(b"a" * 99, b"a" * 50 + b"b" + b"a" * 48))
    with pytest.raises(ValueError, match="data/0 is damaged"):
        check_pickled(tmp_path / "d")
    (tmp_path / "e").write_bytes(good[:4] + good)
    with pytest.raises(ValueError, match=r"other data|not a whole archive"):
        check_pickled(tmp_path / "e")
    huge = struct.pack("<I", 1 << 30)
    (tmp_path / "f").write_bytes(good.replace(struct.pack("<II", 99, 99), huge * 2))
    with pytest.raises(ValueError, match=r"laid out|whole archive"):
        check_pickled(tmp_path / "f")


@pytest.mark.parametrize("zip64", [False, True])
def test_a_huge_list_of_members_is_refused_before_it_is_read(tmp_path, monkeypatch, zip64):
    """Each of its entries would take a kilobyte of memory."""
    path = archive(tmp_path / "a", pickle.dumps({}, 2), {"data/0": b"a" * 99})
    check_pickled(path)
    good, large = path.read_bytes(), 200 << 20
    with open(path, "wb") as file:
        file.write(good[:-22])
        file.truncate(len(good) + large)
        file.seek(0, 2)
        if zip64:
            place = file.tell()
            file.write(struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 9, 9, large, 0))
            file.write(struct.pack("<4sIQI", b"PK\6\7", 0, place, 1))
            large = 0xFFFFFFFF
        file.write(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, large, 0, 0))
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(ValueError, match="list of members is larger than 4 MB"):
        check_pickled(path)


def test_a_flipped_bit_of_a_classifier_is_found(tmp_path):
    content = bytearray(ORIGINAL.read_bytes())
    content[6000] ^= 1  # in the first layer's weights
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ModelError, match=r"x\.pth: .*damaged.*download it again"):
        Classifier.load(tmp_path / "x.pth")
