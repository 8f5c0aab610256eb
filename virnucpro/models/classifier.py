"""The classifier: feature rows to two scores, others and virus.

Knows the MLP's shape, its two file formats, and how to score so that the bits of a row depend on
that row alone. Does not know what the features are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn.functional import batch_norm, linear, softmax

from virnucpro.errors import ModelError
from virnucpro.models.packing import ROW_BLOCK
from virnucpro.models.weights import load_restricted, read_state_dict

TENSORS = (
    "hidden_layer.weight",
    "hidden_layer.bias",
    "bn1.weight",
    "bn1.bias",
    "bn1.running_mean",
    "bn1.running_var",
    "output_layer.weight",
    "output_layer.bias",
)


class Rows(Protocol):
    """Feature rows [n, width], read a slice at a time: an array, a tensor, or rows that lie
    elsewhere.
    """

    @property
    def shape(self) -> Any: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> Any: ...


class MLPClassifier(nn.Module):
    """Stand-in for the original's class of this name: only a place for the tensors of its pickle,
    never called.
    """


@dataclass(frozen=True, slots=True)
class Classifier:
    """hidden_layer, bn1, relu, (dropout: nothing at inference), output_layer, softmax; fp32 on the
    CPU.
    """

    tensors: dict[str, torch.Tensor]
    eps: float = 1e-5

    @classmethod
    def load(cls, path: Path | str) -> Classifier:
        """From `.safetensors`, a state dict, or the original's pickled module (read, not
        executed).
        """
        path = Path(path)
        if not path.is_file():
            raise ModelError(
                f"{path}: no such classifier file; give a .safetensors or the original's .pth"
            )
        eps = 1e-5
        if path.suffix == ".safetensors":
            found = read_state_dict(path)
        else:
            found, eps = read_original(path)
        return cls(checked(found, path), eps)

    def save(self, path: Path | str) -> None:
        """Write `.safetensors` with the original's names."""
        from safetensors.torch import save_file

        if self.eps != 1e-5:
            raise ModelError(
                f"{path}: batch norm eps {self.eps} is not the usual 1e-5; keep this classifier's"
                " .pth"
            )
        save_file(self.tensors, path)

    @property
    def width(self) -> int:
        """Columns of a feature row."""
        return self.tensors["hidden_layer.weight"].shape[1]

    @torch.inference_mode()
    def scores(self, features: Rows) -> np.ndarray:
        """Softmax scores float32 [n, 2] (others, virus) of features [n, width]; NaN for a row that
        is not finite.
        """
        if len(features.shape) != 2 or features.shape[1] != self.width:
            raise ModelError(
                f"features of shape {tuple(features.shape)} do not fit a classifier of width"
                f" {self.width}"
            )
        out = np.empty((len(features), 2), np.float32)
        size = block_rows()
        block = torch.zeros(size, self.width)
        for start in range(0, len(features), size):
            part = features[start : start + size]
            # by numpy: torch warns of memory that is mapped for reading
            block.numpy()[: len(part)] = part
            out[start : start + len(part)] = self._block(block)[: len(part)].numpy()
        return out

    def _block(self, block: torch.Tensor) -> torch.Tensor:
        t = self.tensors
        hidden = linear(block, t["hidden_layer.weight"], t["hidden_layer.bias"])
        hidden = batch_norm(
            hidden,
            t["bn1.running_mean"],
            t["bn1.running_var"],
            t["bn1.weight"],
            t["bn1.bias"],
            eps=self.eps,
        )
        return softmax(
            linear(hidden.relu(), t["output_layer.weight"], t["output_layer.bias"]), dim=1
        )


def block_rows() -> int:
    """Rows a product, always the same and an even share for every thread: so a row's bits depend on
    the row alone.
    """
    share = ROW_BLOCK * torch.get_num_threads()
    return share * max(1, 768 // share)


def checked(found: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """The eight tensors in fp32, contiguous, their shapes consistent."""
    missing = [name for name in TENSORS if name not in found]
    if missing:
        raise ModelError(f"{path}: not a VirNucPro classifier, {missing[0]} is missing")
    tensors = {name: found[name].float().contiguous() for name in TENSORS}
    weight = tensors["hidden_layer.weight"]
    hidden = weight.shape[0]
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wanted = {name: (hidden,) for name in TENSORS} | {
        "hidden_layer.weight": tuple(weight.shape),
        "output_layer.weight": (2, hidden),
        "output_layer.bias": (2,),
    }
    if weight.ndim != 2 or shapes != wanted:
        wrong = next((name for name in TENSORS if shapes[name] != wanted[name]), TENSORS[0])
        raise ModelError(
            f"{path}: {wrong} is {shapes[wrong]}; a classifier has two classes and one hidden layer"
        )
    return tensors


def read_original(path: Path) -> tuple[dict[str, torch.Tensor], float]:
    """Tensors and batch norm eps of a `.pth`: a state dict, or the whole module as the original
    pickles it.
    """
    allowed = (
        (MLPClassifier, "__main__.MLPClassifier"),
        nn.Linear,
        nn.BatchNorm1d,
        nn.Dropout,
        set,
    )
    loaded = load_restricted(path, allowed)
    if isinstance(loaded, MLPClassifier):
        # The attributes are read as data: no method of an object from a file is called.
        try:
            modules = vars(loaded)["_modules"]
            tables = {name: vars(modules[name]) for name in ("hidden_layer", "bn1", "output_layer")}
            found = {
                f"{name}.{key}": tensor
                for name, table in tables.items()
                for key, tensor in (table["_parameters"] | table["_buffers"]).items()
            }
            return found, float(tables["bn1"]["eps"])
        except (KeyError, TypeError, AttributeError):
            raise ModelError(
                f"{path}: not a VirNucPro classifier; it lacks hidden_layer, bn1 or output_layer"
            ) from None
    if isinstance(loaded, dict):
        return {
            str(name): value for name, value in loaded.items() if isinstance(value, torch.Tensor)
        }, 1e-5
    raise ModelError(f"{path}: not a VirNucPro classifier but a {type(loaded).__name__}")
