"""What the rest of the program sees of a model: packed tokens in, one fp32 vector a sequence out.

Knows the contract of `Encoder` and the rescue of rows that overflowed; does not know an architecture.
"""
from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from virnucpro.errors import ModelError
from virnucpro.models.packing import PackedBatch
from virnucpro.settings import Choice


class Encoder(Protocol):
    """A frozen encoder on one device."""

    name: str  # "esm2" or "dnabert_s"
    width: int  # of an embedding
    longest: int | None  # most tokens of a sequence, special ones included
    pad_id: int
    precision: str
    device: torch.device
    choices: tuple[Choice, ...]

    def embed(self, batch: PackedBatch) -> torch.Tensor:
        """fp32 [batch.rows, width] on `device`, rows in the order given to `pack`."""

    def recompute_fp32(self, batch: PackedBatch) -> torch.Tensor:
        """The same in fp32 from the full weights: for rows that came out infinite or NaN in 16 bits."""


class Fp32Rescue:
    """The fp32 twin of an encoder, loaded when first needed; on the CPU where the device has no room for it."""

    def __init__(self, load, directory: Path, device: torch.device):
        self._load, self._directory, self._device = load, directory, device
        self._twin: Encoder | None = None

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        try:
            return self._on(self._device, batch)
        except torch.OutOfMemoryError:
            self._twin = None
            torch.cuda.empty_cache()
        return self._on(torch.device("cpu"), batch)

    def _on(self, device: torch.device, batch: PackedBatch) -> torch.Tensor:
        if self._twin is None:
            self._twin = self._load(self._directory, device, "fp32")
        return self._twin.embed(batch.to(self._twin.device)).to(self._device)


def assign_weights(model: torch.nn.Module, tensors: dict[str, torch.Tensor], device: torch.device, dtype: torch.dtype,
                   source: Path) -> None:
    """Give `model` (built on the meta device) its weights, one tensor at a time, in `dtype` on `device`.

    Raises ModelError when a weight is missing or of another shape. Tensors the model has no place for are left out
    (heads of other tasks).
    """
    wanted = dict(model.named_parameters())
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise ModelError(f"{source}: {len(missing)} weights missing ({missing[0]} ...); another architecture, or an "
                         "incomplete file: download it again")
    for name, parameter in wanted.items():
        if tensors[name].shape != parameter.shape:
            raise ModelError(f"{source}: {name} is {tuple(tensors[name].shape)} but {tuple(parameter.shape)} by "
                             "config.json; config and weights do not belong together")
    # moved first and rounded there: on the host that would be one core's work for as long as the file takes to read
    state = {name: tensors[name].to(device).to(dtype) for name in wanted}
    model.load_state_dict(state, strict=False, assign=True)
    model.eval().requires_grad_(False)
