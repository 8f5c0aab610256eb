"""Thousands of damaged and crafted files of a model and a run, read as the program reads them.

    python tests/helpers/fuzz.py --cases 20000 --seed 1

Every case is either refused in one line that a user can act on, or read as what it says: another
exception, more than 2 GB of memory or 20 seconds are failures. It prints one JSON object.
"""

from __future__ import annotations

import argparse
import io
import json
import pickletools
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS, BYTES = 20, 2 << 30
GOLDEN = Path(__file__).parents[1] / "data" / "golden"
SEQUENCES = [b"ACGTTGCAACGTAGGCTA" * 9, b"GGGTACCATNACG"]
PROTEINS = [b"MKVLAA", b"ACDEFGHIKLMNPQRSTVWY"]


def deep(levels: int) -> Any:
    found: Any = 1
    for _ in range(levels):
        found = [found]
    return found


VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2.5,
    7,
    10**9,
    10**30,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "text",
    "../../x",
    "/etc/passwd",
    "a\0b",
    "\ud800",
    "\x1b[31m",
    "~nobody/x",
    "x" * 5000,
    "NaN",
    [],
    {},
    [[]],
    [1, "a"],
    {"a": {"b": 1}},
    {"type": "Split"},
    deep(30),
    deep(500),
]
TEXTS: list[Callable[[str, random.Random], str]] = [
    lambda text, rng: "[" * rng.choice([10, 2000, 200_000]) + text,
    lambda text, rng: '{"a":' * rng.choice([15, 990, 100_000]) + text,
    lambda text, rng: text[: rng.randrange(len(text))],
    lambda text, rng: text.replace(":", ": " + "9" * rng.choice([20, 400, 5000]), 1),
    lambda text, rng: "\ufeff" + text,
    lambda text, rng: text + text,
    lambda text, rng: "",
    lambda text, rng: text.replace("{", '{"name": 1, ', 1),
    lambda text, rng: f"[{text}]",
]


def changed_bytes(content: bytes, rng: random.Random) -> bytes:
    """A few bytes other, missing, more, or in another place."""
    found = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        at = rng.randrange(len(found)) if found else 0
        kind = rng.randrange(6)
        if kind <= 1 and found:
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            found[at : at + rng.choice([1, 4, 16])] = rng.randbytes(rng.choice([1, 4, 16]))
        elif kind == 3:
            found[at : at + 8] = rng.choice([b"\xff", b"\0"]) * 8
        elif kind == 4:
            del found[at : at + rng.choice([1, 30, 10_000])]
        else:
            found[at:at] = found[at : at + rng.choice([1, 30, 1000])]
    return bytes(found)


def changed_json(content: bytes, rng: random.Random) -> bytes:
    """Some value replaced, dropped, renamed or moved; or the text itself damaged."""
    if rng.random() < 0.15:
        return rng.choice(TEXTS)(content.decode(), rng).encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        return changed_bytes(content, rng)
    table = json.loads(content)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        holder, key = _some_place(table, rng)
        kind = rng.randrange(8)
        if kind == 0 and isinstance(holder, dict):
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[str(rng.choice(VALUES))[:40]] = holder.pop(key)
        elif kind == 2:
            holder[key] = str(holder[key])
        elif kind == 3 and type(holder[key]) in (int, float):
            holder[key] = holder[key] * rng.choice([-1, 2, 1000, 0.5]) + rng.choice([0, 1])
        else:
            holder[key] = json.loads(json.dumps(rng.choice(VALUES)))
    return json.dumps(table).encode()


def _some_place(table: Any, rng: random.Random) -> tuple[Any, Any]:
    """A container in `table` and a key of it; the more likely, the higher it lies."""
    holder = table
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            return {"x": 1}, "x"
        key = rng.choice(keys)
        below = holder[key]
        if not isinstance(below, dict | list) or not below or rng.random() < 0.4:
            return holder, key
        holder = below


