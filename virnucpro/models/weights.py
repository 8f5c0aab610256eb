"""A model's files -> its tables of JSON and its named tensors, checked before they are believed and
without executing anything found in them.

Knows file names, shards and prefixes of published checkpoints; does not know what the tensors are
for. Tensors are memory mapped: nothing is read until it is used. torch is loaded only when weights
are.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from virnucpro.errors import ModelError, limit_behind
from virnucpro.files import is_plain_name, open_regular
from virnucpro.models.pickles import RefusedGlobal, check_pickled

if TYPE_CHECKING:
    import torch

WEIGHT_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
ADVICE = "take it from the model's source again"
LARGEST_JSON = 16 << 20  # bytes; a tokenizer of 4,096 tokens has 200,000
DEEPEST_JSON = 20
LARGEST_HEADER = 8 << 20  # bytes of a safetensors header; ESM-2 3B's has some 60,000
FLOATS = ("torch.float16", "torch.bfloat16", "torch.float32", "torch.float64")


def read_table(file: Path, advice: str, most: int = LARGEST_JSON) -> dict[str, Any]:
    """The object in a JSON file of a model. Raises ModelError, its line ending in `advice`, where
    the file is absent, larger than `most` bytes, nested too deeply, or holds anything else.
    """
    try:
        with open(open_regular(file), "rb") as opened:
            content = opened.read(most + 1)
        if len(content) > most:
            raise ValueError(f"larger than {most:,} bytes")
        table = json.loads(content, parse_constant=_no_number)
    except RecursionError:
        raise ModelError(f"{file}: not readable as JSON (nested too deeply); {advice}") from None
    except OSError as error:
        reason = error.strerror or "unreadable"
        raise ModelError(f"{file}: {reason[:1].lower()}{reason[1:]}; {advice}") from None
    except ValueError as error:
        raise ModelError(f"{file}: not readable as JSON ({error}); {advice}") from None
    if not isinstance(table, dict):
        raise ModelError(f"{file}: not a table of fields; {advice}")
    if not _is_flat(table):
        raise ModelError(f"{file}: nested more than {DEEPEST_JSON} deep; {advice}")
    return table


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def _is_flat(table: Any) -> bool:
    """Whether no value lies deeper than DEEPEST_JSON."""
    level = [table]
    for _ in range(DEEPEST_JSON):
        values = [v.values() if isinstance(v, dict) else v for v in level]
        level = [v for several in values for v in several if isinstance(v, dict | list)]
    return not level


def weight_files(path: Path) -> tuple[Path, ...]:
    """The files that hold the weights at `path`: a file itself, or a model directory's, shards in
    order.
    """
    path = Path(path)
    if path.is_file():
        return (path,)
    if not path.is_dir():
        raise ModelError(
            f"{path}: no such model directory or file; name one, or a hub id (owner/name)"
        )
    found = next((path / name for name in WEIGHT_NAMES if (path / name).is_file()), None)
    if found is None:
        raise ModelError(
            f"{path}: no weights there; put model.safetensors (or its shards with "
            "model.safetensors.index.json) or pytorch_model.bin into it"
        )
    if found.suffix != ".json":
        return (found,)
    shards = sorted(set(read_index(found).values()))
    if not all(map(is_plain_name, shards)):
        raise ModelError(f"{found}: names shards outside its directory; download it again")
    missing = [shard for shard in shards if not (path / shard).is_file()]
    if missing:
        raise ModelError(
            f"{path}: weights incomplete, missing {', '.join(missing)}; download them into it"
        )
    return tuple(path / shard for shard in shards)


def read_index(file: Path) -> dict[str, str]:
    """Name of each tensor -> name of the shard that holds it."""
    advice = "download it again"
    found = read_table(file, advice).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise ModelError(f"{file}: no index of weight shards; {advice}")
    if not all(isinstance(shard, str) and shard for shard in found.values()):
        raise ModelError(f"{file}: a shard's name is not a text; {advice}")
    return found


def read_state_dict(path: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """Named CPU tensors of a file or model directory; `prefix` is cut off where every name but a
    head's carries it. Raises ModelError where files disagree on what they hold.
    """
    tensors: dict[str, torch.Tensor] = {}
    files = weight_files(path)
    for file in files:
        found = read_safetensors(file) if file.suffix == ".safetensors" else read_pickled(file)
        twice = next((name for name in found if name in tensors), None)
        if twice is not None:
            raise ModelError(f"{file}: holds {twice}, as another shard does; download them again")
        tensors |= found
    if len(files) > 1:
        _check_index(path, files[0].suffix, tensors)
    if prefix and any(name.startswith(prefix) for name in tensors):
        short = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        if len(short) < len(tensors):
            raise ModelError(f"{path}: holds some weights twice, with and without {prefix}")
        return short
    return tensors


def _check_index(directory: Path, suffix: str, tensors: Collection[str]) -> None:
    index = directory / next(name for name in WEIGHT_NAMES if name.endswith(f"{suffix}.index.json"))
    different = set(read_index(index)).symmetric_difference(tensors)
    if different:
        raise ModelError(
            f"{index}: {len(different)} weights are not where it says ({min(different)} ...);"
            " download the shards and their index again"
        )


def read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file, memory-mapped. Raises ModelError."""
    import safetensors

    again = "download it again"
    try:
        with file.open("rb") as opened:
            if int.from_bytes(opened.read(8), "little") > LARGEST_HEADER:
                raise ModelError(f"{file}: not a safetensors file (header too long); {again}")
        with safetensors.safe_open(file, "pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no iterator)
    except (safetensors.SafetensorError, OSError) as error:
        _check_limit(file, error)
        raise ModelError(f"{file}: not a complete safetensors file ({error}); {again}") from None
    except (ValueError, TypeError, AttributeError, RuntimeError, KeyError, MemoryError) as error:
        _check_limit(file, error)
        reason = f"{type(error).__name__}: {error}"
        raise ModelError(f"{file}: not a usable safetensors file ({reason}); {again}") from None


def read_pickled(file: Path) -> dict[str, torch.Tensor]:
    """A `.bin`, `.pt` or `.pth` of tensors alone: anything else in it is refused, not executed."""
    loaded = load_checked(file)
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    import torch

    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in loaded.items()
    ):
        raise ModelError(f"{file}: holds no plain table of weights; convert it to safetensors")
    return dict(loaded)


