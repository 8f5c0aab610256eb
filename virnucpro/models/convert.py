"""A file of `.bin` weights -> the same tensors as safetensors, neither ever whole in memory.

Eight processes that read an 11 GB pickle each would exhaust a host; a safetensors file is mapped
once for all of them. Knows both formats; does not know architectures.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from virnucpro.errors import ModelError
from virnucpro.files import MODELS, explained, put_in_place, write_json
from virnucpro.models.contents import Add, Log, announced
from virnucpro.models.weights import read_pickled, read_safetensors

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"


def converted_name(name: str) -> str:
    """The name of a file of weights once it is safetensors: `pytorch_model-00001-of-00002.bin` ->
    `model-00001-of-00002.safetensors`.
    """
    if not name.endswith(".bin"):
        return name
    return f"{name.removeprefix('pytorch_').removesuffix('.bin')}.safetensors"


def convert(source: Path, target: Path, log: Log = lambda _: None) -> None:
    """Write the tensors of `source` as `target` and compare them; `source` stays.

    Raises ModelError on a file that holds anything but tensors, and where `target` cannot be
    written.
    """
    size, what = source.stat().st_size, f"{source.name}: converting it to safetensors"
    with announced(what, size, log, _part(target)):
        tensors = _unshared(read_pickled(source))
        write_safetensors(tensors, target)
    with announced(f"{target.name}: comparing it with {source.name}", size, log) as add:
        are_equal = _equal(tensors, target, add)
    if not are_equal:
        target.unlink()
        raise ModelError(f"{target}: other values than were written; is the disk sound? Try again")


def write_safetensors(tensors: dict[str, torch.Tensor], target: Path) -> None:
    """Write contiguous tensors as one file, whole or not at all, with the usual permissions.

    Raises ModelError where it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    part = _part(target)
    try:
        with explained(target, MODELS):
            part.touch()
            mode = part.stat().st_mode  # the library makes its files readable by the owner only
            save_file(tensors, part, metadata={"format": "pt"})
            os.chmod(part, mode)
            put_in_place(part, target)
    except SafetensorError as error:  # how it reports a full disk
        raise ModelError(f"{target}: cannot write ({error}); make room and try again") from None
    finally:
        part.unlink(missing_ok=True)


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def write_index(directory: Path) -> Path | None:
    """The index of a directory's shards `model-*.safetensors`; None where there are none."""
    from safetensors import safe_open

    shards = sorted(directory.glob("model-*.safetensors"))
    if not shards:
        return None
    weight_map: dict[str, str] = {}
    for shard in shards:
        with safe_open(shard, "pt") as opened:
            weight_map |= dict.fromkeys(opened.keys(), shard.name)
    total = sum(shard.stat().st_size for shard in shards)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(directory / INDEX, index, MODELS)
    return directory / INDEX


def _unshared(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous tensors, none of which shares its memory with another: tied ones are copied."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        tensor = tensor.contiguous()
        place = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return result


def _equal(tensors: dict[str, torch.Tensor], file: Path, add: Add) -> bool:
    """Whether `file` holds these tensors, bit for bit; `add` is told of the bytes compared."""
    import torch

    def raw(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.reshape(-1).view(torch.uint8)

    written = read_safetensors(file)
    if written.keys() != tensors.keys():
        return False
    for name, tensor in tensors.items():
        other = written[name]
        if tensor.dtype != other.dtype or tensor.shape != other.shape:
            return False
        if not torch.equal(raw(tensor), raw(other)):
            return False
        add(tensor.nbytes)
    return True