@dataclass
class Case:
    """A file to change, and what reading it gives: something equal for equal answers."""

    name: str
    base: Path
    change: Callable[[bytes, random.Random], bytes]
    read: Callable[[Path], Any]
    # whether another answer is what the changed file says; else it has to be that of the base
    honest: Callable[[Path, Any], bool] = lambda path, answer: False
    weight: int = 1
    answer: Any = field(default=None, repr=False)


def repacked(content: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A torch archive whose table of contents is changed, its checksums right."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for member in old.infolist():
            data = old.read(member)
            new.writestr(
                member.filename, change(data) if member.filename.endswith("data.pkl") else data
            )
    return out.getvalue()


BOMBS = [
    b"c__builtin__\nbytearray\n\x8a\x05\0\0\0\0\x04\x85R0",
    b"ctorch\nTensor\nJ\xff\xff\xff\x7fK\x09\x86R0",
    b"ctorch.nn.modules.linear\nLinear\nJ\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86R0",
    b"ctorch.nn.modules.linear\nLinear\nJ\xff\xff\xff\x7f\x85\x81",
    b"ctorch\nFloatStorage\nJ\xff\xff\xff\x7f\x85R0",
    b"K\x01" + b"\x85" * 300_000,
    b"}K\x01" + b"r\0\0\0\0j\0\0\0\0\x86" * 60 + b"K\x01s0",
    b"c__builtin__\nset\n]K\x01" + b"r\0\0\0\0j\0\0\0\0\x86" * 60 + b"a\x85R0",
    b"r\xff\xff\xff\x7f",
    b"X\xff\xff\xff\x7f",
    b"cos\nsystem\nX\x04\0\0\0true\x85R0",
    b"c__builtin__\neval\nX\x01\0\0\x001\x85R0",
    b"(" * 100_000,
    b"\x8a\xff" + b"\x7f" * 255,
]


def changed_pickle(content: bytes, rng: random.Random) -> bytes:
    """The table of contents of a torch archive with other bytes, opcodes or arguments."""

    def change(data: bytes) -> bytes:
        if rng.random() < 0.3:
            return changed_bytes(data, rng)
        places = [place for _, _, place in pickletools.genops(data)]
        at = rng.choice(places[1:-1])
        end = next(place for place in places if place > at)
        kind = rng.randrange(5)
        if kind == 0:
            return data[:at] + rng.choice(BOMBS) + data[at:]
        if kind == 1:  # another number, text or object in its place
            numbers = (b"K\0", b"K\x03", b"J\xff\xff\xff\x7f", b"\x8a\x09" + b"\xff" * 8 + b"\x7f")
            return data[:at] + rng.choice((*numbers, b"N", b")", b"]", b"}", b"\x88")) + data[end:]
        if kind == 2:
            return data[:at] + data[end:]
        if kind == 3:
            return data[:end] + data[at:end] + data[end:]
        other = rng.choice(places[1:-1])
        after = next(place for place in places if place > other)
        return data[:at] + data[other:after] + data[end:]

    return repacked(content, change)


def changed_archive(content: bytes, rng: random.Random) -> bytes:
    """The same members in another archive: packed, twice, missing, renamed, cut, with more."""
    out = io.BytesIO()
    method = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", method) as new:
        members = old.infolist()
        chosen = rng.randrange(len(members))
        kind = rng.randrange(7)
        for i, member in enumerate(members):
            name, data = member.filename, old.read(member)
            if i == chosen and kind == 0:
                continue
            if i == chosen and kind == 1:
                new.writestr(name, data)
            if i == chosen and kind == 2:
                name = rng.choice(["../x", "/etc/x", name.replace("/", "\\"), "other/" + name, "x"])
            if i == chosen and kind == 3:
                data = rng.choice([data[:-1], data + b"\0", b"", bytes(len(data) * 100)])
            new.writestr(name, data)
        if kind == 4:
            new.writestr("500_model/zeros", bytes(50_000_000))
        if kind == 5:
            new.comment = b"PK\5\6" + bytes(30)
    return (b"#!" if kind == 6 else b"") + out.getvalue()


def changed_tensors(save: Callable[[dict, Path], None]) -> Callable[[bytes, random.Random], bytes]:
    """Another file of the golden classifier, with impossible tensors."""
    import torch

    from virnucpro.models.classifier import Classifier

    base = Classifier.load(GOLDEN / "500_model.pth").tensors
    numbers = [float("nan"), float("inf"), -float("inf"), 3e38, -1.0, 1e20, 0.0]
    kinds = [torch.int64, torch.int8, torch.bool, torch.float64, torch.float16, torch.complex64]

    def change(_: bytes, rng: random.Random) -> bytes:
        tensors = {name: tensor.clone() for name, tensor in base.items()}
        name = rng.choice(sorted(tensors))
        tensor = tensors[name]
        kind = rng.randrange(6)
        if kind <= 1:
            tensor.view(-1)[rng.randrange(tensor.numel())] = rng.choice(numbers)
        elif kind == 2:
            tensors[name] = tensor.to(rng.choice(kinds))
        elif kind == 3:
            shapes = [tensor[:-1], tensor[None], tensor.flatten(), tensor[:0], tensor.sum()]
            tensors[name] = rng.choice(shapes).clone()
        elif kind == 4:
            tensors[rng.choice(["other", name + "2", ""])] = tensors.pop(name)
        else:
            tensors[name] = torch.full_like(tensor, rng.choice(numbers))
        with tempfile.NamedTemporaryFile() as file:
            save(tensors, Path(file.name))
            return Path(file.name).read_bytes()

    return change


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from fuzz_readers import cases, prepare_readers

    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        prepare_readers(directory)
        print(json.dumps(run(cases(directory), options.cases, options.seed, directory)))


def run(cases: list[Case], count: int, seed: int, directory: Path) -> dict[str, Any]:
    """Reads `count` changed files, of the kinds by their weights; what came of them."""
    from virnucpro.errors import VirNucProError

    for case in cases:
        case.answer = case.read(case.base)  # the sound file is read, and warms up what is imported
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + BYTES,) * 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    drawn = random.Random(seed).choices(cases, [case.weight for case in cases], k=count)
    told: Counter = Counter()
    failures, slowest = [], (0.0, "")
    for number, case in enumerate(drawn):
        label = f"{case.name}, seed {seed}:{number}"
        rng = random.Random(f"{seed}:{number}")
        path = directory / "case" / case.base.name
        shutil.rmtree(path.parent, ignore_errors=True)
        shutil.copytree(case.base.parent, path.parent)
        path.write_bytes(case.change(case.base.read_bytes(), rng))
        print(label, file=sys.stderr, flush=True)  # the last line, if the process is ended
        signal.alarm(SECONDS)
        start = time.monotonic()
        try:
            answer = case.read(path)
            right = _equal(answer, case.answer) or case.honest(path, answer)
            told[case.name, "read" if right else "wrong"] += 1
            if not right:
                failures.append(f"{label}: read as something else: {str(answer)[:200]}")
        except VirNucProError as error:
            told[case.name, "refused"] += 1
            line = str(error)
            if "\n" in line or not line.isprintable() or "MemoryError" in line or len(line) > 1500:
                failures.append(f"{label}: {line[:300]!r}")
        except BaseException as error:  # some libraries panic with exceptions of their own
            failures.append(f"{label}: {type(error).__name__}: {str(error)[:200]}")
        signal.alarm(0)
        slowest = max(slowest, (round(time.monotonic() - start, 2), label))
    return {
        "cases": count,
        "told": {f"{name} {what}": n for (name, what), n in sorted(told.items())},
        "more_memory_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10,
        "slowest": slowest,
        "failures": failures,
    }


def _equal(a: Any, b: Any) -> bool:
    return bool(a == b)


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main()
