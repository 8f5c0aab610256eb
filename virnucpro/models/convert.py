"""`.bin` weights -> safetensors, once, a tensor at a time: neither file is ever in memory as a
whole.

Eight processes that read an 11 GB pickle each would exhaust a host; a safetensors file is mapped
once for all of them. Knows both formats; does not know architectures.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from virnucpro.errors import ModelError
from virnucpro.models.weights import read_pickled, read_safetensors, weight_files

if TYPE_CHECKING:
    import torch

DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


def convert_directory(directory: Path) -> bool:
    """Make a model directory's weights safetensors and drop the `.bin`; False where they are
    already.

    The new files are compared with the old ones, tensor by tensor, before these go. Raises
    ModelError on files that hold anything but tensors.
    """
    sources = weight_files(directory)
    if all(source.suffix == ".safetensors" for source in sources):
        return False
    single = len(sources) == 1
    targets = [
        directory
        / ("model.safetensors" if single else f"model-{i:05d}-of-{len(sources):05d}.safetensors")
        for i in range(1, len(sources) + 1)
    ]
    weight_map: dict[str, str] = {}
    total = 0
    for source, target in zip(sources, targets, strict=True):
        tensors = read_pickled(source)
        write_safetensors(tensors, target)
        check_equal(tensors, target)
        weight_map |= dict.fromkeys(tensors, target.name)
        total += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if not single:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (directory / "model.safetensors.index.json").write_text(
            json.dumps(index, indent=2, sort_keys=True)
        )
    for source in sources:
        source.unlink()
    (directory / "pytorch_model.bin.index.json").unlink(missing_ok=True)
    return True


def write_safetensors(tensors: Mapping[str, torch.Tensor], target: Path) -> None:
    """Write `tensors` as one safetensors file, beside and renamed: 8 bytes of header length, JSON
    header, raw values.
    """
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        if kind not in DTYPES:
            raise ModelError(
                f"{target}: {name} is {kind}, which safetensors files of weights do not hold"
            )
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPES[kind],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    part = target.with_name(target.name + ".part")
    with part.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            out.write(memoryview(_bytes(tensor)))
        out.flush()
        os.fsync(out.fileno())
    os.replace(part, target)


def check_equal(tensors: Mapping[str, torch.Tensor], file: Path) -> None:
    """Raises ModelError unless `file` holds exactly `tensors`."""
    written = read_safetensors(file)
    same = written.keys() == tensors.keys() and all(
        tensor.dtype == written[name].dtype
        and tensor.shape == written[name].shape
        and bool((_bytes(tensor) == _bytes(written[name])).all())
        for name, tensor in tensors.items()
    )
    if not same:
        raise ModelError(f"{file}: was not written as it should be (is the disk sound?); try again")


def _bytes(tensor: torch.Tensor):
    """The values as a numpy array of bytes; a view where the tensor is contiguous."""
    import torch

    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