def load_checked(file: Path, classes: dict[str, type] | None = None) -> Any:
    """What is in a file of `torch.save`, once its content is known to be tables of tensors, and
    objects of `classes` (by the name in the file), in no more memory than the file takes.
    """
    classes = classes or {}
    try:
        check_pickled(file, classes)
    except RefusedGlobal as refused:
        raise _refused(file, str(refused)) from None
    except OSError as error:
        raise ModelError(f"{file}: {error.strerror}; name a file of weights") from None
    except (ValueError, MemoryError) as error:
        _check_limit(file, error)
        raise ModelError(
            f"{file}: not a readable weights file ({error}); download it again"
        ) from None
    return load_restricted(file, tuple((kind, name) for name, kind in classes.items()))


def _check_limit(file: Path, error: Exception) -> None:
    """Raise ModelError where the machine and not the file is why it cannot be read."""
    if limit := limit_behind(error):
        raise ModelError(f"{file}: cannot be read: {limit}") from None


def _refused(file: Path, name: str) -> ModelError:
    return ModelError(
        f"{file}: refused, it would run {name} when loaded; weights hold tensors only: get the file"
        " from its source again, or convert it to safetensors"
    )


def load_restricted(file: Path, safe_globals: tuple = ()) -> Any:
    """`torch.load(weights_only=True)` with `safe_globals` beside plain tensors; user errors in one
    line.
    """
    import torch

    try:
        with torch.serialization.safe_globals(list(safe_globals)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd pickles, which are refused below in our words
            try:
                return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:  # files older than the zip format cannot be memory mapped
                return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"{file}: no such file") from None
    except Exception as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named:
            raise _refused(file, named[1]) from None
        _check_limit(file, error)
        raise ModelError(
            f"{file}: not a readable weights file ({type(error).__name__}); download it again"
        ) from None


@contextmanager
def without_values() -> Iterator[None]:
    """Modules made inside lie on the meta device, and no first values are drawn for them.

    accelerate's `init_empty_weights` draws them on the meta device, for which torch imports its
    compiler: 1.0 s of CPU and 73 MB for a module of 36 layers, here 0.0 s (torch 2.13,
    accelerate 1.15).
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Undrawn(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            kwargs = kwargs or {}
            if getattr(func, "__module__", None) == "torch.nn.init":
                return kwargs["tensor"] if "tensor" in kwargs else args[0]
            return func(*args, **kwargs)

    with torch.device("meta"), Undrawn():
        yield
