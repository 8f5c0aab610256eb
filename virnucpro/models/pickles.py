"""What loading a file of weights would do, read from its opcodes before anything is loaded.

torch's restricted unpickler executes no foreign code, but the calls that it allows can take all
memory (an array of any declared size) or never end (a key nested a million times). Here a pickle is
walked as data and nothing is built: only what `torch.save` writes for tables of tensors and for the
original's classifier is let through. Knows pickle and torch's two file formats.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LARGEST_PICKLE = 8 << 20  # bytes; that of ESM-2 3B has some 100,000
LARGEST_DIRECTORY = 4 << 20  # bytes of an archive's list of members; ESM-2 3B's has some 60,000
MOST_OPCODES = 500_000
MOST_DIMENSIONS = 8
LARGEST_CHECKED = 256 << 20  # bytes of a file whose checksums are compared
ORDERED_DICT, SET = "collections.OrderedDict", "builtins.set"
TENSOR, PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
SIZES = ((8, "Double Long"), (4, "Float Int"), (2, "Half BFloat16 Short"), (1, "Char Byte Bool"))
BYTES = {f"torch.{kind}Storage": size for size, kinds in SIZES for kind in kinds.split()}
CALLS = {ORDERED_DICT: "ordered", SET: "set", TENSOR: "tensor", PARAMETER: "tensor"}


class RefusedGlobal(ValueError):
    """The pickle names something that weights do not need; the message is that name."""


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function that a pickle names."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """The bytes of a tensor, in another file of the archive."""

    key: str
    values: int
    bytes: int


@dataclass(slots=True)
class Made:
    """An object that loading would make; plain: a list of numbers and texts only."""

    kind: str  # list, dict, ordered, set, tensor or module
    plain: bool = True


def check_pickled(file: Path, classes: Collection[str] = ()) -> None:
    """Raise ValueError, saying why, unless `torch.load` can make nothing of `file` but tables of
    tensors and objects of `classes`, in memory and time in proportion to the file.

    Raises RefusedGlobal where the file names anything else, OSError where it cannot be read.
    """
    with file.open("rb") as opened:
        zipped = opened.read(4) == b"PK\3\4"
    _check_zipped(file, classes) if zipped else _check_plain(file, classes)


def _check_zipped(file: Path, classes: Collection[str]) -> None:
    """The format of torch 1.6 and later: a zip of one pickle and a member for each storage, none
    of them compressed.
    """
    _check_directory(file)
    try:
        with zipfile.ZipFile(file) as archive:
            sizes = _member_sizes(archive, file.stat().st_size)
            name = next((name for name in sizes if name.endswith("/data.pkl")), None)
            if name is None or name.count("/") != 1:
                raise ValueError("it has no data.pkl")
            if sizes[name] > LARGEST_PICKLE:
                raise ValueError(f"its table of contents is larger than {LARGEST_PICKLE >> 20} MB")
            if file.stat().st_size <= LARGEST_CHECKED:
                damaged = archive.testzip()
                if damaged is not None:
                    raise ValueError(f"{damaged} is damaged: its checksum is another")
            storages = PickleCheck(archive.read(name), classes).storages()
    except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"not a whole archive: {error}") from None
    folder = name.removesuffix("data.pkl")
    for storage in storages:
        if sizes.get(f"{folder}data/{storage.key}") != storage.bytes:
            raise ValueError(f"storage {storage.key} is not {storage.bytes} bytes long")


def _check_directory(file: Path) -> None:
    """Raise ValueError where the list of members, which is read whole, is large, or not at the end
    of the file.
    """
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - 98))
        end = opened.read(98)
    large, locator, record = end[:-42], end[-42:-22], end[-22:]
    if record[:4] != b"PK\5\6":
        raise ValueError("not a whole archive: it does not end as one")
    size = int.from_bytes(record[12:16], "little")
    if locator[:4] == b"PK\6\7":  # which programs take instead
        if large[:4] != b"PK\6\6":
            raise ValueError("not a whole archive: its end is damaged")
        size = int.from_bytes(large[40:48], "little")
    if size > LARGEST_DIRECTORY:
        raise ValueError(f"its list of members is larger than {LARGEST_DIRECTORY >> 20} MB")


def _member_sizes(archive: zipfile.ZipFile, size: int) -> dict[str, int]:
    """Name -> bytes of the members, once it is certain that all programs find the same ones."""
    members = archive.infolist()
    sizes = {member.filename: member.file_size for member in members}
    if len(sizes) < len(members):
        raise ValueError("a member occurs twice")
    if any(
        m.compress_type != zipfile.ZIP_STORED or m.file_size != m.compress_size for m in members
    ):
        raise ValueError("it is compressed; torch.save writes no such files")
    if not members or min(m.header_offset for m in members) != 0 or archive.comment:
        raise ValueError("it holds other data beside the archive")
    if sum(sizes.values()) > size or len({name.partition("/")[0] for name in sizes}) > 1:
        raise ValueError("it is not laid out as torch.save does it")
    return sizes


def _check_plain(file: Path, classes: Collection[str]) -> None:
    """The format before: pickles of a magic number, a version, the system, the content and the
    storages' keys, then the storages, each after its length in 8 bytes.
    """
    with file.open("rb") as opened:
        stream = io.BytesIO(opened.read(LARGEST_PICKLE))
    for _ in range(3):
        PickleCheck(stream, ()).storages()
    storages = PickleCheck(stream, classes).storages()
    PickleCheck(stream, ()).storages()
    left = file.stat().st_size - stream.tell()
    if left != sum(storage.bytes + 8 for storage in storages):
        raise ValueError("its storages are not as long as it says")


class PickleCheck:
    """Walks one pickle with a stack of values, as an unpickler does, and builds nothing."""

    def __init__(self, source: bytes | io.BytesIO, classes: Collection[str]):
        self._source, self._classes = source, classes
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self._storages: dict[str, Storage] = {}

    def storages(self) -> list[Storage]:
        """The storages that the pickle refers to. Raises ValueError where it does anything else
        than `torch.save`.
        """
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(self._source)):
                if count >= MOST_OPCODES:
                    raise ValueError(f"its table of contents has over {MOST_OPCODES:,} steps")
                step = STEPS.get(opcode.name)
                if step is None:
                    raise ValueError(f"{opcode.name} is not written by torch.save")
                step(self, argument)
        except (IndexError, KeyError, OverflowError, UnicodeDecodeError, AttributeError) as error:
            raise ValueError(f"its table of contents is damaged ({type(error).__name__})") from None
        return list(self._storages.values())

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self._stack.append(value)

    def memorize(self, place: int) -> None:
        """Remember the value on top of the stack."""
        self.memo[place] = self._stack[-1]

    def refer(self, name: str) -> None:
        """GLOBAL: `name` is the module, a blank and the name in it."""
        full = name.replace(" ", ".").replace("__builtin__.", "builtins.")
        if full not in CALLS and full not in BYTES and full not in self._classes:
            raise RefusedGlobal(full[:100] if full.isprintable() else ascii(full)[:100])
        self.push(Global(full))

    def mark(self, _: None) -> None:
        """MARK: a new stack above the present one."""
        self._marks.append(self._stack)
        self._stack = []

    def since_mark(self) -> list[Any]:
        """The values above the last mark, which is removed."""
        items, self._stack = self._stack, self._marks.pop()
        return items

    def take(self, count: int) -> tuple[Any, ...]:
        """The last `count` values of the stack, removed."""
        if count > len(self._stack):
            raise IndexError
        taken = tuple(self._stack[-count:])
        del self._stack[-count:]
        return taken

    def top(self, *kinds: str) -> Made:
        """The last value, which has to be an object of one of `kinds`."""
        value = self._stack[-1]
        if not isinstance(value, Made) or value.kind not in kinds:
            raise ValueError("something that is not a table is changed")
        return value

    def append(self, items: tuple[Any, ...] | list[Any]) -> None:
        """Add items to the list on top."""
        found = self.top("list")
        found.plain &= all(isinstance(item, str | int | float | None) for item in items)

    def set_items(self, items: tuple[Any, ...] | list[Any]) -> None:
        """Add keys and values, in turns, to the table on top. Errors: ValueError."""
        self.top("dict", "ordered")
        if len(items) % 2 or not all(isinstance(key, str | int) for key in items[::2]):
            raise ValueError("a table has a key that is neither a text nor a number")

    def build(self, _: None) -> None:
        """BUILD: give the object below the top its state. Errors: ValueError."""
        (state,) = self.take(1)
        self.top("module", "ordered")
        if not isinstance(state, Made) or state.kind != "dict":
            raise ValueError("an object is built from something other than a table")

    def make(self, _: None) -> None:
        """NEWOBJ"""
        made, arguments = self.take(2)
        if not isinstance(made, Global) or made.name not in self._classes or arguments != ():
            raise ValueError("an object is made that is not part of a classifier")
        self.push(Made("module"))

    def call(self, _: None) -> None:
        """REDUCE"""
        called, arguments = self.take(2)
        name = called.name if isinstance(called, Global) else ""
        if not isinstance(arguments, tuple) or name not in CALLS:
            raise ValueError("it calls a function that torch.save does not use")
        if name in (ORDERED_DICT, SET):
            fits = arguments == (() if name == ORDERED_DICT else (Made("list"),))
        else:
            fits = _is_tensor_of(name, arguments)
        if not fits:
            raise ValueError(f"{name.rpartition('.')[2]} is called with wrong values")
        self.push(Made(CALLS[name]))

    def refer_to_storage(self, _: None) -> None:
        """BINPERSID: ("storage", type, key, location, number of values), then None in old files."""
        (name,) = self.take(1)
        if not isinstance(name, tuple) or len(name) not in (5, 6) or name[5:] not in ((), (None,)):
            raise ValueError("it refers to something other than a storage")
        what, kind, key, location, values = name[:5]
        texts = isinstance(what, str) and isinstance(key, str) and isinstance(location, str)
        size = BYTES.get(kind.name) if isinstance(kind, Global) else None
        if not texts or what != "storage" or size is None or not _is_count(values):
            raise ValueError("it refers to a storage of no known kind")
        storage = Storage(key, values, values * size)
        if self._storages.setdefault(key, storage) != storage:
            raise ValueError(f"storage {key[:20]} has two sizes")
        self.push(storage)


def _is_tensor_of(name: str, arguments: tuple[Any, ...]) -> bool:
    if name == PARAMETER and len(arguments) == 3:
        return bool(arguments[0] == Made("tensor"))
    return name == TENSOR and _is_within_storage(arguments)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < 1 << 48


def _is_within_storage(arguments: tuple[Any, ...]) -> bool:
    """Whether these are (storage, offset, shape, strides, requires_grad, hooks) of a tensor that
    has no more values than its storage, all of them inside.
    """
    if len(arguments) != 6:
        return False
    storage, offset, shape, strides, requires_grad, _ = arguments
    kinds = zip(
        (storage, requires_grad, shape, strides), (Storage, bool, tuple, tuple), strict=True
    )
    if not all(isinstance(value, kind) for value, kind in kinds):
        return False
    if not len(shape) == len(strides) <= MOST_DIMENSIONS:
        return False
    if not all(_is_count(number) for number in (offset, *shape, *strides)):
        return False
    if 0 in shape:
        return offset <= storage.values
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    return math.prod(shape) <= storage.values and last < storage.values


STEPS: dict[str, Callable[[PickleCheck, Any], object]] = {
    "PROTO": lambda _check, _number: None,
    "STOP": lambda check, _: check.take(1),
    "GLOBAL": PickleCheck.refer,
    "MARK": PickleCheck.mark,
    "NEWOBJ": PickleCheck.make,
    "REDUCE": PickleCheck.call,
    "BUILD": PickleCheck.build,
    "BINPERSID": PickleCheck.refer_to_storage,
    "EMPTY_LIST": lambda check, _: check.push(Made("list")),
    "EMPTY_DICT": lambda check, _: check.push(Made("dict")),
    "TUPLE": lambda check, _: check.push(tuple(check.since_mark())),
    "TUPLE1": lambda check, _: check.push(check.take(1)),
    "TUPLE2": lambda check, _: check.push(check.take(2)),
    "TUPLE3": lambda check, _: check.push(check.take(3)),
    "APPEND": lambda check, _: check.append(check.take(1)),
    "APPENDS": lambda check, _: check.append(check.since_mark()),
    "SETITEM": lambda check, _: check.set_items(check.take(2)),
    "SETITEMS": lambda check, _: check.set_items(check.since_mark()),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda check, place: check.push(check.memo[place])),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), PickleCheck.memorize),
    **dict.fromkeys(("NONE", "BININT", "BININT1", "BININT2", "BINFLOAT"), PickleCheck.push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINSTRING", "LONG1"), PickleCheck.push),
    "NEWTRUE": lambda check, _: check.push(True),
    "NEWFALSE": lambda check, _: check.push(False),
    "EMPTY_TUPLE": lambda check, _: check.push(()),
}
