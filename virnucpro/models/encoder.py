"""What the rest of the program sees of a model: packed tokens in, one fp32 vector a sequence out.

Knows how an encoder is loaded, run, pooled, and computed again in fp32 where 16 bits overflowed;
does not know an architecture: a subclass says what is its own.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from virnucpro.errors import ModelError
from virnucpro.models.choices import compute_dtype
from virnucpro.models.fast.self_check import FastPathError, plain_instead
from virnucpro.models.packing import PackedBatch, even_rows, pool
from virnucpro.models.weights import FLOATS
from virnucpro.settings import Choice

# weights of a layer, but for what is computed again; and of a norm that ESM-1 has
OF_A_LAYER = re.compile(r"encoder\.layer\..*(?<!\.inv_freq)$|embeddings\.layer_norm\.")
# to final hidden states [T, width] in the compute dtype
Forward = Callable[[PackedBatch], torch.Tensor]


class Encoder(ABC):
    """A frozen encoder on one device.

    An architecture is a subclass that sets the attributes and methods declared first.
    """

    name: str  # as in the registry
    layers: str  # how the choice of its layers is called
    skip: int  # special tokens at each end of a sequence that stay out of its mean
    # tokens; what is shorter stays in 16 bits. None: --precision int8 leaves all in bf16
    shortest_int8: int | None

    @staticmethod
    @abstractmethod
    def read(directory: Path, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
        """The network of a directory with config.json and weights. Raises ModelError."""

    @staticmethod
    @abstractmethod
    def choose_forward(
        model: Any, device: torch.device, precision: str, compile: str
    ) -> tuple[Forward, tuple[Choice, ...]]:
        """How the network is run, and why: the one place where a faster way takes the plain one's.
        May take its layers over.
        """

    def __init__(
        self,
        model: Any,
        device: torch.device,
        precision: str,
        compile: str = "auto",
        rescue: Fp32Rescue | None = None,
    ):
        self.device, self.precision = device, self.own(precision)
        self.width, self.pad_id = model.config.hidden_size, model.config.pad_token_id
        # of all; a forward may take some over
        self.weights = sum(weight.numel() for weight in model.parameters())
        self.model = model
        self.in_16_bits_below = (self.shortest_int8 or 0) if self.precision == "int8" else 0
        self._forward, self.choices = self.choose_forward(model, device, self.precision, compile)
        self._rescue = rescue

    @classmethod
    def load(
        cls,
        directory: Path | str,
        device: torch.device | str,
        precision: str,
        compile: str = "auto",
    ) -> Encoder:
        """The encoder of a directory; on the plain layers where the fast ones fail their check.
        Raises ModelError.
        """
        directory, device, precision = Path(directory), torch.device(device), cls.own(precision)
        model = cls.read(directory, device, compute_dtype(precision))
        try:
            return cls(model, device, precision, compile, Fp32Rescue(cls.load, directory, device))
        except FastPathError as error:
            failure = str(error)
        del model  # half of its layers may be rearranged
        return plain_instead(
            failure,
            cls.layers,
            precision,
            compile,
            lambda: cls.load(directory, device, precision, compile="off"),
        )

    @classmethod
    def own(cls, precision: str) -> str:
        """The precision in which this architecture computes where a run asks for `precision`."""
        return "bf16" if precision == "int8" and cls.shortest_int8 is None else precision

    @torch.inference_mode()
    def embed(self, batch: PackedBatch) -> torch.Tensor:
        """fp32 [batch.rows, width] on `device`, rows in the order given to `pack`."""
        return pool(self.hidden(batch), batch, self.skip)

    def hidden(self, batch: PackedBatch) -> torch.Tensor:
        """Final hidden states [T or more, width] in the compute dtype, in packed order."""
        return self._forward(even_rows(batch, self.pad_id))

    def recompute_fp32(self, batch: PackedBatch) -> torch.Tensor:
        """What `embed` gives, in fp32 from the full weights: for rows that came out infinite or NaN
        in 16 bits.
        """
        if self._rescue is None:
            raise ModelError(
                "this encoder was not loaded from a directory: nothing to compute in fp32 from"
            )
        return self._rescue(batch)


class Fp32Rescue:
    """The fp32 twin of an encoder, loaded when first needed; on the CPU where the device has no
    room for it.
    """

    def __init__(self, load: Callable[..., Encoder], directory: Path, device: torch.device):
        self._load, self._directory, self._device = load, directory, device
        self._twin: Encoder | None = None

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        """fp32 [rows, width] on the encoder's device."""
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


def assign_weights(
    model: Any,
    tensors: dict[str, torch.Tensor],
    device: torch.device,
    dtype: torch.dtype,
    source: Path,
) -> None:
    """Give `model` (built on the meta device) its weights, one tensor at a time, in `dtype` on
    `device`.

    Raises ModelError when a weight is missing, of another shape or kind, or of a layer that the
    model does not have. Other tensors that it has no place for (heads of other tasks) are left out.
    """
    wanted = dict(model.named_parameters())
    extra = [name for name in tensors if OF_A_LAYER.match(name) and name not in wanted]
    if extra:
        raise ModelError(
            f"{source}: {len(extra)} weights that config.json has no place for ({extra[0]} ...);"
            " config and weights do not belong together"
        )
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise ModelError(
            f"{source}: {len(missing)} weights missing ({missing[0]} ...); another architecture, or"
            " an incomplete file: download it again"
        )
    for name, parameter in wanted.items():
        if tensors[name].shape != parameter.shape:
            raise ModelError(
                f"{source}: {name} is {tuple(tensors[name].shape)} but {tuple(parameter.shape)} by "
                "config.json; config and weights do not belong together"
            )
        if str(tensors[name].dtype) not in FLOATS:
            raise ModelError(
                f"{source}: {name} holds {tensors[name].dtype}, not floating point numbers; take"
                " weights that are not quantized"
            )
    # moved first and rounded there: on the host that would be one core's work for as long as the
    # file takes to read
    state = {name: tensors[name].to(device).to(dtype) for name in wanted}
    model.load_state_dict(state, strict=False, assign=True)
    model.eval().requires_grad_(False)
